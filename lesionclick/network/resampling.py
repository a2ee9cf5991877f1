"""nnU-Net's two resamplings, fast, channel by channel, and where only a part of the result is wanted, that part alone.

nnU-Net's default resizes each channel by scikit-image, whose cubic splines go through SciPy's `zoom` in double
precision and one thread. A spline of several axes is the product of splines of one, so that each axis is a matrix (new
size, old size); what SciPy does to the unit matrix is that matrix. Products of matrices use all cores, or a GPU. In
float32 the result differs from nnU-Net's by less than `TOLERANCE` of the range of the values. Its other one, PyTorch's
trilinear interpolation, goes axis by axis as well, slice by slice, in half the time of PyTorch's, and to the same
tolerance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, get_args

import numpy as np
import torch
from nnunetv2.configuration import ANISO_THRESHOLD
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

Window = tuple[slice, ...]
"""Part of an array along z, y, x."""


class Resampling(Protocol):
    """Brings a channel to another shape."""

    def __call__(
        self,
        channel: Tensor,
        new_shape: Sequence[int],
        current_spacing: Sequence[float],
        new_spacing: Sequence[float],
        /,
        *,
        window: Window | None = None,
    ) -> Tensor:
        """Resample one channel.

        Parameters
        ----------
        channel
            Shape (z, y, x), float32.
        new_shape
            Shape (z, y, x) of the whole result.
        current_spacing, new_spacing
            Voxel sizes in mm before and after, which decide whether an axis is treated apart.
        window
            Part of the result that is wanted; by default all of it.

        Returns
        -------
        Tensor
            Shape of the window, float32, where `channel` is.
        """


def find_resampling(name: str, options: Mapping[str, Any]) -> Resampling | None:
    """Return the fast form of one of nnU-Net's resamplings of images or logits, or None where there is none.

    Parameters
    ----------
    name, options
        Those of nnU-Net's plans, such as ``resampling_fn_data`` and ``resampling_fn_data_kwargs``.
    """
    chosen = {key: value for key, value in options.items() if (key, value) != ("is_seg", False)}
    if name == "resample_torch_fornnunet" and chosen == {"force_separate_z": False}:
        return resample_trilinearly
    known = set(chosen) <= {"order", "order_z", "force_separate_z"}
    orders = {chosen.get(key, 0) for key in ("order", "order_z")}
    if name == "resample_data_or_seg_to_shape" and known and orders <= set(get_args(Order)):
        return Splines(**chosen)
    return None


def resample_trilinearly(
    channel: Tensor,
    new_shape: Sequence[int],
    _current_spacing: Sequence[float],
    _new_spacing: Sequence[float],
    /,
    *,
    window: Window | None = None,
) -> Tensor:
    """Resample as nnU-Net's `resample_torch_fornnunet` does with no axis apart; see `Resampling`.

    A window has the same bits as that part of the whole.
    """
    wanted = window or tuple(slice(0, int(n)) for n in new_shape)
    if tuple(channel.shape) == tuple(new_shape):
        return channel[wanted]
    z, y, x = (
        _neighbours(int(old), int(new), part) for old, new, part in zip(channel.shape, new_shape, wanted, strict=True)
    )
    result = channel.new_empty([axis.stop - axis.start for axis in wanted])
    if not result.numel():
        return result
    first = int(y.low[0])
    rows = channel[:, first : int(y.high[-1]) + 1]
    (low_y, high_y, share_y), (low_x, high_x, share_x) = (
        [torch.from_numpy(values).to(channel.device) for values in axis]
        for axis in (y._replace(low=y.low - first, high=y.high - first), x)
    )
    slices = zip(result, z.low.tolist(), z.high.tolist(), z.share.tolist(), strict=True)
    for done, low_z, high_z, share_z in slices:  # one after the other, which stay in the cache of a CPU
        part = torch.lerp(rows[low_z], rows[high_z], share_z)
        part = torch.lerp(part.index_select(1, low_x), part.index_select(1, high_x), share_x)
        torch.lerp(part.index_select(0, low_y), part.index_select(0, high_y), share_y[:, None], out=done)
    return result


class _Neighbours(NamedTuple):
    """The two voxels before that each voxel after lies between along one axis, and its share of the higher one."""

    low: NDArray[np.int64]
    high: NDArray[np.int64]
    share: NDArray[np.float32]


def _neighbours(old: int, new: int, part: slice) -> _Neighbours:
    """Return the neighbours for a part of an axis, with the borders and the rounding of PyTorch, centre to centre."""
    scale = float(np.float32(old) / np.float32(new))
    places = ((np.arange(part.start, part.stop) + 0.5) * scale - 0.5).astype(np.float32).clip(0)
    low = np.minimum(places.astype(np.int64), old - 1)
    return _Neighbours(low, np.minimum(low + 1, old - 1), (places - low).astype(np.float32))


@dataclass(frozen=True)
class Splines:
    """Resamples as nnU-Net's `resample_data_or_seg_to_shape` does with images and logits; see `Resampling`.

    Attributes
    ----------
    order
        Of the splines.
    order_z
        Of those along an axis of thick slices, where that is treated apart.
    force_separate_z
        Whether it is; None to decide by the spacings.
    """

    order: Order = 3
    order_z: Order = 0
    force_separate_z: bool | None = False

    def __call__(
        self,
        channel: Tensor,
        new_shape: Sequence[int],
        current_spacing: Sequence[float],
        new_spacing: Sequence[float],
        /,
        *,
        window: Window | None = None,
    ) -> Tensor:
        """Resample one channel; see `Resampling`.

        A spline keeps a constant. So what differs from the first voxel's value is resampled, in the box where anything
        does and as far as its splines reach, which is little where a channel holds a few clicks.
        """
        wanted = window or tuple(slice(0, int(n)) for n in new_shape)
        if tuple(channel.shape) == tuple(new_shape):
            return channel[wanted]
        apart = _axis_apart(self.force_separate_z, current_spacing, new_spacing)
        orders = [self.order_z if axis == apart else self.order for axis in range(3)]
        constant = channel[0, 0, 0].item()
        box = _box(channel != constant)
        matrices, reached = [], []
        for axis, inside in enumerate(box):
            matrix = _matrix(channel.shape[axis], int(new_shape[axis]), orders[axis])[wanted[axis], inside]
            rows = np.flatnonzero(np.abs(matrix).max(axis=1, initial=0.0) > NEGLIGIBLE)
            reached.append(slice(rows[0], rows[-1] + 1) if len(rows) else slice(0, 0))
            matrices.append(torch.from_numpy(np.ascontiguousarray(matrix[reached[-1]])).to(channel.device))
        part = channel[box] - constant
        # what shrinks comes first, so that less is left for the others
        together = [axis for axis in range(3) if axis != apart]
        for axis in sorted(together, key=lambda n: len(matrices[n]) / max(part.shape[n], 1)):
            part = _along(part, axis, matrices[axis])
        if max(orders) > 1:  # scikit-image clips to the range of its input, which is a slice where one axis is apart
            low, high = (end(channel, dim=together, keepdim=True) - constant for end in (torch.amin, torch.amax))
            if apart is not None:
                low, high = (end.narrow(apart, box[apart].start, part.shape[apart]) for end in (low, high))
            part = part.clamp_(low, high)
        if apart is not None:
            part = _along(part, apart, matrices[apart])
        shape = [axis.stop - axis.start for axis in wanted]
        if list(part.shape) == shape:
            return part.add_(constant)
        result = torch.full(shape, constant, dtype=part.dtype, device=part.device)
        result[tuple(reached)] += part
        return result


def _axis_apart(force: bool | None, current_spacing: Sequence[float], new_spacing: Sequence[float]) -> int | None:
    """Return the axis of thick slices that nnU-Net treats apart, by the spacing before, else by that after."""
    if force is False:
        return None
    for spacing in (current_spacing, new_spacing):
        if force or max(spacing) / min(spacing) > ANISO_THRESHOLD:
            thick = [axis for axis, mm in enumerate(spacing) if mm == max(spacing)]
            return thick[0] if len(thick) == 1 else None
    return None


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
