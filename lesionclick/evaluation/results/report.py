"""The evaluation of finished runs: one HTML file that needs nothing else, one CSV file, one JSON file of results."""

import csv
import io
import logging
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

from lesionclick.errors import InputError
from lesionclick.evaluation.figures import DARK, LIGHT, Picture
from lesionclick.evaluation.measures import MEASURES, Measure, Scores
from lesionclick.evaluation.pages import render
from lesionclick.evaluation.registry import EVALUATIONS
from lesionclick.evaluation.report import describe_environment
from lesionclick.evaluation.results import tables
from lesionclick.evaluation.results.challenge import CHALLENGES, Challenge
from lesionclick.evaluation.results.figures import Curve, Values, curves_svg, pairs_svg
from lesionclick.evaluation.results.files import RESULTS, write_runs, write_text
from lesionclick.evaluation.results.pictures import CaseView
from lesionclick.evaluation.results.runs import CaseResult, RunResult
from lesionclick.evaluation.results.statistics import CONFIDENCE, RESAMPLES
from lesionclick.evaluation.results.summary import (
    GroupSummary,
    columns_with_values,
    compare_runs,
    last_steps,
    rank_runs,
    require_values,
    shared_cases,
    summarise,
    values_of,
    with_names,
    worst_first,
)
from lesionclick.evaluation.tables import Table
from lesionclick.grand_challenge.image_files import require_writable
from lesionclick.prompts.spec import TaskName

logger = logging.getLogger(__name__)

Themed: TypeAlias = tuple[Picture, Picture]
"""The same figure for light and for dark paper."""


@dataclass(frozen=True)
class Against:
    """A run compared with the first one."""

    first: str
    second: str
    n_cases: int
    table: Table
    pairs: Themed


@dataclass(frozen=True)
class WorstCase:
    """A case with its place from the bad end, its scores in every run, and what every run made of it.

    Attributes
    ----------
    facts
        Of the case in words, empty where they are not known.
    pictures
        Of all runs.
    missing
        By the name of the run, why there is no picture.
    """

    place: int
    case: CaseResult
    scores: Table
    facts: str
    pictures: Sequence[Picture]
    missing: Mapping[str, str]


@dataclass(frozen=True)
class Part:
    """What the report says about the runs of one task; see the template."""

    template: str
    challenge: Challenge
    measures: Sequence[Measure[Any]]
    runs: Table
    ranking: Table | None
    n_shared: int
    scores: Table
    curves: Themed | None
    against: Sequence[Against]
    order: Table
    worst: Sequence[WorstCase]
    failed: Table | None


def write_evaluation(output: Path, runs: Sequence[RunResult], *, seed: int = 0, worst: int = 6) -> Path:
    """Write `report.html`, `scores.csv` and `results.json` to `output`.

    Parameters
    ----------
    output
        Folder; made if it is not there.
    runs
        Of either task; those of one task are compared with the first of them.
    seed
        Of the resamples for the intervals.
    worst
        How many of the first run's worst cases are shown in pictures.

    Returns
    -------
    Path
        The HTML file.

    Raises
    ------
    InputError
        If no case of a run has scores of the challenge's measures, the cases of a task do not end with the same step,
        its runs have no case in common, or `output` cannot be written.
    """
    runs = with_names(runs)
    by_task = {task: own for task in CHALLENGES if (own := [run for run in runs if run.task == task])}
    for own in by_task.values():
        _require_scores(own)
    require_writable(output)  # before all that takes time
    parts = [_make_part(task, own, seed, worst) for task, own in by_task.items()]
    page = render(
        "evaluation.html",
        parts=parts,
        names=list(dict.fromkeys(run.name for run in runs)),
        environment=describe_environment("evaluated"),
        confidence=f"{100 * CONFIDENCE:.0f}\N{NO-BREAK SPACE}%",
        resamples=RESAMPLES,
        seed=seed,
    )
    write_text(output / "scores.csv", scores_csv(runs))
    write_runs(output / RESULTS, runs)
    path = output / "report.html"
    write_text(path, page)
    return path


def scores_csv(runs: Sequence[RunResult]) -> str:
    """Return a table with a row for each run, case and step, and one for the area over all steps.

    A value that is not defined is left empty; a failed case has one row, with its error.
    """
    keys = {key for run in runs for case in run.cases for scores in case.steps.values() for key in scores}
    shown = [key for key in MEASURES if key in keys]
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(["run", "task", "case", "group", "step", *shown, "error"])
    for run in runs:
        for case in run.cases:
            rows = {str(number): scores for number, scores in sorted(case.steps.items())}
            if (whole := CHALLENGES[run.task].areas(case.steps)) is not None:
                rows["area"] = whole
            for step, scores in (rows or {"": Scores({})}).items():
                values = [scores.get(key, math.nan) for key in shown]
                cells = ["" if math.isnan(value) else repr(value) for value in values]
                writer.writerow([run.name, run.task, case.name, case.group, step, *cells, case.error or ""])
    return buffer.getvalue()


