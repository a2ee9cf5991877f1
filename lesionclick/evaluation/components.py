"""Components of two masks, 18-connected as in the challenges, and which of them meet. Pure; arrays are (z, y, x)."""

from collections.abc import Iterable

import cc3d
import numpy as np
from numpy.typing import NDArray

Voxels = NDArray[np.bool_]

FOUND_IOU = 0.1
"""Intersection over union from which on a found component is a true one's (autoPET V)."""


def count_untouched(mask: Voxels, other: Voxels) -> int:
    """Count the voxels of the components of `mask` that share no voxel with `other`."""
    numbers, count = cc3d.connected_components(mask, connectivity=18, return_N=True)
    touched = np.zeros(count + 1, dtype=bool)
    touched[0] = True
    touched[numbers[other]] = True
    return int(np.bincount(numbers.ravel(), minlength=count + 1)[~touched].sum())


def lesion_f1(masks: Iterable[tuple[Voxels, Voxels]]) -> float:
    """F1 score over the components of some masks, autoPET V's DMM.

    A true component is found where one of the mask's has an intersection over union with it of `FOUND_IOU` or more; a
    component of the mask that finds none is false. One may find several, and be found by several.

    Parameters
    ----------
    masks
        True and predicted voxels.

    Returns
    -------
    float
        2 found / (2 found + missed + false); NaN where every label is empty.
    """
    found = missed = false = 0
    for label, prediction in masks:
        (truths, n_true), (guesses, n_guessed) = (
            cc3d.connected_components(mask, connectivity=18, return_N=True) for mask in (label, prediction)
        )
        shared = label & prediction
        pairs, overlaps = np.unique(np.stack([truths[shared], guesses[shared]]), axis=1, return_counts=True)
        sizes = np.bincount(truths.ravel())[pairs[0]] + np.bincount(guesses.ravel())[pairs[1]]
        matched = pairs[:, overlaps >= FOUND_IOU * (sizes - overlaps)]
        found += (n_found := len(np.unique(matched[0])))
        missed += n_true - n_found
        false += n_guessed - len(np.unique(matched[1]))
    return 2 * found / (2 * found + missed + false) if found + missed else float("nan")
