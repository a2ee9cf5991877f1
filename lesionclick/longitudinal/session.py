"""Task 2: a longitudinal CT case becomes a labelled mask of each follow-up, lesion by lesion.

Each lesion is looked at in a patch around its point, and in a patch of the baseline around its point there. Only
patches are computed, so that the cost grows with the number of lesions and not with the body.

Rules (`docs/rules.md` tells them to users):

- Where the follow-up comes with points, they say which lesions are there. Without points, every lesion of the baseline
  is looked for where the registration expects it.
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
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesionclick.budget import Budget, Stopwatch
from lesionclick.images import Grid, Volume, points_from_indices
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import Baseline, Followup, LongitudinalCase
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.lesions import Lesion, find_lesions, index_zyx
from lesionclick.longitudinal.look import OUTSIDE_LOGIT, Look, find_boxes, look, look_closely
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.longitudinal.registration import MIN_OVERLAP, register

logger = logging.getLogger(__name__)

REGISTRATION_SHARE = 0.6
"""Part of the time left that registration may use."""
REST_S, REST_S_PER_VOXEL = 1.0, 1e-7
"""Time that is kept for writing the masks, in all and per voxel. `docs/deadline.md` has the measurement."""


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


@dataclass(frozen=True)
class LongitudinalSegmentation:
    """What a session says of a longitudinal case.

    Attributes
    ----------
    followups
        By region, in the order of the case.
    seconds
        Spent on each stage.
    """

    followups: Mapping[str, FollowupMask]
    seconds: Mapping[str, float]

    @property
    def masks(self) -> dict[str, Volume]:
        """The masks by region."""
        return {region: followup.mask for region, followup in self.followups.items()}


class LongitudinalSession:
    """A model and a case; points of the follow-ups go in, masks come out.

    The scans are registered once, unless the time did not suffice for all of it.

    Parameters
    ----------
    model
        What predicts.
    case
        The scans, and the points to begin with.
    """

    def __init__(self, model: LongitudinalModel, case: LongitudinalCase) -> None:
        self.model = model
        self.case = case
        self._steps: list[dict[str, LesionPoints]] = [{one.region: one.points for one in case.followups}]
        self._sources: list[list[tuple[Baseline, Alignment]]] | None = None

    @property
    def points(self) -> Mapping[str, LesionPoints]:
        """The points of each follow-up by region."""
        return self._steps[-1]

    def add(self, region: str, number: int, point_xyz: Sequence[float]) -> None:
        """Set the point of a lesion in a follow-up, or move it.

        Parameters
        ----------
        region
            Of the follow-up.
        number
            Of the lesion, 1 or more.
        point_xyz
            Voxel index (x, y, z).
        """
        if region not in self.points or number < 1:
            expected = f"a region of {list(self.points)} and a number from 1"
            raise ValueError(f"expected {expected}, found {region!r} and {number}")
        x, y, z = (float(value) for value in point_xyz)
        self._steps.append({**self.points, region: {**self.points[region], number: (x, y, z)}})

    def undo(self) -> None:
        """Take back the last point that was added; without one, nothing happens."""
        if len(self._steps) > 1:
            self._steps.pop()

    def reset(self) -> None:
        """Take back all that was added."""
        del self._steps[1:]

    def sources(self, budget: Budget | None = None) -> list[list[tuple[Baseline, Alignment]]]:
        """Return for each follow-up its baselines, the best first, with the maps of their places; see `align`.

        Parameters
        ----------
        budget
            Registration may use `REGISTRATION_SHARE` of it. By default there is no limit.
        """
        if self._sources is not None:
            return self._sources
        sources = align(self.case, budget or Budget())
        if all(alignment.complete for row in sources for _, alignment in row):
            self._sources = sources
        return sources

    def segment(
        self, points: Mapping[str, LesionPoints] | None = None, *, budget: Budget | None = None
    ) -> LongitudinalSegmentation:
        """Return one mask per follow-up.

        Registration may use `REGISTRATION_SHARE` of the budget. Where that runs out, lesions are not looked at closely,
        and of those that are not looked at at all, clicked ones get the clicked voxel, and others nothing.

        Parameters
        ----------
        points
            Of each follow-up by region, counted alone; by default those of the case and all that was added.
        budget
            Time until the masks have to be written. By default there is no limit.
        """
        voxels = sum(followup.ct.array.size for followup in self.case.followups)
        limit = (budget or Budget()).without(REST_S + REST_S_PER_VOXEL * voxels)
        watch = Stopwatch()
        given = self.points if points is None else points
        with watch.stage("registration"):
            sources = self.sources(limit)
        followups = {}
        with watch.stage("lesions"):
            for followup, row in zip(self.case.followups, sources, strict=True):
                lesions = find_lesions(followup, row, given.get(followup.region, {}))
                followups[followup.region] = segment_lesions(followup, lesions, self.model, limit)
        return LongitudinalSegmentation(followups, watch.seconds)


def align(case: LongitudinalCase, budget: Budget) -> list[list[tuple[Baseline, Alignment]]]:
    """Return for each follow-up the baselines that show the same part of the body, the best first.

    A baseline counts for the follow-up that it overlaps most; a follow-up that gets none that way takes the baseline
    that overlaps it most.
    """
    pairs = len(case.baselines) * len(case.followups)
    each_s = REGISTRATION_SHARE * budget.left_s / pairs
    table = [
        [register(baseline.ct, followup.ct, budget.within(each_s)) for baseline in case.baselines]
        for followup in case.followups
    ]
    chosen: list[list[tuple[Baseline, Alignment]]] = []
    for row, followup in zip(table, case.followups, strict=True):
        found = [
            (baseline, alignment)
            for column, (baseline, alignment) in enumerate(zip(case.baselines, row, strict=True))
            if alignment.overlap == max(other[column].overlap for other in table)
        ]
        if not found:
            best = int(np.argmax([alignment.overlap for alignment in row]))
            found = [(case.baselines[best], row[best])]
        found.sort(key=lambda pair: -pair[1].overlap)
        for baseline, alignment in found:
            message = "%s follow-up: belongs to the %s baseline, overlap %.2f, %s registration"
            logger.info(message, followup.region, baseline.region, alignment.overlap, alignment.kind)
            if alignment.overlap < MIN_OVERLAP:
                message = "%s follow-up and %s baseline: expected the same part of the body, found an overlap of %.2f"
                logger.warning(message, followup.region, baseline.region, alignment.overlap)
        chosen.append(found)
    return chosen


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
        inside = lesion_logit > OUTSIDE_LOGIT
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


def segment_lesions(
    followup: Followup, lesions: Sequence[Lesion], model: LongitudinalModel, budget: Budget | None = None
) -> FollowupMask:
    """Return the mask of a follow-up with each of `lesions` under its number; see the rules of this module."""
    grid = followup.ct.grid
    largest = max((lesion.number for lesion in lesions), default=0)
    kind = np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16
    places = {lesion.number: lesion.place_mm for lesion in lesions}
    canvas = _Canvas(grid, np.zeros(grid.shape_zyx, kind), np.zeros(grid.shape_zyx, np.uint8), places)
    looks = _look_in_time(followup, lesions, model, budget or Budget())
    done = []
    for lesion in lesions:
        seen = looks.get(lesion.number)
        ml = 0.0 if seen is None else canvas.claim(lesion.number, seen.window, seen.lesion_logit)
        done.append(LesionMask(lesion, ml, looked=seen is not None))
        if seen is not None:
            status, how = "new" if lesion.new else "known", "clicked" if lesion.clicked else "looked for"
            logger.info("lesion %d, %s, %s: %.2f ml", lesion.number, status, how, ml)
    if late := [one.lesion.number for one in done if not one.looked]:
        logger.warning("%s follow-up: no time to look at the lesions %s", followup.region, late)
    left = np.bincount(canvas.mask.ravel(), minlength=largest + 1)
    for lesion in lesions:
        if lesion.clicked and not left[lesion.number]:  # all of it is surer another's
            clicked = np.rint(index_zyx(grid, lesion.place_mm)).clip(0, np.array(grid.shape_zyx) - 1).astype(int)
            canvas.mask[tuple(clicked)] = lesion.number
    return FollowupMask(Volume(canvas.mask, grid), tuple(done))


def _look_in_time(
    followup: Followup, lesions: Sequence[Lesion], model: LongitudinalModel, budget: Budget
) -> dict[int, Look]:
    """Look at all lesions, then closely at those that were found, and return the looks by number.

    What there is no time for is left out: close looks, and then lesions.
    """
    boxes = dict(find_boxes(lesions))
    looks: dict[int, Look] = {}
    begin = budget.now()
    for group in _in_time(lesions, model.at_once, budget):
        found = look(followup.ct, group, boxes, model)
        looks |= {lesion.number: seen for lesion, seen in zip(group, found, strict=True)}
        logger.info("looked at %d of %d lesions", len(looks), len(lesions))
    each_s = (budget.now() - begin) * model.at_once / max(len(looks), 1)
    for sized in (True, False):
        plan = model.close_plan(sized=sized)
        times = plan.passes / model.first_plan.passes
        left = [one for one in lesions if one.number in looks and (one.number in boxes) == sized]
        left = [one for one in left if looks[one.number].found and times > 1]
        for group in _in_time(left, model.at_once, budget, times * each_s):
            closer = look_closely(followup.ct, group, [looks[one.number] for one in group], model, plan=plan)
            looks |= {lesion.number: seen for lesion, seen in zip(group, closer, strict=True)}
            logger.info("looked %d times at %s", plan.passes, ", ".join(f"lesion {one.number}" for one in group))
    return looks


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
