"""The neighbourhoods of points, which are looked at before the whole. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesionclick.prompts.points import Prompts

NEAR_MM = 40.0
"""Half of the width of a click's neighbourhood. A tile with the click near its middle shows all of it if it measures
180 mm or more, as those of the embedded model do; of smaller ones the first look shows less."""


@dataclass(frozen=True)
class Near:
    """What the first fold says of a neighbourhood.

    Attributes
    ----------
    window
        Part of the PET along z, y, x.
    lesion_logit
        In that part, float32; NaN where no tile was computed.
    """

    window: tuple[slice, ...]
    lesion_logit: NDArray[np.float32]


def windows_around(points: Prompts, shape_zyx: Sequence[int], spacing_zyx: Sequence[float]) -> list[tuple[slice, ...]]:
    """Return the boxes of voxels within `NEAR_MM` of each point; boxes that overlap become one around both."""
    return boxes_around(points.indices_zyx(), np.ceil(NEAR_MM / np.asarray(spacing_zyx)), shape_zyx)


def boxes_around(
    places_zyx: NDArray[np.number], reach: NDArray[np.number], shape_zyx: Sequence[int]
) -> list[tuple[slice, ...]]:
    """Return the boxes of voxels around places that together hold all within reach; none overlaps another.

    Parameters
    ----------
    places_zyx
        Whole voxel indices inside the image, shape (n, 3).
    reach
        Half of a box's width beside its place, in voxels along z, y, x.
    shape_zyx
        Of the image, where boxes end.

    Returns
    -------
    list
        Parts of the image along z, y, x.
    """
    boxes = np.empty((0, 2, 3), dtype=int)  # low and high
    for place in places_zyx:
        box = np.array([np.maximum(place - reach, 0), np.minimum(place + reach + 1, shape_zyx)]).astype(int)
        while (over := ((boxes[:, 0] < box[1]) & (box[0] < boxes[:, 1])).all(axis=1)).any():
            together = np.concatenate([boxes[over], box[None]])
            box = np.array([together[:, 0].min(axis=0), together[:, 1].max(axis=0)])
            boxes = boxes[~over]
        boxes = np.concatenate([boxes, box[None]])
    return [tuple(slice(*axis) for axis in box.T.tolist()) for box in boxes]