def _require_scores(runs: Sequence[RunResult]) -> None:
    for run in runs:
        require_values(run)
    first = runs[0]
    for run in runs[1:]:
        if not shared_cases([first, run]):
            raise InputError(f"{first.name} and {run.name}: expected cases of the same names, found none in common")
    if len(found := last_steps(runs)) > 1:
        raise InputError(f"{', '.join(run.name for run in runs)}: expected cases with one last step, found {found}")
    if not shared_cases(runs):
        raise InputError(f"{', '.join(run.name for run in runs)}: expected a case that all of them have, found none")


def _make_part(task: TaskName, runs: Sequence[RunResult], seed: int, worst: int) -> Part:
    challenge, columns, first = CHALLENGES[task], columns_with_values(runs), runs[0]
    summaries = {run.name: summarise(run, seed) for run in runs}
    curves = _curves(summaries)
    measures = [column.measure for column in columns if column.kind == "last" and column.weight]
    order = worst_first(first)
    several = len(runs) > 1
    return Part(
        EVALUATIONS[task].template,
        challenge,
        [column.measure for column in columns if column.kind == "last"],
        tables.runs_table(runs),
        tables.ranking_table(rank_runs(runs), columns) if several else None,
        len(shared_cases(runs)),
        tables.scores_table(summaries, columns),
        _draw_curves(curves, measures) if curves else None,
        _against(runs, seed) if several else [],
        tables.cases_table(order, challenge, columns),
        [_worst_case(place, case, runs) for place, case in enumerate(order[:worst], start=1)],
        tables.failed_table(runs),
    )


def _curves(summaries: Mapping[str, Sequence[GroupSummary]]) -> dict[str, Curve]:
    """Return what is drawn over the steps: all cases and the groups of one run, or all cases of each of several."""
    if len(summaries) == 1:
        (groups,) = summaries.values()
        found = {group.name: group.steps for group in (groups[-1], *groups[:-1])}
    else:
        found = {name: groups[-1].steps for name, groups in summaries.items()}
    return {name: steps for name, steps in found.items() if len(steps) > 1}


def _against(runs: Sequence[RunResult], seed: int) -> list[Against]:
    first, *others = runs
    found = []
    for other, compared in zip(others, compare_runs(first, others, seed), strict=True):
        names = shared_cases([first, other])
        a, b = (Values(run.name, values_of(run, names)) for run in (first, other))
        shown = [one.column for one in compared if one.column.kind == "last"]
        light, dark = (pairs_svg(shown, a, b, theme) for theme in (LIGHT, DARK))
        table = tables.comparison_table(first.name, other.name, compared)
        pairs = _themed(light, dark, f"{first.name} and {other.name}, a point for each case")
        found.append(Against(first.name, other.name, len(names), table, pairs))
    return found


def _worst_case(place: int, case: CaseResult, runs: Sequence[RunResult]) -> WorstCase:
    views: dict[str, CaseView] = {}
    missing: dict[str, str] = {}
    in_runs = {run.name: next((one for one in run.scored if one.name == case.name), None) for run in runs}
    for name, found in in_runs.items():
        if found is None:
            missing[name] = "no scores of this case"
            continue
        try:
            views[name] = EVALUATIONS[runs[0].task].view(found)
        except InputError as error:
            missing[name] = str(error)
            logger.warning("%s, %s: no picture: %s", name, case.name, error)
    scores = tables.case_table(in_runs, CHALLENGES[runs[0].task], columns_with_values(runs))
    facts = next((one.facts for one in views.values()), "")
    pictures = [
        replace(picture, caption=f"{name} \N{MIDDLE DOT} {picture.caption}") if len(runs) > 1 else picture
        for name, one in views.items()
        for picture in one.pictures
    ]
    return WorstCase(place, case, scores, facts, pictures, missing)


def _draw_curves(curves: Mapping[str, Curve], measures: Sequence[Measure[Any]]) -> Themed:
    light, dark = (curves_svg(curves, measures, theme) for theme in (LIGHT, DARK))
    return _themed(light, dark, "means over the steps")


def _themed(light: bytes, dark: bytes, caption: str) -> Themed:
    return Picture(light, "svg+xml", caption), Picture(dark, "svg+xml", caption)
