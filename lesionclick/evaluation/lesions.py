"""Scores of a labelled follow-up mask, lesion by lesion.

Masks are (z, y, x) arrays of integers on one grid, in which each voxel holds the number of its lesion, 0 elsewhere. A
lesion is found where the same number overlaps it; whether another number does is no matter here, only for the
challenge's scores, which take every number alike.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

Labels: TypeAlias = NDArray[np.integer]

CHANGE_SHARE = 0.25
"""Share of the earlier volume up to which a lesion counts as unchanged: what the British Thoracic Society's guideline
of 2015 takes for the error of measuring a nodule's volume twice."""

Status: TypeAlias = Literal["unchanged", "grown", "shrunk", "vanished", "new", "absent"]


@dataclass(frozen=True)
class LesionScores:
    """One lesion of a follow-up mask, against its label.

    Attributes
    ----------
    number
        Value of its voxels.
    true_ml, found_ml
        Volume in the label and in the mask; 0 where it is empty.
    dsc
        Dice similarity coefficient of this lesion; NaN where the label has none.
    detected
        Whether the found lesion shares a voxel with the true one.
    point_error_mm
        Distance between the centres of gravity; NaN where either is empty.
    """

    number: int
    true_ml: float
    found_ml: float
    dsc: float
    detected: bool
    point_error_mm: float

    @property
    def reported_empty(self) -> bool:
        """Whether the mask has no voxel of it."""
        return self.found_ml == 0

    @property
    def volume_error_percent(self) -> float:
        """Size of the error of its change in volume, in % of its true volume; NaN where that is 0.

        The earlier volume is known, so that the error of the change is the error of the volume.
        """
        return 100 * abs(self.found_ml - self.true_ml) / self.true_ml if self.true_ml else math.nan


def score_lesions(
    label: Labels, found: Labels, spacing_zyx: Sequence[float], numbers: Iterable[int] = ()
) -> tuple[LesionScores, ...]:
    """Score every lesion of one follow-up mask.

    Parameters
    ----------
    label, found
        Arrays (z, y, x) of integers: true and found numbers of the voxels.
    spacing_zyx
        Voxel size in mm.
    numbers
        Lesions to score besides those in the label: those of the baseline, which may have vanished.

    Returns
    -------
    tuple of LesionScores
        By number.

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """
    if label.shape != found.shape:
        raise ValueError(f"label and found mask differ in shape: {label.shape} and {found.shape}")
    voxel_ml = float(np.prod(spacing_zyx)) / 1000
    true_places, found_places = (_places_mm(mask, spacing_zyx) for mask in (label, found))
    shared = _counts(label[(label == found) & (label > 0)])
    lesions = []
    for number in sorted({*true_places, *numbers} - {0}):
        here, there = (places.get(number) for places in (true_places, found_places))
        n_true, n_found = (0 if place is None else place[0] for place in (here, there))
        n_shared = shared.get(number, 0)
        dsc = 2 * n_shared / (n_true + n_found) if n_true else math.nan
        error = math.nan if here is None or there is None else float(np.linalg.norm(here[1] - there[1]))
        lesions.append(LesionScores(number, n_true * voxel_ml, n_found * voxel_ml, dsc, n_shared > 0, error))
    return tuple(lesions)


def mean_dsc(lesions: Sequence[LesionScores]) -> float:
    """Mean DSC of the lesions that the label has."""
    return _mean([lesion.dsc for lesion in lesions if lesion.true_ml > 0])


def detected_percent(lesions: Sequence[LesionScores]) -> float:
    """Share of the lesions that the label has which are detected."""
    return 100 * _mean([lesion.detected for lesion in lesions if lesion.true_ml > 0])


def vanished_empty_percent(lesions: Sequence[LesionScores]) -> float:
    """Share of the lesions that the label lacks which the mask lacks too."""
    return 100 * _mean([lesion.reported_empty for lesion in lesions if lesion.true_ml == 0])


def median_point_error_mm(lesions: Sequence[LesionScores]) -> float:
    """Median of the distances between the centres of gravity that are known."""
    known = [lesion.point_error_mm for lesion in lesions if not math.isnan(lesion.point_error_mm)]
    return float(np.median(known)) if known else math.nan


def mean_volume_error_percent(lesions: Sequence[LesionScores]) -> float:
    """Mean size of the volumes' errors of the lesions that the label has."""
    return _mean([lesion.volume_error_percent for lesion in lesions if lesion.true_ml > 0])


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan


def status(then_ml: float, now_ml: float) -> Status:
    """Say in a word what became of a lesion of `then_ml` that is of `now_ml` now."""
    if now_ml == 0:
        return "vanished" if then_ml else "absent"
    if then_ml == 0:
        return "new"
    change = now_ml / then_ml - 1
    if abs(change) <= CHANGE_SHARE:
        return "unchanged"
    return "grown" if change > 0 else "shrunk"


def volumes_ml(mask: Labels, voxel_ml: float) -> dict[int, float]:
    """Return the volume of every lesion of a mask by its number."""
    return {number: count * voxel_ml for number, count in _counts(mask[mask > 0]).items()}


def _places_mm(mask: Labels, spacing_zyx: Sequence[float]) -> dict[int, tuple[int, NDArray[np.float64]]]:
    """Return for every lesion its number of voxels and its centre of gravity (z, y, x) along the image's axes."""
    index_zyx = np.nonzero(mask)
    found, members, counts = np.unique(mask[index_zyx], return_inverse=True, return_counts=True)
    centres = np.stack([np.bincount(members, axis, minlength=len(found)) for axis in index_zyx], axis=-1)
    centres = centres / counts[:, None] * np.asarray(spacing_zyx)
    return {int(number): (int(count), c) for number, count, c in zip(found, counts, centres, strict=True)}


def _counts(numbers: Labels) -> dict[int, int]:
    return {int(number): int(count) for number, count in zip(*np.unique(numbers, return_counts=True), strict=True)}
