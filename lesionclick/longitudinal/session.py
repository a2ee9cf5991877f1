"""Task 2: a longitudinal CT case becomes a labelled mask of each follow-up.

The scans are registered, then the lesions looked at (`lesionclick.longitudinal.masks`).

Where any follow-up comes with points, they say which lesions are there. Without points, every lesion of the baseline is
looked for where the registration expects it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from lesionclick.budget import Budget, Stopwatch
from lesionclick.grand_challenge.click_files import MAX_LESION
from lesionclick.images import Volume, are_inside, indices_from_points
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import Baseline, LongitudinalCase
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.lesions import find_lesions
from lesionclick.longitudinal.masks import FollowupMask, segment_followups
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.longitudinal.registration import MIN_OVERLAP, register

logger = logging.getLogger(__name__)

REGISTRATION_SHARE = 0.6
"""Part of the time left that registration may use."""
REST_S, REST_S_PER_VOXEL = 1.0, 1e-7
"""Time that is kept for writing the masks, in all and per voxel. `docs/deadline.md` has the measurement."""


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
            Of the lesion, from 1 to `MAX_LESION`.
        point_xyz
            Voxel index (x, y, z) in the image.

        Raises
        ------
        ValueError
            If there is no such follow-up, the number is none of a lesion, or the point lies outside.
        """
        if region not in self.points or number not in range(1, MAX_LESION + 1):
            expected = f"a region of {list(self.points)} and a number from 1 to {MAX_LESION}"
            raise ValueError(f"expected {expected}, found {region!r} and {number}")
        x, y, z = (float(value) for value in point_xyz)
        grid = next(one.ct.grid for one in self.case.followups if one.region == region)
        if not are_inside(indices_from_points((x, y, z)), grid.shape_zyx).all():
            raise ValueError(f"expected a point in the image of size (x, y, z) {grid.size_xyz}, found {(x, y, z)}")
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
        listed = []
        for followup, row in zip(self.case.followups, sources, strict=True):
            points_there = given.get(followup.region, {})
            # points of another follow-up say that all here have vanished
            gone = not points_there and any(given.values())
            listed.append((followup, [] if gone else find_lesions(followup, row, points_there)))
        with watch.stage("lesions"):
            masks = segment_followups(listed, self.model, limit)
        followups = {followup.region: mask for (followup, _), mask in zip(listed, masks, strict=True)}
        return LongitudinalSegmentation(followups, watch.seconds)


def align(case: LongitudinalCase, budget: Budget) -> list[list[tuple[Baseline, Alignment]]]:
    """Return for each follow-up the baselines that show the same part of the body, the best first.

    A baseline counts for the follow-up that it overlaps most, if it overlaps any. A follow-up that gets none that way
    takes the baseline that overlaps it most, or where none shows the same part of the body, that of its own region.
    """
    each_s = REGISTRATION_SHARE * budget.left_s / (len(case.baselines) * len(case.followups))
    table = [
        [register(baseline.ct, followup.ct, budget.within(each_s)) for baseline in case.baselines]
        for followup in case.followups
    ]
    chosen: list[list[tuple[Baseline, Alignment]]] = []
    for row, followup in zip(table, case.followups, strict=True):
        found = [
            (baseline, alignment)
            for column, (baseline, alignment) in enumerate(zip(case.baselines, row, strict=True))
            if alignment.overlap == max(other[column].overlap for other in table) > 0
        ]
        if not found:
            pairs = list(zip(case.baselines, row, strict=True))
            usable = [pair for pair in pairs if pair[1].overlap >= MIN_OVERLAP]
            own = [pair for pair in pairs if pair[0].region == followup.region]
            found = [max(usable or own or pairs, key=lambda pair: pair[1].overlap)]
        found.sort(key=lambda pair: -pair[1].overlap)
        for baseline, alignment in found:
            message = "%s follow-up: belongs to the %s baseline, overlap %.2f, %s registration"
            logger.info(message, followup.region, baseline.region, alignment.overlap, alignment.kind)
            if alignment.overlap < MIN_OVERLAP:
                message = "%s follow-up and %s baseline: expected the same part of the body, found an overlap of %.2f"
                logger.warning(message, followup.region, baseline.region, alignment.overlap)
        chosen.append(found)
    return chosen
