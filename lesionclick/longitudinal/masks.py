"""Lesions become the masks of follow-ups: all are looked at, then closely, in the time that there is, and painted.

Each lesion is looked at in a patch around its point, and in a patch of the baseline around its point there. Only
patches are computed, so that the cost grows with the number of lesions and not with the body.

Rules (`docs/rules.md` tells them to users):

- A lesion keeps the component of its mask that its point hits, else the nearest one within `REACH_MM`.
- A lesion that is looked for, whose highest probability in that component stays below `SURE`, has vanished. One that
  was clicked is there: if its mask is empty, the likeliest voxels around the click are taken, and if all of these are
  surer another lesion's, the clicked voxel.
- A lesion that is found is drawn by what all folds say of it, and where its baseline shows it, mirrored over all axes
  that the model names.
- A voxel that two lesions claim is the one's with the higher probability, in percent; ties go to the nearer point. Two
  lesions that have merged are both sure of the whole, and so share it out by their points.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from lesionclick.budget import Budget
from lesionclick.images import Grid, Volume, points_from_indices
from lesionclick.longitudinal.case import Followup
from lesionclick.longitudinal.lesions import Lesion
from lesionclick.longitudinal.look import NOT_THE_LESION, Look, find_boxes, look, look_closely
from lesionclick.longitudinal.model import LongitudinalModel

logger = logging.getLogger(__name__)

CROWDED_MM = 10.0
"""How far around a click a voxel is looked for first for a lesion that all its voxels were taken from."""


@dataclass(frozen=True)
class LesionMask:
    """What became of a lesion.

    Attributes
    ----------
    lesion
        What was known of it before.
    ml
        Volume that was its own when it was looked at.
    looked
        Whether there was time to look at it.
    """

    lesion: Lesion
    ml: float
    looked: bool


@dataclass(frozen=True)
class FollowupMask:
    """The lesions of one follow-up.

    Attributes
    ----------
    mask
        The number of the lesion in each voxel and 0 elsewhere, on the grid of the follow-up; uint8 where all numbers
        are up to 255, else uint16.
    lesions
        By number.
    """

    mask: Volume
    lesions: tuple[LesionMask, ...]


def segment_lesions(
    followup: Followup, lesions: Sequence[Lesion], model: LongitudinalModel, budget: Budget | None = None
) -> FollowupMask:
    """Return the mask of one follow-up; see `segment_followups`."""
    (mask,) = segment_followups([(followup, lesions)], model, budget)
    return mask


def segment_followups(
    listed: Sequence[tuple[Followup, Sequence[Lesion]]], model: LongitudinalModel, budget: Budget | None = None
) -> list[FollowupMask]:
    """Return the masks of follow-ups with each of their lesions under its number; see the rules of this module.

    What there is no time for is left out: close looks, and then lesions.

    Parameters
    ----------
    listed
        Each follow-up with its lesions.
    model
        What predicts.
    budget
        Time for all of it. By default there is no limit.
    """
    budget = budget or Budget()
    views = [_View(followup, lesions, model) for followup, lesions in listed]
    begin = budget.now()
    for view in views:
        view.look(budget)
    each_s = (budget.now() - begin) / max(sum(len(view.looks) for view in views), 1)
    for sized in (True, False):
        for view in views:
            view.look_closely(budget, each_s, sized=sized)
    return [view.paint() for view in views]


@dataclass
class _View:
    """What is seen of the lesions of a follow-up; `looks` has those that there was time for, by number."""

    followup: Followup
    lesions: Sequence[Lesion]
    model: LongitudinalModel
    looks: dict[int, Look] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.boxes = find_boxes(self.lesions)

    def look(self, budget: Budget) -> None:
        """Look at each lesion as it is found first."""
        for group in _in_time(self.lesions, self.model.at_once, budget):
            found = look(self.followup.ct, group, self.boxes, self.model)
            self.looks |= {lesion.number: seen for lesion, seen in zip(group, found, strict=True)}
            logger.info("looked at %d of %d lesions", len(self.looks), len(self.lesions))

    def look_closely(self, budget: Budget, each_s: float, *, sized: bool) -> None:
        """Look closely at those that were found, whose size a baseline shows, or not; a first look took `each_s`."""
        plan = self.model.close_plan(sized=sized)
        times = plan.passes / self.model.first_plan.passes
        seen = [lesion for lesion in self.lesions if lesion.number in self.looks and self.looks[lesion.number].found]
        left = [lesion for lesion in seen if (lesion.number in self.boxes) == sized and times > 1]
        for group in _in_time(left, self.model.at_once, budget, times * each_s * self.model.at_once):
            before = [self.looks[lesion.number] for lesion in group]
            closer = look_closely(self.followup.ct, group, before, self.model, plan=plan)
            self.looks |= {lesion.number: seen for lesion, seen in zip(group, closer, strict=True)}
            logger.info("looked %d times at lesions %s", plan.passes, [lesion.number for lesion in group])

    def paint(self) -> FollowupMask:
        """Return the mask that the looks make."""
        grid = self.followup.ct.grid
        largest = max((lesion.number for lesion in self.lesions), default=0)
        kind = np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
        places = {lesion.number: lesion.place_mm for lesion in self.lesions}
        canvas = _Canvas(grid, np.zeros(grid.shape_zyx, kind), np.zeros(grid.shape_zyx, np.uint8), places)
        done = []
        for lesion in self.lesions:
            seen = self.looks.get(lesion.number)
            ml = 0.0 if seen is None else canvas.claim(lesion.number, seen.window, seen.lesion_logit)
            done.append(LesionMask(lesion, ml, looked=seen is not None))
            if seen is not None:
                status, how = "new" if lesion.new else "known", "clicked" if lesion.clicked else "looked for"
                logger.info("lesion %d, %s, %s: %.2f ml", lesion.number, status, how, ml)
        if late := [one.lesion.number for one in done if not one.looked]:
            logger.warning("%s follow-up: no time to look at the lesions %s", self.followup.region, late)
        canvas.give_voxels([lesion for lesion in self.lesions if lesion.clicked])
        return FollowupMask(Volume(canvas.mask, grid), tuple(done))


@dataclass(frozen=True)
class _Canvas:
    """A mask in the making.

    Attributes
    ----------
    grid
        Of the follow-up.
    mask
        Numbers of the lesions so far.
    percent
        Probability of the lesion that a voxel is, in percent.
    places_mm
        Of all lesions by number.
    """

    grid: Grid
    mask: NDArray[np.unsignedinteger]
    percent: NDArray[np.uint8]
    places_mm: Mapping[int, NDArray[np.float64]]

    def claim(self, number: int, window: tuple[slice, ...], lesion_logit: NDArray[np.float32]) -> float:
        """Give a lesion the voxels that are surer its than another's, and return their volume in ml."""
        inside = lesion_logit > NOT_THE_LESION
        part, best = self.mask[window], self.percent[window]
        claimed = np.rint(np.where(inside, 100 / (1 + np.exp(-lesion_logit)), 0)).astype(np.uint8)
        wins = inside & ((part == 0) | (claimed > best))
        ties = np.argwhere(inside & (part > 0) & (claimed == best))
        if len(ties):
            at_mm = self.grid.to_physical(points_from_indices(ties + [axis.start for axis in window]))
            owners = np.array([self.places_mm[owner] for owner in part[tuple(ties.T)].tolist()])
            own = np.linalg.norm(at_mm - self.places_mm[number], axis=1)
            wins[tuple(ties[own < np.linalg.norm(at_mm - owners, axis=1)].T)] = True
        part[wins] = number
        best[wins] = claimed[wins]
        return float(np.count_nonzero(wins)) * self.grid.voxel_ml

    def give_voxels(self, clicked: Sequence[Lesion]) -> None:
        """Give each of the lesions that has no voxel the one nearest to its click that is not another's last."""
        size = max(self.places_mm, default=0) + 1
        counts = np.zeros(size, dtype=np.int64)
        for plane in self.mask:  # of which a copy is made with eight bytes to a voxel
            counts += np.bincount(plane.ravel(), minlength=size)
        counts[0] += 1  # no lesion, whose last voxel may go
        for lesion in clicked:
            place = None if counts[lesion.number] else self._find_voxel(lesion, counts)
            if place is not None:
                counts[self.mask[place]] -= 1
                self.mask[place] = lesion.number

    def _find_voxel(self, lesion: Lesion, counts: NDArray[np.int64]) -> tuple[int, ...] | None:
        """Return the voxel nearest to a click of which there are others; None where there are more lesions than voxels.

        `counts` are the voxels by lesion.
        """
        shape, spacing = np.array(self.mask.shape), np.asarray(self.grid.spacing_zyx)
        at = np.rint(self.grid.to_index_zyx(lesion.place_mm)[0]).clip(0, shape - 1).astype(int)
        reach_mm, farthest_mm = CROWDED_MM, float(np.linalg.norm(shape * spacing))
        while True:
            reach = np.ceil(reach_mm / spacing).astype(int)
            window = tuple(slice(max(n - r, 0), n + r + 1) for n, r in zip(at, reach, strict=True))
            places = np.argwhere(counts[self.mask[window]] > 1) + [axis.start for axis in window]
            distances_mm = np.linalg.norm((places - at) * spacing, axis=1)
            if distances_mm.min(initial=np.inf) <= reach_mm:  # beyond, a nearer one may lie outside the window
                return tuple(places[distances_mm.argmin()].tolist())
            if reach_mm > farthest_mm:
                return None
            reach_mm *= 2


def _in_time(
    lesions: Sequence[Lesion], at_once: int, budget: Budget, expected_s: float = 0.0
) -> Iterator[Sequence[Lesion]]:
    """Yield groups of lesions, as long as there is time for what the longest took so far, or is expected to take."""
    for first in range(0, len(lesions), at_once):
        if expected_s > budget.left_s:
            return
        begin = budget.now()
        yield lesions[first : first + at_once]
        expected_s = max(expected_s, budget.now() - begin)
