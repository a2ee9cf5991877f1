"""What the steps of a case are, and how its masks are called and scored: the one place here that tells tasks apart."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lesionclick.evaluation.longitudinal_replay import score_masks
from lesionclick.evaluation.measures import CHALLENGE, MaskPair, Scores, score
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.grand_challenge.interfaces import LESION_CLICKS, REGIONS, TUMOR_LESION_SEGMENTATION, Socket
from lesionclick.longitudinal.case import read_followup_points
from lesionclick.prompts.points import Prompts
from lesionclick.prompts.spec import TaskName


@dataclass(frozen=True)
class CaseStep:
    """One job of a case.

    Attributes
    ----------
    number
        The challenge's; None for the job with the clicks that the case has.
    n_points
        How many points it sees.
    prompts
        What the case's session takes; None for the case's own.
    clicks
        The same for a container: what replaces the case's click files.
    """

    number: int | None
    n_points: int
    prompts: Any
    clicks: Mapping[Socket, Prompts]

    def file_name(self, part: str) -> str:
        """Return what the mask of a part of the case is called, the whole being the part without a name."""
        words = [] if self.number is None else [f"step_{self.number:02d}"]
        return "_".join([*words, part] if part else words or ["mask"]) + ".mha"


@dataclass(frozen=True)
class Evaluated:
    """What a cohort knows of a task.

    Attributes
    ----------
    steps
        Lists the jobs of a case for the challenge's steps that are wanted, or None.
    parts
        Names the part of the case that each output shows, empty for the whole.
    score
        Scores the masks of a case, given what reads it.
    numbered
        Whether a label has to hold the number of its lesion in each voxel.
    """

    steps: Callable[[CaseFolder, Sequence[int] | None], list[CaseStep]]
    parts: Callable[[CaseFolder], dict[Socket, str]]
    score: Callable[[Callable[[], Any], Mapping[Socket, MaskPair]], Scores]
    numbered: bool


def _petct_steps(folder: CaseFolder, numbers: Sequence[int] | None) -> list[CaseStep]:
    clicks = read_clicks(folder.json(LESION_CLICKS))
    if numbers is None:
        return [CaseStep(None, len(clicks), None, {})]
    shown = {number: clicks.at_step(number) for number in numbers}
    return [CaseStep(number, len(some), some, {LESION_CLICKS: some}) for number, some in shown.items()]


def _longitudinal_steps(folder: CaseFolder, numbers: Sequence[int] | None) -> list[CaseStep]:
    """Return the two steps of a longitudinal case, whichever numbers are wanted, or the one that it is."""
    regions = [region for region in REGIONS if region.followup_ct in folder.interface.inputs]
    points = [read_followup_points(folder, one, folder.image(one.followup_ct).grid) for one in regions]
    as_it_is = CaseStep(None if numbers is None else 1, sum(map(len, points)), None, {})
    if numbers is None:
        return [as_it_is]
    none: dict[str, object] = {region.name: {} for region in regions}
    return [CaseStep(0, 0, none, {region.followup_clicks: Prompts() for region in regions}), as_it_is]


EVALUATED: Mapping[TaskName, Evaluated] = {
    "task1": Evaluated(
        _petct_steps,
        parts=lambda _: {TUMOR_LESION_SEGMENTATION.socket: ""},
        score=lambda _, pairs: score(CHALLENGE, list(pairs.values())),
        numbered=False,
    ),
    "task2": Evaluated(
        _longitudinal_steps,
        parts=lambda folder: {one.mask.socket: one.name for one in REGIONS if one.mask in folder.interface.outputs},
        score=lambda read, pairs: score_masks(read(), pairs)[0],
        numbered=True,
    ),
}
