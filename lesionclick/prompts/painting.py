"""What the encodings paint with. Pure; arrays are (z, y, x)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

Unit = Literal["voxel", "mm"]


def in_voxels(radius: float, unit: Unit, spacing_zyx: Sequence[float]) -> NDArray[np.float64]:
    """Return a radius in voxels along z, y, x."""
    return radius / np.asarray(spacing_zyx, dtype=np.float64) if unit == "mm" else np.full(3, radius)


def paint_balls(
    points_zyx: NDArray[np.float64], shape_zyx: tuple[int, ...], radius_zyx: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return balls of `radius_zyx` voxels, shape (z, y, x); along each axis distances are in units of the radius.

    A point may lie outside the grid; the part of its ball that lies inside is painted.
    """
    half = np.floor(radius_zyx).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-h - 1, h + 2) for h in half), indexing="ij"), axis=-1)
    inside = ((offsets / radius_zyx) ** 2).sum(axis=-1) <= 1.0
    stamp = ndimage.distance_transform_edt(inside, sampling=radius_zyx.max() / radius_zyx)
    stamp = (stamp / stamp.max()).astype(np.float32)
    shape = np.asarray(shape_zyx)
    canvas = np.zeros(shape + 2 * (2 * half + 1), dtype=np.float32)  # holds all of each ball that reaches the grid
    for point in inside_grid(points_zyx + half, tuple(shape + 2 * half)):
        window = canvas[tuple(slice(p, p + n) for p, n in zip(point, stamp.shape, strict=True))]
        np.maximum(window, stamp, out=window)
    return canvas[tuple(slice(2 * h + 1, 2 * h + 1 + n) for n, h in zip(shape_zyx, half, strict=True))]


def distance_mm(
    points_zyx: NDArray[np.float64],
    shape: tuple[int, ...],
    spacing_zyx: Sequence[float],
    *,
    reach_mm: float,
    device: torch.device | None,
) -> torch.Tensor:
    """Return the distance to the nearest point in mm, shape (z, y, x); infinite where none is near.

    Near is what lies in a box of `reach_mm` around a point.
    """
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    nearest = torch.full(shape, torch.inf, device=device)
    for point in points_zyx.tolist():
        window = tuple(
            slice(max(0, math.ceil(p - reach_mm / s)), max(0, math.floor(p + reach_mm / s) + 1))
            if reach_mm < math.inf
            else slice(None)
            for p, s in zip(point, spacing_zyx, strict=True)
        )
        z, y, x = (
            ((axis[part] - p) * s) ** 2 for axis, part, p, s in zip(axes, window, point, spacing_zyx, strict=True)
        )
        near = nearest[window]
        torch.minimum(near, z[:, None, None] + y[:, None] + x, out=near)
    return nearest.sqrt_()


def inside_grid(points_zyx: NDArray[np.float64], shape_zyx: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the points as whole indices, without those that lie outside the grid."""
    indices = np.rint(points_zyx).astype(np.int64)
    kept: NDArray[np.int64] = indices[((indices >= 0) & (indices < np.asarray(shape_zyx))).all(axis=1)]
    return kept
