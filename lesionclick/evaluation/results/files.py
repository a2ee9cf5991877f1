"""Runs read from what `lesionclick cohort`, `lesionclick replay` and the benchmarks leave, and written to one file.

The file of results is JSON: ``{"runs": [...]}``. Each run has ``name``, ``task``, the texts of `Origin`, and ``cases``
by name, each with ``group``, ``error`` and ``steps``: the values by number of the step and key of the measure. A value
that is not defined is null.
"""

import csv
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from lesionclick.errors import InputError
from lesionclick.evaluation.expected import ScoreFile, read_scores
from lesionclick.evaluation.json_files import Values, read_json
from lesionclick.evaluation.measures import LESIONS, MEASURES, Scores
from lesionclick.evaluation.records import CohortFolder, OptionsRecord, Record
from lesionclick.evaluation.results.challenge import CHALLENGES
from lesionclick.evaluation.results.runs import ALL, OTHER, CaseFiles, CaseResult, Origin, RunResult, tracer_in
from lesionclick.images import replacing
from lesionclick.prompts.spec import TaskName

RECORDS = "records"
"""Folder of a cohort's records."""

SCORES = "scores.json"
"""Scores of a replay, below its output folder."""

RESULTS = "results.json"
"""What an evaluation leaves in its output folder."""

Groups = Mapping[str, str]
"""Group of each case by its name."""


@dataclass(frozen=True)
class _Case:
    """A case in a file of results."""

    group: str
    error: str | None
    steps: dict[int, Values]


@dataclass(frozen=True, kw_only=True)
class _Run(Origin):
    """A run in a file of results."""

    name: str
    task: TaskName
    cases: dict[str, _Case]


@dataclass(frozen=True)
class _Results:
    """A file of results."""

    runs: list[_Run]


_RESULTS = TypeAdapter(_Results)
_ANY = TypeAdapter(dict[str, Any])


def read_runs(path: Path, groups: Groups | None = None) -> list[RunResult]:
    """Read the runs that a folder or a file holds, one for each task and name.

    Parameters
    ----------
    path
        Output folder of `lesionclick cohort`, `replay` or `evaluate`, or a JSON file of results or scores.
    groups
        What the tables are split by. A case that is not there has the group that the file tells, else the tracer in its
        name.

    Raises
    ------
    InputError
        If there is nothing of the kind, it is broken or holds no scores, or the records of a task are of several models
        or options.
    """
    name = Path(os.path.abspath(path)).name
    if (path / RECORDS).is_dir():
        runs = _read_records(path, name)
    elif (path / SCORES).is_file():
        runs = _from_scores(read_scores(path / SCORES), name)
    elif path.is_file() or (path / RESULTS).is_file():
        runs = _read_file(path if path.is_file() else path / RESULTS)
    else:
        wanted = f"a folder with {RECORDS}, {SCORES} or {RESULTS} in it, or a file of results"
        raise InputError(f"{path}: expected {wanted}, found {'none of them' if path.exists() else 'nothing'}")
    if not runs:
        raise InputError(f"{path}: expected scores of cases, found none; were there labels?")
    groups = groups or {}
    return [
        replace(run, cases=[replace(case, group=groups.get(case.name, case.group)) for case in run.cases])
        for run in runs
    ]


def read_groups(path: Path) -> dict[str, str]:
    """Read a table of two columns with the head ``case,group``: names, and tracer or hospital for example.

    Raises
    ------
    InputError
        If it is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:  # with or without the mark that Excel writes
            head, *rows = [row for row in csv.reader(file) if row] or [[]]  # without empty lines
        if head != ["case", "group"]:
            raise ValueError(f"the head {','.join(head)}")
        if wrong := [row for row in rows if len(row) != 2 or not all(row)]:
            raise ValueError(f"the row {','.join(wrong[0])}")
        if ALL in (groups := [group for _, group in rows]):
            raise ValueError(f"the group {ALL}, which the tables call all cases together")
        cases = Counter(case for case, _ in rows)
        if twice := [case for case, count in cases.items() if count > 1]:
            raise ValueError(f"{twice[0]} several times")
        return dict(zip(cases, groups, strict=True))
    except (OSError, ValueError, csv.Error) as error:
        raise InputError(f"{path}: expected the head case,group and rows of these, found {error}") from error


def write_runs(path: Path, runs: Sequence[RunResult]) -> None:
    """Write runs as a file of results; it appears whole or not at all."""
    content = _Results([_of_run(run) for run in runs])
    write_text(path, _RESULTS.dump_json(content, indent=1).decode() + "\n")


def _of_run(run: RunResult) -> _Run:
    cases = {
        case.name: _Case(case.group, case.error, {number: _defined(one) for number, one in case.steps.items()})
        for case in run.cases
    }
    return _Run(name=run.name, task=run.task, cases=cases, **asdict(run.origin))


def _defined(scores: Scores) -> Values:
    return {key: None if math.isnan(value) else float(value) for key, value in scores.items()}


def write_text(path: Path, text: str) -> None:
    """Write a text file, which appears whole or not at all; `InputError` if it cannot be written."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def _read_file(path: Path) -> list[RunResult]:
    expected = "a JSON file of results"
    if "runs" not in read_json(_ANY, path, expected):
        return _from_scores(read_scores(path), path.stem)
    return [_run_of(entry) for entry in read_json(_RESULTS, path, expected).runs]


