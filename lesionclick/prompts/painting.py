"""What the encodings paint with. Pure; arrays are (z, y, x)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import are_inside

Unit = Literal["voxel", "mm"]


def in_voxels(radius: float, unit: Unit, spacing_zyx: Sequence[float]) -> NDArray[np.float64]:
    """Return a radius in voxels along z, y, x."""
    return radius / np.asarray(spacing_zyx, dtype=np.float64) if unit == "mm" else np.full(3, radius)


def in_mm(radius: float, unit: Unit, spacing_zyx: Sequence[float]) -> float:
    """Return a radius in mm; one in voxels is that many mean voxel sizes."""
    return radius if unit == "mm" else radius * float(np.mean(spacing_zyx))


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


def box_around(
    points_zyx: NDArray[np.float64], shape_zyx: Sequence[int], spacing_zyx: Sequence[float], *, reach_mm: float
) -> tuple[slice, ...]:
    """Return the part of a grid, along z, y, x, that holds all within `reach_mm` of points, shape (n, 3)."""
    if not len(points_zyx):
        return (slice(0, 0),) * 3
    reach = reach_mm / np.asarray(spacing_zyx)
    low = np.clip(np.ceil(points_zyx.min(axis=0) - reach), 0, shape_zyx).astype(int)
    high = np.clip(np.floor(points_zyx.max(axis=0) + reach) + 1, low, shape_zyx).astype(int)
    return tuple(slice(int(first), int(end)) for first, end in zip(low, high, strict=True))


def distance_mm(
    points_zyx: NDArray[np.float64],
    box: tuple[slice, ...],
    spacing_zyx: Sequence[float],
    *,
    reach_mm: float,
    device: torch.device | None,
) -> torch.Tensor:
    """Return the distance to the nearest point in mm in a box of a grid, of its shape; infinite where none is near.

    Points are indices (z, y, x) on the grid, shape (n, 3), and the box is its part along z, y, x. Near is what lies
    within `reach_mm` of a point along every axis. The values do not depend on the box.
    """
    axes = [torch.arange(part.start, part.stop, device=device, dtype=torch.float32) for part in box]
    nearest = torch.full([len(axis) for axis in axes], torch.inf, device=device)
    corner, shape = np.array([part.start for part in box]), tuple(part.stop for part in box)
    for point in points_zyx:
        around = box_around(point[None], shape, spacing_zyx, reach_mm=reach_mm)
        window = tuple(slice(max(w.start - c, 0), max(w.stop - c, 0)) for w, c in zip(around, corner, strict=True))
        z, y, x = (
            ((axis[part] - p) * s) ** 2
            for axis, part, p, s in zip(axes, window, point.tolist(), spacing_zyx, strict=True)
        )
        near = nearest[window]
        torch.minimum(near, z[:, None, None] + y[:, None] + x, out=near)
    return nearest.sqrt_()


def inside_grid(points_zyx: NDArray[np.float64], shape_zyx: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the points as whole indices, without those that lie outside the grid."""
    return np.rint(points_zyx[are_inside(points_zyx, shape_zyx)]).astype(np.int64)
