"""Which lesions are looked at in a follow-up, and where: by its points, or by the registration with the baselines."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesionclick.images import Grid, are_inside
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import Baseline, Followup
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.registration import MIN_OVERLAP

logger = logging.getLogger(__name__)

REACH_MM = 15.0
"""Distance from its point within which a lesion may begin: clicks are nearer, and registration errs by a few mm."""


@dataclass(frozen=True)
class Lesion:
    """What is known of a lesion before its follow-up is looked at.

    Attributes
    ----------
    number
        Its number in both masks.
    place_mm
        Where it is, or is looked for, in the follow-up: (x, y, z) in mm.
    clicked
        Whether that was clicked; otherwise the registration says so.
    baseline
        The scan in which it was, or would have been; None where no baseline shows the place.
    baseline_mm
        Its place there.
    new
        Whether the baseline does not know it.
    """

    number: int
    place_mm: NDArray[np.float64]
    clicked: bool
    baseline: Baseline | None
    baseline_mm: NDArray[np.float64] | None
    new: bool


def find_lesions(
    followup: Followup, sources: Sequence[tuple[Baseline, Alignment]], points: LesionPoints | None = None
) -> list[Lesion]:
    """List the lesions to look at in a follow-up, by number.

    Parameters
    ----------
    followup
        The follow-up.
    sources
        Its baselines with the maps of their places, the best first. A number that an earlier one has is not taken from
        a later one.
    points
        Of the follow-up, by default its own; where there are any, they say which lesions are there.
    """
    points = followup.points if points is None else points
    known: dict[int, tuple[Baseline, Alignment]] = {}
    for baseline, alignment in sources:
        for number in baseline.points:
            known.setdefault(number, (baseline, alignment))
    usable = [(baseline, alignment) for baseline, alignment in sources if alignment.overlap >= MIN_OVERLAP]
    if points:
        if absent := sorted(known.keys() - points.keys()):
            logger.info("%s follow-up: lesions %s have no point: taken to have vanished", followup.region, absent)
        return [
            _clicked(number, followup.ct.grid.to_physical(point)[0], known, usable)
            for number, point in sorted(points.items())
        ]
    lesions = []
    for number, (baseline, alignment) in sorted(known.items()):
        if alignment.overlap < MIN_OVERLAP:
            message = "%s follow-up: lesion %d cannot be looked for, as its baseline shows another part of the body"
            logger.warning(message, followup.region, number)
            continue
        baseline_mm = baseline.ct.grid.to_physical(baseline.points[number])[0]
        place_mm = alignment.to_followup(baseline_mm)[0]
        if (outside_mm := _distance_outside_mm(followup.ct.grid, place_mm)) > REACH_MM:
            message = "%s follow-up: lesion %d is expected %.0f mm outside the image and is left out"
            logger.info(message, followup.region, number, outside_mm)
            continue
        lesions.append(Lesion(number, place_mm, False, baseline, baseline_mm, new=False))
    return lesions


def _clicked(
    number: int,
    place_mm: NDArray[np.float64],
    known: Mapping[int, tuple[Baseline, Alignment]],
    usable: Sequence[tuple[Baseline, Alignment]],
) -> Lesion:
    if number in known:
        baseline, _ = known[number]
        baseline_mm = baseline.ct.grid.to_physical(baseline.points[number])[0]
        return Lesion(number, place_mm, True, baseline, baseline_mm, new=False)
    for baseline, alignment in usable:
        baseline_mm = alignment.to_baseline(place_mm)[0]
        if are_inside(baseline.ct.grid.to_index_zyx(baseline_mm)[0], baseline.ct.grid.shape_zyx).all():
            return Lesion(number, place_mm, True, baseline, baseline_mm, new=True)
    return Lesion(number, place_mm, True, None, None, new=True)


def _distance_outside_mm(grid: Grid, place_mm: NDArray[np.float64]) -> float:
    """Return the distance of a place from the nearest voxel, 0 inside the image."""
    index = grid.to_index(place_mm)[0]
    nearest = np.clip(index, 0, np.array(grid.size_xyz) - 1)
    return float(np.linalg.norm(grid.axes_mm @ (index - nearest)))