def _run_of(entry: _Run) -> RunResult:
    cases = [
        CaseResult(name, case.group or OTHER, _steps_of(case.steps), case.error)
        for name, case in sorted(entry.cases.items())
    ]
    origin = Origin(**{field.name: getattr(entry, field.name) for field in fields(Origin)})
    return RunResult(entry.name, entry.task, cases, origin)


def _steps_of(steps: Mapping[Any, Mapping[str, float | None]]) -> dict[int, Scores]:
    return {int(number): _scores_of(values) for number, values in steps.items()}


def _scores_of(values: Mapping[str, float | None]) -> Scores:
    unknown = sorted(set(values) - set(MEASURES))
    if unknown:
        raise ValueError(f"unknown measure {unknown[0]!r}")
    return Scores({key: math.nan if value is None else float(value) for key, value in values.items()})


def _from_scores(scores: ScoreFile, name: str) -> list[RunResult]:
    by_task: dict[TaskName, list[CaseResult]] = {}
    for case, rows in sorted(scores.items()):
        steps = _steps_of(rows)
        task: TaskName = "task2" if any(LESIONS[0].key in row for row in steps.values()) else "task1"
        by_task.setdefault(task, []).append(CaseResult(case, tracer_in(case), steps))
    return [RunResult(name, task, cases) for task, cases in by_task.items()]


def _read_records(path: Path, name: str) -> list[RunResult]:
    folder = CohortFolder(path)
    records = list(folder.records())
    if not records:
        raise InputError(f"{path / RECORDS}: expected records of cases, found none")
    tasks = [task for task in CHALLENGES if any(record.task == task for record in records)] or ["task1"]
    # A case whose folder could not be opened tells no task; it is shown with the first one.
    by_task = {task: [record for record in records if (record.task or tasks[0]) == task] for task in tasks}
    _require_one_run(path, by_task)
    runs = []
    for task, own in by_task.items():
        model = max(record.model for record in own)  # a case that failed early tells none
        runs.append(RunResult(name, task, [_case_of(record, task, folder) for record in own], Origin(model=model)))
    return runs


def _require_one_run(path: Path, by_task: Mapping[TaskName, Sequence[Record]]) -> None:
    """Refuse records of several models or options in a task, whose means would be of neither.

    A case that failed before its model was known has no part in it.
    """
    found = []
    for task, records in by_task.items():
        counts = Counter((one.model, one.options) for one in records if one.done or one.model)
        if len(counts) > 1:
            kinds = [f"{count} of {_describe_kind(*kind)}" for kind, count in counts.most_common()]
            found.append(f"{task} {', '.join(kinds)}")
    if found:
        raise InputError(
            f"{path}: expected records of one model and the same options in each task, found {'; '.join(found)}; "
            "finish the cohort with one of them, or delete the records of the others; runs to compare need two folders"
        )


def _describe_kind(model: str, options: OptionsRecord) -> str:
    steps = "all clicks" if options.steps is None else f"steps {' '.join(map(str, options.steps))}"
    words = [steps, *(["exact"] if options.exact else [])]
    words += [f"container {options.container}"] if options.container else []
    return f"{f'model {model}' if model else 'an unknown model'} ({', '.join(words)})"


def _case_of(record: Record, task: TaskName, folder: CohortFolder) -> CaseResult:
    # A job that sees all clicks of its case is what the challenge's last step is.
    steps = {CHALLENGES[task].steps[-1] if step.step is None else step.step: step for step in record.steps}
    masks = {
        number: {slug: folder.folder / path for slug, path in step.masks.items()} for number, step in steps.items()
    }
    try:
        scores = {number: _scores_of(step.scores) for number, step in steps.items() if step.scores is not None}
    except ValueError as problem:
        path = folder.record_path(record.case)
        raise InputError(f"{path}: expected measures that are known, found {problem}") from problem
    labels = {slug: Path(path) for slug, path in record.labels.items()}
    error = f"{record.error.type}: {record.error.message}" if record.error else None
    files = CaseFiles(Path(record.path), labels, masks) if masks and labels else None
    return CaseResult(record.case, tracer_in(record.case), scores, error, files)
