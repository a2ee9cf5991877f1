"""Replay of Task 2's two steps: step 0 with empty follow-up click files, step 1 with the case's own.

The baseline is there in full in either step. Where there is a label for every follow-up CT, each step is scored by the
challenge's measures over all body regions together, and lesion by lesion.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import Output, Run, read_volume, run_job
from lesionclick.evaluation.lesions import Lesion, Summary, score_lesions, score_together, summarise, volumes_ml
from lesionclick.evaluation.measures import Scores
from lesionclick.grand_challenge.interfaces import REGIONS, Socket
from lesionclick.images import Volume, require_same_grid
from lesionclick.petct.case import LongitudinalCase
from lesionclick.prompts.points import Click

logger = logging.getLogger(__name__)

STEPS = (0, 1)
"""Task 2's steps: without and with the points of the follow-up."""


@dataclass(frozen=True)
class FollowupStep:
    """One job.

    Attributes
    ----------
    number : int
        The challenge's number of the step.
    points : int
        How many points of the follow-up the job saw.
    masks : mapping of str to Path
        What it left by region, files of the replay's output.
    scores : Scores, optional
        Over all regions together, where there are labels.
    lesions : mapping of str to tuple of Lesion
        By region; empty where there are no labels.
    seconds : float
        How long it took.
    """

    number: int
    points: int
    masks: Mapping[str, Path]
    scores: Scores | None
    lesions: Mapping[str, tuple[Lesion, ...]]
    seconds: float

    @property
    def summary(self) -> Summary:
        """The lesions of all regions, summed up."""
        return summarise(lesion for lesions in self.lesions.values() for lesion in lesions)


@dataclass(frozen=True)
class FollowupReplay:
    """Both steps of one longitudinal case, with the images that a report shows.

    Attributes
    ----------
    name : str
        Of the case's folder.
    case : LongitudinalCase
        As step 1 sees it.
    labels : mapping of str to Volume
        True mask by region of the follow-up; empty where one of them is missing.
    steps : tuple of FollowupStep
        Both, in order.
    """

    name: str
    case: LongitudinalCase
    labels: Mapping[str, Volume]
    steps: tuple[FollowupStep, ...]


def replay_case(folder: Path, run: Run, output: Path, *, labels: Path | None = None) -> FollowupReplay:
    """Replay both steps of one longitudinal case.

    Parameters
    ----------
    folder : Path
        Case folder in the platform's layout.
    run : callable
        The job, see `Run`.
    output : Path
        Masks go to `<output>/step_<kk>_<region>.mha`.
    labels : Path, optional
        Folder of true masks, `<region>.mha`. A case that lacks one of them is replayed without scores.

    Raises
    ------
    LesionClickError
        If a step fails or breaks the output contract, with the name of the case and the step.
    """
    case = LongitudinalCase.read(folder)
    truth = _read_labels(folder.name, case, labels)
    output.mkdir(parents=True, exist_ok=True)
    steps = (_run_step(folder, case, truth, number, run, output) for number in STEPS)
    progress = tqdm(steps, desc=folder.name, unit="step", total=len(STEPS), disable=None)
    return FollowupReplay(folder.name, case, truth, tuple(progress))


def volumes_then(case: LongitudinalCase, region: str) -> dict[int, float]:
    """Return the volume in ml, by number, of the baseline lesions that are looked for in the follow-up of a region.

    These are those of the region's own baseline where every follow-up has one, else those of all baselines. Of a lesion
    that two baselines show the larger volume counts, because the other image may cut it off.
    """
    volumes: dict[int, float] = {}
    for baseline in case.baselines:
        if baseline.region == region or not _is_paired(case):
            for number, ml in volumes_ml(baseline.lesions.array, baseline.lesions.grid.voxel_ml).items():
                volumes[number] = max(ml, volumes.get(number, 0.0))
    return volumes


def _is_paired(case: LongitudinalCase) -> bool:
    return {baseline.region for baseline in case.baselines} == {followup.region for followup in case.followups}


def _read_labels(name: str, case: LongitudinalCase, folder: Path | None) -> dict[str, Volume]:
    if folder is None:
        return {}
    paths = {followup.region: folder / f"{followup.region}.mha" for followup in case.followups}
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        logger.warning("%s: no label %s, steps are not scored", name, " and ".join(missing))
        return {}
    labels = {region: read_volume(path) for region, path in paths.items()}
    for followup in case.followups:
        label = labels[followup.region]
        if label.array.dtype.kind not in "iu" or label.array.min() < 0:
            raise InputError(
                f"{paths[followup.region]}: expected the number of a lesion, 0 or more, in every voxel, "
                f"found {label.array.dtype} from {label.array.min()}"
            )
        require_same_grid(label, followup.ct, f"{name}, label {followup.region}", "follow-up CT")
    return labels


def _run_step(
    folder: Path, case: LongitudinalCase, labels: Mapping[str, Volume], number: int, run: Run, output: Path
) -> FollowupStep:
    regions = [followup.region for followup in case.followups]
    clicks: dict[Socket, tuple[Click, ...]] = {}
    if number == 0:
        clicks = {region.followup_clicks: () for region in REGIONS if region.name in regions}
    points = 0 if number == 0 else sum(len(followup.points) for followup in case.followups)
    masks = {region: output / f"step_{number:02d}_{region}.mha" for region in regions}
    owed = [Output(one.output, one.stem, one.ct.grid, "follow-up CT", masks[one.region]) for one in case.followups]
    seconds, _ = run_job(folder, number, clicks, run, owed)
    if not labels:
        return FollowupStep(number, points, masks, None, {}, seconds)

    pairs = {region: (labels[region], read_volume(masks[region])) for region in regions}
    scores = score_together((label.array, found.array, found.grid.voxel_ml) for label, found in pairs.values())
    lesions = {
        region: score_lesions(label.array, found.array, found.grid.spacing_zyx, _looked_for(case, labels, region))
        for region, (label, found) in pairs.items()
    }
    return FollowupStep(number, points, masks, scores, lesions, seconds)


def _looked_for(case: LongitudinalCase, labels: Mapping[str, Volume], region: str) -> set[int]:
    """Return the baseline lesions that a region's follow-up may show: all but those that the other follow-up shows.

    Where each follow-up has a baseline of its own, the numbers of the other region are other lesions.
    """
    numbers = set(volumes_then(case, region))
    if _is_paired(case):
        return numbers
    elsewhere = (label.array for other, label in labels.items() if other != region)
    return numbers.difference(*(np.unique(array).tolist() for array in elsewhere))
