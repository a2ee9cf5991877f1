"""Replay of the platform on cases of either task; see `jobs` for what a job is."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import Run
from lesionclick.evaluation.registry import EVALUATIONS
from lesionclick.evaluation.steps import Options, Replay
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.tasks import task_of


def replay_cases(
    cases: Iterable[Path], run: Run, output: Path, options: Options | None = None
) -> Iterator[Replay[Any]]:
    """Replay cases of either task one after the other, with a progress bar on a terminal.

    Parameters
    ----------
    cases
        Case folders in the platform's layout.
    run
        What handles a job.
    output
        Masks go to `<output>/<case>/step_<kk>.mha`, those of a longitudinal case to `step_<kk>_<region>.mha` there.
    options
        Which steps, with which labels and clicks; all steps, without labels, with the case's own clicks by default.

    Raises
    ------
    LesionClickError
        If any step of any case fails or breaks the output contract, with the name of the case and the step.
    """
    options = options or Options()
    evaluations = {folder: EVALUATIONS[task_of(folder).name] for folder in map(CaseFolder.open, cases)}
    for folder, evaluation in evaluations.items():
        if options.corrections and not evaluation.takes_corrections:
            found = folder.interface.name
            raise InputError(f"{folder.path.name}: {options.corrections} need a PET/CT case, found {found}")
    for folder, evaluation in evaluations.items():
        yield evaluation.replay(folder, run, output / folder.path.name, options)
