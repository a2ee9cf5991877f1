"""Scores of a labelled follow-up mask, lesion by lesion, and the challenge's three scores over several masks together.

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

from lesionclick.evaluation import measures

Labels: TypeAlias = NDArray[np.integer]

CHANGE_SHARE = 0.25
"""Share of the earlier volume up to which a lesion counts as unchanged: what the British Thoracic Society's guideline
of 2015 takes for the error of measuring a nodule's volume twice."""

Status: TypeAlias = Literal["unchanged", "grown", "shrunk", "vanished", "new", "absent"]


@dataclass(frozen=True)
class Lesion:
    """One lesion of a follow-up mask, against its label.

    Attributes
    ----------
    number : int
        Value of its voxels.
    true_ml, found_ml : float
        Volume in the label and in the mask; 0 where it is empty.
    dsc : float
        Dice similarity coefficient of this lesion; NaN where the label has none.
    detected : bool
        Whether the found lesion shares a voxel with the true one.
    point_error_mm : float
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


@dataclass(frozen=True)
class Summary:
    """What the lesions of a step come to; NaN where there is no lesion to count.

    Attributes
    ----------
    dsc : float
        Mean over the lesions in the label.
    detection_rate : float
        Share of the lesions in the label that were detected.
    vanished_empty : float
        Share of the lesions that are not in the label which were reported empty.
    point_error_mm : float
        Median over the lesions that are in both masks.
    volume_error_percent : float
        Mean over the lesions in the label.
    """

    dsc: float
    detection_rate: float
    vanished_empty: float
    point_error_mm: float
    volume_error_percent: float


def score_lesions(
    label: Labels, found: Labels, spacing_zyx: Sequence[float], numbers: Iterable[int] = ()
) -> tuple[Lesion, ...]:
    """Score every lesion of one follow-up mask.

    Parameters
    ----------
    label, found : (z, y, x) array of integers
        True and found numbers of the voxels.
    spacing_zyx : sequence of float
        Voxel size in mm.
    numbers : iterable of int
        Lesions to score besides those in the label: those of the baseline, which may have vanished.

    Returns
    -------
    tuple of Lesion
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
        lesions.append(Lesion(number, n_true * voxel_ml, n_found * voxel_ml, dsc, n_shared > 0, error))
    return tuple(lesions)


def summarise(lesions: Iterable[Lesion]) -> Summary:
    """Sum up the lesions of one step or of many."""
    lesions = tuple(lesions)
    present = [lesion for lesion in lesions if lesion.true_ml > 0]
    errors = [lesion.point_error_mm for lesion in present if not math.isnan(lesion.point_error_mm)]
    return Summary(
        dsc=_mean([lesion.dsc for lesion in present]),
        detection_rate=_mean([float(lesion.detected) for lesion in present]),
        vanished_empty=_mean([float(lesion.reported_empty) for lesion in lesions if lesion.true_ml == 0]),
        point_error_mm=float(np.median(errors)) if errors else math.nan,
        volume_error_percent=_mean([lesion.volume_error_percent for lesion in present]),
    )


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


def score_together(masks: Iterable[tuple[Labels, Labels, float]]) -> measures.Scores:
    """Compute the challenge's three scores over all masks of a case as if they were one image.

    Parameters
    ----------
    masks : iterable of (label, found, voxel_ml)
        True and found mask of a body region, each (z, y, x), and the volume of its voxels in ml.

    Returns
    -------
    Scores
        DSC by volume over all masks; the two volumes are sums. As for one mask, DSC and FNV are NaN where every label
        is empty.

    Raises
    ------
    ValueError
        If a label and its mask differ in shape.
    """
    shared_ml = both_ml = fpv_ml = fnv_ml = 0.0
    any_lesion = False
    for label, found, voxel_ml in masks:
        fpv_ml += measures.false_positive_volume_ml(label, found, voxel_ml)
        n_true, n_found = np.count_nonzero(label), np.count_nonzero(found)
        shared_ml += np.count_nonzero((label > 0) & (found > 0)) * voxel_ml
        both_ml += (n_true + n_found) * voxel_ml
        if n_true:
            any_lesion = True
            fnv_ml += measures.false_negative_volume_ml(label, found, voxel_ml)
    if not any_lesion:
        return measures.Scores(math.nan, fpv_ml, math.nan)
    return measures.Scores(2 * shared_ml / both_ml, fpv_ml, fnv_ml)


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


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else math.nan
