"""What evaluation does for each task: the one place that maps a task to its replay and to its part of the report."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionclick.evaluation import longitudinal_replay, longitudinal_report, petct_replay, petct_report
from lesionclick.evaluation.jobs import Run
from lesionclick.evaluation.petct_figures import write_picture
from lesionclick.evaluation.results import pictures
from lesionclick.evaluation.results.pictures import CaseView
from lesionclick.evaluation.results.runs import CaseResult
from lesionclick.evaluation.steps import Options, Replay, Result
from lesionclick.evaluation.tables import Table
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.prompts.spec import TaskName


@dataclass(frozen=True)
class Evaluation:
    """A task's.

    Attributes
    ----------
    name, subject
        Titles of its part of the report.
    kind
        What `replay` returns.
    replay
        Replays a case with a run into an output folder.
    template
        File in `templates` with the macros `introduction`, `notes`, `pictures` and `card`.
    summarise
        Makes the table over the results of its replays.
    make_card
        Makes what the macro `card` shows of one replay.
    view
        Shows a case of a finished run again.
    write_picture
        Writes one picture of its first replays, where there is one.
    takes_corrections
        Whether clicks or strokes can be put where the last mask was wrong.
    """

    name: str
    subject: str
    kind: type[Replay[Any]]
    replay: Callable[[CaseFolder, Run, Path, Options], Replay[Any]]
    template: str
    summarise: Callable[[Sequence[Result[Any]]], Table]
    make_card: Callable[[Any], object]
    view: Callable[[CaseResult], CaseView]
    write_picture: Callable[[Path, Sequence[Any]], None] | None = None
    takes_corrections: bool = False


EVALUATIONS: Mapping[TaskName, Evaluation] = {
    "task1": Evaluation(
        "Task 1",
        "click by click",
        petct_replay.PetCtReplay,
        petct_replay.replay_case,
        "petct.html",
        petct_report.summarise,
        petct_report.make_card,
        pictures.view_petct,
        write_picture,
        takes_corrections=True,
    ),
    "task2": Evaluation(
        "Task 2",
        "lesion by lesion",
        longitudinal_replay.LongitudinalReplay,
        longitudinal_replay.replay_case,
        "longitudinal.html",
        longitudinal_report.summarise,
        longitudinal_report.make_card,
        pictures.view_longitudinal,
    ),
}
