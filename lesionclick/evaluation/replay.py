"""Replay of the platform: Task 1's eleven steps, and the way in for the cases of both tasks.

Step k of a PET/CT case is a job that sees the first k tumour and the first k background clicks; see
`lesionclick.evaluation.jobs` for what a job is, and `lesionclick.evaluation.followup_replay` for Task 2's steps.
"""

import logging
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lesionclick.errors import InputError
from lesionclick.evaluation import followup_replay
from lesionclick.evaluation.followup_replay import FollowupReplay
from lesionclick.evaluation.jobs import Output, Run, read_volume, run_job
from lesionclick.evaluation.measures import Scores, score
from lesionclick.grand_challenge.interfaces import LESION_CLICKS, TUMOR_LESION_SEGMENTATION, find_interface
from lesionclick.images import Volume, require_same_grid
from lesionclick.petct.case import PetCtCase
from lesionclick.prompts.points import Click, at_step, clicks_from_indices
from lesionclick.simulation.readers import corrective_pair

logger = logging.getLogger(__name__)

STEPS = tuple(range(11))
"""The challenge's steps: step 0 has no click, step 10 has ten of each kind."""

_RULES = re.compile(r"rules: corrected (\d+) of \d+ tumour and (\d+) of \d+ background clicks, removed (\d+) unmarked")
"""The line in which `lesionclick.petct.session` logs how often its rules acted."""


@dataclass(frozen=True)
class Step:
    """One job.

    Attributes
    ----------
    number : int
        The challenge's number of the step.
    clicks : tuple of Click
        What the job saw.
    mask : Path
        What it left, a file of the replay's output.
    scores : Scores, optional
        Where there is a label.
    seconds : float
        How long it took.
    acted : (int, int, int), optional
        How often the rules after the network acted, where the job's log tells: tumour and background clicks that were
        corrected, components that were removed.
    """

    number: int
    clicks: tuple[Click, ...]
    mask: Path
    scores: Scores | None
    seconds: float
    acted: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Replay:
    """All steps of one PET/CT case, with the images that a report shows."""

    name: str
    pet: Volume
    label: Volume | None
    steps: tuple[Step, ...]


def replay_cases(
    cases: Iterable[Path],
    run: Run,
    output: Path,
    *,
    steps: Sequence[int] = STEPS,
    labels: Path | None = None,
    corrective: bool = False,
) -> Iterator[Replay | FollowupReplay]:
    """Replay cases of either task one after the other, with a progress bar on a terminal.

    Parameters
    ----------
    cases : iterable of Path
        Case folders in the platform's layout.
    run : callable
        The job, see `lesionclick.evaluation.jobs.Run`.
    output : Path
        Masks go to `<output>/<case>/step_<kk>.mha`, those of Task 2 to `<output>/<case>/step_<kk>_<region>.mha`.
    steps : sequence of int
        Steps of Task 1 to run; Task 2's two are run always.
    labels : Path, optional
        Folder of true masks, `<case>.mha` or, for Task 2, `<case>/<region>.mha`. A case without is replayed without a
        score.
    corrective : bool
        Ignore the case's clicks; put each next pair into the largest error of the last mask. For Task 1 alone.

    Raises
    ------
    LesionClickError
        If any step of any case fails or breaks the output contract, with the name of the case and the step.
    """
    interfaces = {folder: find_interface(folder) for folder in cases}
    for folder, interface in interfaces.items():
        if corrective and interface.task != "task1":
            raise InputError(f"{folder.name}: corrective clicks need a PET/CT case, found {interface.name}")
    for folder, interface in interfaces.items():
        if interface.task == "task2":
            truth = labels / folder.name if labels else None
            yield followup_replay.replay_case(folder, run, output / folder.name, labels=truth)
            continue
        path = labels / f"{folder.name}.mha" if labels else None
        if path and not path.is_file():
            logger.warning("%s: no label %s, steps are not scored", folder.name, path)
            path = None
        yield replay_case(folder, run, output / folder.name, steps=steps, label=path, corrective=corrective)


def replay_case(
    folder: Path,
    run: Run,
    output: Path,
    *,
    steps: Sequence[int] = STEPS,
    label: Path | None = None,
    corrective: bool = False,
) -> Replay:
    """Replay one PET/CT case; the arguments are those of `replay_cases`, `output` and `label` of this case alone."""
    case = PetCtCase.read(folder)
    truth = read_volume(label) if label else None
    if truth:
        require_same_grid(truth, case.pet, "label", "PET")
    if corrective and (truth is None or tuple(steps) != tuple(range(len(steps)))):
        raise InputError(f"{folder.name}: corrective clicks need a label and steps 0, 1, 2, ..., found {list(steps)}")

    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    clicks = () if corrective else case.clicks
    done = []
    for number in tqdm(steps, desc=folder.name, unit="step", disable=None):
        given = at_step(clicks, number)
        mask = output / f"step_{number:02d}.mha"
        owed = Output(TUMOR_LESION_SEGMENTATION, case.stem, case.pet.grid, "PET", mask)
        seconds, log = run_job(folder, number, {LESION_CLICKS: given}, run, [owed])
        prediction = read_volume(mask)
        scores = score(truth.array, prediction.array, prediction.grid.voxel_ml) if truth else None
        done.append(Step(number, given, mask, scores, seconds, _find_acted(log)))
        if corrective and truth:
            clicks += _corrective_clicks(truth, prediction, rng)
    return Replay(folder.name, case.pet, truth, tuple(done))


def _find_acted(log: str) -> tuple[int, int, int] | None:
    found = _RULES.search(log)
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def _corrective_clicks(label: Volume, prediction: Volume, rng: np.random.Generator) -> tuple[Click, ...]:
    tumor, background = (
        np.empty((0, 3), dtype=np.int64) if click is None else click[None]
        for click in corrective_pair(label.array > 0, prediction.array > 0, rng)
    )
    return clicks_from_indices(tumor, background)
