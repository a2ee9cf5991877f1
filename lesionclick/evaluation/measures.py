"""Scores of a predicted mask: the challenge's three, their areas over the steps, and surface distances.

Masks are (z, y, x) arrays on one grid; every value but 0 counts as lesion. The three scores are autoPET IV's: the
Dice similarity coefficient (DSC), the volume of predicted components that touch no true lesion (FPV) and the volume of
true components that the prediction misses altogether (FNV), components being 18-connected. Where the label is empty,
DSC and FNV are NaN and only FPV counts.
"""

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass

import cc3d
import numpy as np
from grand_challenge_metrics.stats import hausdorff_distance_measures
from numpy.typing import NDArray
from scipy import ndimage

OVERALL = "overall"
"""Key of the mean over all cases among those over the cases of each tracer."""

Mask = NDArray[np.bool_ | np.integer | np.floating]


@dataclass(frozen=True)
class Scores:
    """The challenge's scores of one mask, or their areas over the steps, or their means over cases.

    Attributes
    ----------
    dsc : float
        Dice similarity coefficient, 0 to 1; NaN where the label is empty.
    fpv_ml : float
        False-positive volume in ml.
    fnv_ml : float
        False-negative volume in ml; NaN where the label is empty.
    """

    dsc: float
    fpv_ml: float
    fnv_ml: float


@dataclass(frozen=True)
class SurfaceDistances:
    """Distances between the surfaces of two masks, in mm; NaN where either mask is empty.

    Attributes
    ----------
    hausdorff95_mm : float
        The larger of the two directed 95th percentiles.
    mean_mm : float
        The larger of the two directed means (the modified Hausdorff distance).
    """

    hausdorff95_mm: float
    mean_mm: float


def score(label: Mask, prediction: Mask, voxel_ml: float) -> Scores:
    """Compute the challenge's three scores of one prediction.

    Parameters
    ----------
    label, prediction : (z, y, x) array
        True and predicted lesion voxels.
    voxel_ml : float
        Volume of a voxel in ml.

    Returns
    -------
    Scores

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """
    label, prediction = _binarise(label, prediction)
    return Scores(
        dice(label, prediction),
        false_positive_volume_ml(label, prediction, voxel_ml),
        false_negative_volume_ml(label, prediction, voxel_ml),
    )


def dice(label: Mask, prediction: Mask) -> float:
    """Dice similarity coefficient, 2 |A and B| / (|A| + |B|); NaN where the label is empty.

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """
    label, prediction = _binarise(label, prediction)
    n_label = np.count_nonzero(label)
    if n_label == 0:
        return math.nan
    return 2 * np.count_nonzero(label & prediction) / (n_label + np.count_nonzero(prediction))


def false_positive_volume_ml(label: Mask, prediction: Mask, voxel_ml: float) -> float:
    """Volume in ml of the predicted components that share no voxel with the label.

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """
    label, prediction = _binarise(label, prediction)
    return _untouched_voxels(prediction, label) * voxel_ml


def false_negative_volume_ml(label: Mask, prediction: Mask, voxel_ml: float) -> float:
    """Volume in ml of the true components that share no voxel with the prediction; NaN where the label is empty.

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """
    label, prediction = _binarise(label, prediction)
    return _untouched_voxels(label, prediction) * voxel_ml if label.any() else math.nan


def surface_distances(label: Mask, prediction: Mask, spacing_zyx: Sequence[float]) -> SurfaceDistances:
    """Distances between the surfaces of label and prediction, by grand-challenge-metrics (evalutils' successor).

    Parameters
    ----------
    label, prediction : (z, y, x) array
        True and predicted lesion voxels.
    spacing_zyx : 3 floats
        Voxel spacing in mm.

    Returns
    -------
    SurfaceDistances

    Raises
    ------
    ValueError
        If the masks differ in shape.
    """
    label, prediction = _binarise(label, prediction)
    if not (label.any() and prediction.any()):
        return SurfaceDistances(math.nan, math.nan)
    # Nothing outside the common bounding box takes part, and whole-body distance transforms are slow.
    (box,) = ndimage.find_objects((label | prediction).astype(np.uint8))
    measures = hausdorff_distance_measures(label[box], prediction[box], tuple(spacing_zyx), percentile=0.95)
    return SurfaceDistances(float(measures.percentile_distance), float(measures.modified_distance))


def areas(scores: Sequence[Scores]) -> Scores:
    """Areas under the curves of the three scores over the steps, by the trapezoid rule with a width of 1 per step.

    Parameters
    ----------
    scores : sequence of Scores
        One for each step, in order; the challenge's are the eleven steps 0..10, so that a perfect DSC gives 10.

    Returns
    -------
    Scores
        The areas; NaN where a step's score is NaN.

    Raises
    ------
    ValueError
        If there are fewer than two steps.
    """
    if len(scores) < 2:
        raise ValueError(f"an area needs the scores of at least two steps, found {len(scores)}")
    return Scores(*np.trapezoid([astuple(step) for step in scores], axis=0).tolist())


def aggregate(scores: Sequence[Scores], tracers: Sequence[str]) -> dict[str, Scores]:
    """Means over the cases of each tracer and over all cases, each score over the cases where it is not NaN.

    Parameters
    ----------
    scores : sequence of Scores
        One for each case, all of the same step, or all areas.
    tracers : sequence of str
        The tracer of each case.

    Returns
    -------
    dict
        Means by tracer, in alphabetical order, then by `OVERALL`; NaN where no case has the score.

    Raises
    ------
    ValueError
        If the two sequences differ in length.
    """
    cases = list(zip(tracers, scores, strict=True))
    means = {name: _mean([case for tracer, case in cases if tracer == name]) for name in sorted(set(tracers))}
    return means | {OVERALL: _mean(scores)}


def _binarise(label: Mask, prediction: Mask) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    if label.shape != prediction.shape:
        raise ValueError(f"label and prediction differ in shape: {label.shape} and {prediction.shape}")
    return label.astype(bool, copy=False), prediction.astype(bool, copy=False)


def _untouched_voxels(mask: NDArray[np.bool_], other: NDArray[np.bool_]) -> int:
    """Voxels of the 18-connected components of `mask` that share no voxel with `other`."""
    numbers, count = cc3d.connected_components(mask, connectivity=18, return_N=True)
    touched = np.zeros(count + 1, dtype=bool)
    touched[0] = True
    touched[numbers[other]] = True
    return int(np.bincount(numbers.ravel(), minlength=count + 1)[~touched].sum())


def _mean(scores: Sequence[Scores]) -> Scores:
    columns = np.array([astuple(case) for case in scores], dtype=np.float64).reshape(-1, 3).T
    known = [column[~np.isnan(column)] for column in columns]
    return Scores(*(float(values.mean()) if values.size else math.nan for values in known))
