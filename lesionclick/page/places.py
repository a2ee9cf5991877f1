"""Places and images as the viewer wants them: NIfTI, whose millimetres run to the right, to the front and to the head.

`Grid` and ITK count millimetres to the left, to the back and to the head.
"""

from __future__ import annotations

from collections.abc import Sequence

import nibabel
import numpy as np
from numpy.typing import ArrayLike, NDArray

from lesionclick.images import Grid, Volume, are_inside, indices_from_points

_FLIP = np.array([-1.0, -1.0, 1.0])


def from_ras(places_mm: ArrayLike) -> NDArray[np.float64]:
    """Return ITK's millimetres of NIfTI's, or NIfTI's of ITK's, shape (..., 3), x, y, z."""
    places: NDArray[np.float64] = np.asarray(places_mm, dtype=np.float64) * _FLIP
    return places


def voxel_at(grid: Grid, ras_mm: Sequence[float]) -> tuple[int, int, int] | None:
    """Return the voxel (x, y, z) at a place of the viewer, or None outside the image."""
    index = np.rint(grid.to_index(from_ras(ras_mm))[0])
    if not np.isfinite(index).all() or not are_inside(indices_from_points(index), grid.shape_zyx).all():
        return None
    x, y, z = index.astype(int).tolist()
    return x, y, z


def ras_at(grid: Grid, point_xyz: Sequence[float]) -> list[float]:
    """Return the place in the viewer, in mm, of a voxel index (x, y, z)."""
    place: list[float] = from_ras(grid.to_physical(point_xyz)[0]).tolist()
    return place


def nifti_bytes(volume: Volume) -> bytes:
    """Return an image as an uncompressed NIfTI file."""
    affine = np.eye(4)
    affine[:3, :3] = _FLIP[:, None] * volume.grid.axes_mm
    affine[:3, 3] = from_ras(volume.grid.origin_xyz)
    image = nibabel.Nifti1Image(volume.array.transpose(), affine)
    image.header.set_slope_inter(1, 0)
    content: bytes = image.to_bytes()
    return content
