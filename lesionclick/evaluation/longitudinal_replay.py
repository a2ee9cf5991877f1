"""Replay of Task 2: step 0 of a longitudinal case has empty follow-up click files, step 1 has the case's own.

The baseline is there in full in either step. Where there is a label for every follow-up CT, each step is scored by the
challenge's measures over all body regions together, and lesion by lesion.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from lesionclick.evaluation.jobs import Jobs, Run, label_paths, read_labels
from lesionclick.evaluation.lesions import LesionScores, score_lesions, volumes_ml
from lesionclick.evaluation.measures import CHALLENGE, LESIONS, LONGITUDINAL, MaskPair, Scores, score
from lesionclick.evaluation.steps import Options, Replay, Step
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.interfaces import REGION_OF, Region, Socket
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.prompts.points import Prompts

STEPS = (0, 1)
"""Task 2's steps: without and with the points of the follow-up."""


@dataclass(frozen=True)
class LongitudinalStep(Step):
    """One job of a longitudinal case.

    Attributes
    ----------
    points
        How many points of the follow-up it saw.
    lesions
        By region; empty where there are no labels.
    """

    points: int
    lesions: Mapping[str, tuple[LesionScores, ...]]

    @property
    def n_points(self) -> int:
        """How many points of the follow-up the job saw."""
        return self.points

    @property
    def all_lesions(self) -> tuple[LesionScores, ...]:
        """Those of all regions."""
        return tuple(lesion for lesions in self.lesions.values() for lesion in lesions)


@dataclass(frozen=True)
class LongitudinalReplay(Replay[LongitudinalStep]):
    """Both steps of one longitudinal case, with the case as step 1 sees it."""

    measures = LONGITUDINAL

    case: LongitudinalCase


def replay_case(folder: CaseFolder, run: Run, output: Path, options: Options) -> LongitudinalReplay:
    """Replay both steps of one longitudinal case.

    Parameters
    ----------
    folder
        The case.
    run
        What handles a job.
    output
        Masks go to `<output>/step_<kk>_<region>.mha`.
    options
        With which labels; a case that lacks one of them is replayed without scores.

    Raises
    ------
    LesionClickError
        If a step fails or breaks the output contract, with the name of the case and the step.
    """
    case = LongitudinalCase.read(folder)
    regions = followup_regions(case)
    jobs = Jobs(folder, run, output, {one.mask.socket: f"step_{{step:02d}}_{one.name}.mha" for one in regions})
    parts = {region.mask.socket: region.name for region in regions}
    paths = label_paths(options.labels, jobs.case_name, parts) if options.labels else {}
    labels = read_labels(folder, paths, numbered=True)

    n_points = sum(len(followup.points) for followup in case.followups)
    steps = []
    for number in tqdm(STEPS, desc=jobs.case_name, unit="step", disable=None):
        job = jobs.run_step(number, {region.followup_clicks: Prompts() for region in regions if number == 0})
        pairs = job.pairs(labels)
        scores, lesions = score_masks(case, pairs) if pairs else (None, {})
        steps.append(LongitudinalStep(number, job.masks, scores, job.seconds, n_points if number else 0, lesions))
    return LongitudinalReplay(jobs.case_name, labels, tuple(steps), case)


def score_masks(
    case: LongitudinalCase, pairs: Mapping[Socket, MaskPair]
) -> tuple[Scores, dict[str, tuple[LesionScores, ...]]]:
    """Score the masks of all follow-ups of a case.

    Parameters
    ----------
    case
        What was segmented.
    pairs
        True and predicted mask of each follow-up.

    Returns
    -------
    scores : Scores
        Of all masks together.
    lesions : dict
        Those of each region.
    """
    lesions = {}
    for region in followup_regions(case):
        pair, numbers = pairs[region.mask.socket], _looked_for(case, pairs, region)
        lesions[region.name] = score_lesions(pair.label, pair.prediction, pair.spacing_zyx, numbers)
    every = [lesion for some in lesions.values() for lesion in some]
    return score(CHALLENGE, list(pairs.values())) | score(LESIONS, every), lesions


def followup_regions(case: LongitudinalCase) -> tuple[Region, ...]:
    """Return the regions that have a follow-up, in the case's order."""
    return tuple(REGION_OF[followup.region] for followup in case.followups)


def volumes_then(case: LongitudinalCase, region: str) -> dict[int, float]:
    """Return the volume in ml, by number, of the baseline lesions that are looked for in the follow-up of a region.

    These are those of the region's own baseline where every follow-up has one, else those of all baselines. Of a lesion
    that two baselines show the larger volume counts, because the other image may cut it off.
    """
    volumes: dict[int, float] = {}
    for baseline in case.baselines:
        if baseline.region == region or not case.is_paired:
            for number, ml in volumes_ml(baseline.lesions.array, baseline.lesions.grid.voxel_ml).items():
                volumes[number] = max(ml, volumes.get(number, 0.0))
    return volumes


def _looked_for(case: LongitudinalCase, pairs: Mapping[Socket, MaskPair], region: Region) -> set[int]:
    """Return the baseline lesions that a region's follow-up may show: all but those that the other follow-up shows.

    Where each follow-up has a baseline of its own, the numbers of the other region are other lesions.
    """
    numbers = set(volumes_then(case, region.name))
    if case.is_paired:
        return numbers
    elsewhere = (pair.label for socket, pair in pairs.items() if socket != region.mask.socket)
    return numbers.difference(*(np.unique(array).tolist() for array in elsewhere))
