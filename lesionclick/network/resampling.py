"""nnU-Net's default resampling, fast: the same splines, axis by axis as products with small matrices.

nnU-Net resizes each channel by scikit-image, whose cubic splines go through SciPy's `zoom` in double precision and one
thread. A spline of several axes is the product of splines of one, so that each axis is a matrix (new size, old size);
what SciPy does to the unit matrix is that matrix. Products of matrices use all cores, or a GPU. In float32 the result
differs from nnU-Net's by less than `TOLERANCE` of the range of the values.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from nnunetv2.preprocessing.resampling.default_resampling import determine_do_sep_z_and_axis
from numpy.typing import NDArray
from scipy import ndimage
from torch import Tensor

Order = Literal[0, 1, 3]
"""Of a spline: nearest, linear, cubic."""

TOLERANCE = 2e-6
"""Largest difference from nnU-Net's result as a share of the range of the input, found on random noise, which is the
worst case for splines (`test/unit/test_resampling.py`)."""

NEGLIGIBLE = 1e-8
"""Weight of a voxel below which a spline is taken to have ended: cubic ones decay by 0.27 from voxel to voxel."""


def resample(
    data: NDArray[np.float32] | Tensor,
    new_shape: Sequence[int],
    current_spacing: Sequence[float],
    new_spacing: Sequence[float],
    *,
    order: Order = 3,
    order_z: Order = 0,
    force_separate_z: bool | None = False,
    device: torch.device | None = None,
) -> Tensor:
    """Resample as nnU-Net's `resample_data_or_seg_to_shape` does with images and logits.

    Parameters
    ----------
    data
        Shape (channel, z, y, x).
    new_shape
        Shape (z, y, x) of the result.
    current_spacing, new_spacing
        Voxel sizes in mm before and after, which decide whether an axis is treated apart.
    order
        Of the splines.
    order_z
        Of those along an axis of thick slices, where that is treated apart.
    force_separate_z
        Whether it is; None to decide by the spacings.
    device
        Where it is computed, and the result lies; by default the CPU.

    Returns
    -------
    Tensor
        Shape (channel, *new_shape), float32.
    """
    array = torch.as_tensor(data).to(device, torch.float32)
    if tuple(array.shape[1:]) == tuple(new_shape):
        return array
    separate, apart = determine_do_sep_z_and_axis(force_separate_z, current_spacing, new_spacing)
    orders: list[Order] = [order_z if separate and axis == apart else order for axis in range(3)]
    resampled = torch.empty((len(array), *(int(n) for n in new_shape)), device=array.device)
    for channel, result in zip(array, resampled, strict=True):
        _resample_channel(channel, result, orders, apart if separate else None)
    return resampled


def _resample_channel(channel: Tensor, result: Tensor, orders: Sequence[Order], apart: int | None) -> None:
    """Fill `result` with one channel, resampled; the axis `apart` comes last, after the values were clipped.

    A spline keeps a constant. So what differs from the first voxel's value is resampled, in the box where anything does
    and as far as its splines reach, which is little where a channel holds a few clicks.
    """
    constant = channel[0, 0, 0].item()
    together = [axis for axis in range(3) if axis != apart]
    low, high = (end(channel, dim=together, keepdim=True) - constant for end in (torch.amin, torch.amax))
    box = _box(channel != constant)
    matrices, window = [], []
    for axis, inside in enumerate(box):
        matrix = _matrix(channel.shape[axis], result.shape[axis], orders[axis])[:, inside]
        reached = np.flatnonzero(np.abs(matrix).max(axis=1, initial=0.0) > NEGLIGIBLE)
        window.append(slice(reached[0], reached[-1] + 1) if len(reached) else slice(0, 0))
        matrices.append(torch.from_numpy(np.ascontiguousarray(matrix[window[-1]])).to(channel.device))
    part = channel[box] - constant
    # what shrinks comes first, so that less is left for the others
    for axis in sorted(together, key=lambda n: result.shape[n] / channel.shape[n]):
        part = _along(part, axis, matrices[axis])
    if max(orders) > 1:  # scikit-image clips to the range of its input, which is a slice where one axis is apart
        if apart is not None:
            low, high = (end.narrow(apart, box[apart].start, part.shape[apart]) for end in (low, high))
        part = part.clamp(low, high)
    if apart is not None:
        part = _along(part, apart, matrices[apart])
    result.fill_(constant)
    result[tuple(window)] += part


def _box(mask: Tensor) -> tuple[slice, ...]:
    """Return the bounding box of a mask, shape (z, y, x)."""
    box = []
    for axis in range(3):
        inside = mask.any(dim=[other for other in range(3) if other != axis]).nonzero()
        box.append(slice(int(inside[0]), int(inside[-1]) + 1) if len(inside) else slice(0, 0))
    return tuple(box)


def _along(part: Tensor, axis: int, matrix: Tensor) -> Tensor:
    """Multiply each line of an array (z, y, x) along one axis by a matrix."""
    if axis == 0:
        return (matrix @ part.flatten(1)).reshape(len(matrix), *part.shape[1:])
    if axis == 1:
        return matrix @ part
    return part @ matrix.T


@lru_cache(maxsize=32)
def _matrix(old: int, new: int, order: Order) -> NDArray[np.float32]:
    """Return the matrix (new, old) of a spline along one axis, with SciPy's borders."""
    if old == new:
        return np.eye(old, dtype=np.float32)
    if order == 0:
        nearest = (np.arange(new) + 0.5) * (old / new) - 0.5
        matrix = np.zeros((new, old))
        matrix[np.arange(new), np.clip(np.floor(nearest + 0.5), 0, old - 1).astype(int)] = 1
    else:
        matrix = ndimage.zoom(np.eye(old), (new / old, 1), order=order, mode="nearest", grid_mode=True)
    return matrix.astype(np.float32)
