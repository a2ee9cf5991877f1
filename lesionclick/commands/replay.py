"""The command `replay`."""

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import ArgumentCollection, Group, Parameter
from cyclopts.validators import mutually_exclusive

from lesionclick.commands.options import read_steps

if TYPE_CHECKING:
    from lesionclick.evaluation.expected import ScoreFile
    from lesionclick.evaluation.jobs import Done, Run
    from lesionclick.petct.rules import RulesActed


def _require_engine_and_image(arguments: ArgumentCollection) -> None:
    given = [argument.name for argument in arguments if argument.has_tokens]
    if given and not {"--engine", "--image"} <= set(given):
        raise ValueError(f"expected --engine together with --image, found {' and '.join(given)} alone")


_Steps = Annotated[
    tuple[int, ...] | None,
    Parameter(converter=read_steps, n_tokens=1, metavar="FIRST..LAST", show_default="all of the challenge"),
]
_CLICKS = Parameter(group=Group(show=False, validator=mutually_exclusive))
_CONTAINER = Parameter(group=Group("In a container", validator=_require_engine_and_image))


def replay(
    cases: Path,
    /,
    *,
    output: Path = Path("out/replay"),
    labels: Path | None = None,
    model: Path | None = None,
    steps: _Steps = None,
    challenge: Annotated[Literal["autopet4", "autopet5"], _CLICKS] = "autopet4",
    corrective: Annotated[bool, _CLICKS] = False,
    expected: Annotated[Path | None, _CLICKS] = None,
    write_expected: Path | None = None,
    engine: Annotated[str | None, _CONTAINER] = None,
    image: Annotated[str | None, _CONTAINER] = None,
    invoke: Annotated[bool, _CONTAINER] = False,
) -> int:
    """Run the platform's steps on cases, score the masks, and write a report.

    For example:

        lesionclick replay out/cases --labels out/labels --output out/replay

    Parameters
    ----------
    cases
        Folder of cases of either task in the platform's layout, or one case.
    output
        Folder for the masks, `scores.json`, `report.html` and a picture of the first five cases of Task 1.
    labels
        Folder of true masks, `<case>.mha`; for Task 2 `<case>/<region>.mha`.
    model
        Model folder, or one with folders `task1` and `task2`; by default `/opt/ml/model`, else the embedded one of
        the task.
    steps
        Steps of Task 1's cases; those of Task 2 have steps 0 and 1 always.
    challenge
        autopet4 shows the case's clicks, at step k the first k of each kind. autopet5 draws a scribble into the largest
        error of each mask, at steps 0 to 5, and scores as that challenge does (Task 1).
    corrective
        Put each next click pair in the largest error (Task 1).
    expected
        File of scores to compare with; exit code 1 on any difference.
    write_expected
        File to write the scores to, for `--expected`.
    engine
        Container engine, such as docker or podman, which runs each job instead of this process.
    image
        Container image.
    invoke
        Start one server for all jobs.

    Returns
    -------
    int
        Exit code: 1 where scores are not as expected.
    """
    from lesionclick.evaluation.expected import read_scores, scores_of, write_scores
    from lesionclick.evaluation.jobs import find_cases
    from lesionclick.evaluation.replay import replay_cases
    from lesionclick.evaluation.report import Report, remove_report
    from lesionclick.evaluation.steps import Options
    from lesionclick.evaluation.tables import areas_text, steps_text

    options = Options(steps, labels, corrective, challenge)
    folders = find_cases(cases)
    wanted = read_scores(expected) if expected else None
    runner: AbstractContextManager[tuple[Run, str]]
    if engine and image:
        runner = _in_containers(engine, image, model, invoke=invoke)
    else:
        runner = nullcontext(_in_this_process(folders, model))
    report = Report(output)
    forget = cache(remove_report)  # once, and not before the first job: a command that is refused leaves all as it is
    with runner as (run, where):

        def job(input_dir: Path, output_dir: Path) -> "Done | RulesActed | None":
            forget(output)
            return run(input_dir, output_dir)

        for one in replay_cases(folders, job, output, options):
            report.add(one)
            print(f"\n{steps_text(one.result)}", flush=True)
            del one  # its images make room for the next case's
    if challenge == "autopet5":
        print(f"\n{areas_text(report.results)}")
    print(f"report: {report.write(run=where)}")

    scores = scores_of(report.results)
    if write_expected:
        write_scores(write_expected, scores, digits=4)
    if wanted is None:
        return 0
    if folders == [Path(os.path.abspath(cases))]:
        wanted = {name: rows for name, rows in wanted.items() if name == folders[0].name}
    return _compare(wanted, scores, options.numbers)


def _in_this_process(folders: Sequence[Path], model: Path | None) -> tuple["Run", str]:
    """Return what runs a job of any of the cases, and its description."""
    from lesionclick.algorithm import Algorithm
    from lesionclick.grand_challenge.case_folder import CaseFolder
    from lesionclick.tasks import task_of

    tasks = {task.name: task for task in (task_of(CaseFolder.open(folder)) for folder in folders)}
    algorithm = Algorithm.load(model, tasks=tasks)  # before the first job, so that no step's seconds hold it
    return algorithm.handle, f"in one process on {algorithm.model(next(iter(tasks.values()))).device}"


@contextmanager
def _in_containers(engine: str, image: str, model: Path | None, *, invoke: bool) -> Iterator[tuple["Run", str]]:
    """Give what runs a job of any case, and its description."""
    from lesionclick.evaluation.engine import Engine

    found = Engine.find(engine, image, model)
    where = f"container image {image} under {engine}, {'GPU' if found.gpu else 'CPU'}"
    if invoke:
        with found.serve() as server:
            yield server, f"server in {where}"
    else:
        yield found, where


def _compare(wanted: "ScoreFile", found: "ScoreFile", steps: Sequence[int]) -> int:
    """Print where scores differ, and return the exit code."""
    from lesionclick.evaluation.expected import differences

    different = differences(wanted, found, steps)
    for one in different:
        print(f"DIFFERENT  {one.case}  step {one.step:>2}  {one.measure}: expected {one.expected}, found {one.found}")
    print(f"scores: {len(different)} differ from the expected ones" if different else "scores: all as expected")
    return 1 if different else 0
