"""The rules after the network: what was clicked counts, rims are rims, and once all is marked, nothing else counts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.prompts.points import is_first_on_lesion

LENGTH_MM = 12.0
"""Standard deviation of the correction around a click in mm, about the distance between two readers' contours."""
MARGIN = 1.0
"""Logit that a corrected click gets: sure enough to survive resampling, and no more."""
RIM_MARGIN = 2.0
"""Largest logit that a further click on a lesion keeps: the rim of a lesion is not its middle. Chosen with `LENGTH_MM`
on the real patients held out from the training of the embedded model.
"""
REPEATS = 2
"""Number of further clicks on lesions that were clicked before, from which on all lesions are taken to be marked. One
may come from two lesions that the mask joins.
"""


@dataclass(frozen=True)
class Refined:
    """The mask after the rule, and how often the rule acted.

    Attributes
    ----------
    mask
        Shape (z, y, x), bool.
    corrected_tumor, corrected_background
        Numbers of clicks of each kind that the network alone had on the wrong side.
    removed
        Number of components that were removed because all lesions are marked.
    """

    mask: NDArray[np.bool_]
    corrected_tumor: int
    corrected_background: int
    removed: int = 0


def refine(
    margin: NDArray[np.float32],
    tumor_zyx: NDArray[np.int64],
    background_zyx: NDArray[np.int64],
    spacing_zyx: Sequence[float],
    *,
    by_procedure: bool = False,
) -> Refined:
    """Correct the network's logits around the clicks that they contradict, threshold them, and drop what is unmarked.

    The clicks that lie on the wrong side are residuals of a Gaussian process over the logits: a smooth correction with
    standard deviation `LENGTH_MM` brings each of them to `MARGIN` on its own side, and fades out around it (simple
    kriging; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equation 2.23). Clicks on the right
    side are residuals of zero, so that a correction does not turn them over. The clicked voxels themselves are set in
    any case; where one voxel is clicked as both, tumour wins.

    Readers who follow the challenge's procedure click each lesion once, in its centre, before they click any again, on
    its rim. With the second round they tell two things more. Where a further click on a lesion lies deeper in the mask
    than `RIM_MARGIN`, the same correction draws the mask back to it. And all lesions are marked: from `REPEATS` such
    clicks on, components without a tumour click are removed.

    Parameters
    ----------
    margin
        Foreground logit minus background logit, shape (z, y, x).
    tumor_zyx, background_zyx
        Voxel indices inside the image, shape (n, 3).
    spacing_zyx
        Voxel size in mm.
    by_procedure
        Whether the readers follow the challenge's procedure.

    Returns
    -------
    Refined
        The mask, and how often the rules acted.
    """
    points = np.concatenate([tumor_zyx, background_zyx]).reshape(-1, 3)
    side = np.repeat([1.0, -1.0], [len(tumor_zyx), len(background_zyx)])
    agreement = side * margin[tuple(points.T)]
    wrong = agreement <= 0
    residual = np.where(wrong, side * (MARGIN - agreement), 0.0)
    if by_procedure:
        further = np.flatnonzero(~is_first_on_lesion(tumor_zyx, spacing_zyx))
        residual[further] += np.minimum(RIM_MARGIN - agreement[further], 0.0)
    mask = margin > 0
    if residual.any():
        mask = (margin + _correction(points, residual, margin.shape, spacing_zyx)) > 0
        mask[tuple(np.asarray(background_zyx).reshape(-1, 3).T)] = False
        mask[tuple(np.asarray(tumor_zyx).reshape(-1, 3).T)] = True
    removed = _remove_unmarked(mask, tumor_zyx) if by_procedure else 0
    return Refined(mask, int(wrong[side > 0].sum()), int(wrong[side < 0].sum()), removed)


def _remove_unmarked(mask: NDArray[np.bool_], tumor_zyx: NDArray[np.int64]) -> int:
    """Remove components without a click from `mask` where all are marked, and return their number."""
    places = np.unique(tumor_zyx, axis=0)
    if len(places) <= REPEATS:
        return 0
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
    marked = np.unique(numbers[tuple(places.T)])
    if len(places) - len(marked) < REPEATS:
        return 0
    mask &= np.isin(numbers, marked)
    return int(count - len(marked))


def _correction(
    points: NDArray[np.int64], residual: NDArray[np.float64], shape: tuple[int, ...], spacing_zyx: Sequence[float]
) -> NDArray[np.float32]:
    """Interpolate the residuals at the points smoothly over the image, shape (z, y, x)."""
    points, first = np.unique(points, axis=0, return_index=True)
    scaled = points * np.asarray(spacing_zyx) / LENGTH_MM
    squared = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=-1)
    kernel = np.exp(-squared / 2) + 1e-2 * np.eye(len(points))
    weights = np.linalg.solve(kernel, residual[first])
    field = np.zeros(shape, dtype=np.float32)
    reach = np.ceil(4 * LENGTH_MM / np.asarray(spacing_zyx)).astype(int)
    for point, weight in zip(points, weights, strict=True):
        low = np.maximum(point - reach, 0)
        window = tuple(slice(a, b) for a, b in zip(low, np.minimum(point + reach + 1, shape), strict=True))
        z, y, x = (
            np.exp(-(((np.arange(axis.start, axis.stop) - p) * s / LENGTH_MM) ** 2) / 2)
            for axis, p, s in zip(window, point, spacing_zyx, strict=True)
        )
        field[window] += (weight * z[:, None, None] * y[:, None] * x).astype(np.float32)
    return field
