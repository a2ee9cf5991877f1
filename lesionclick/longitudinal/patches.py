"""Patches around lesions: how large, and how they are cut out of an image and put back. Pure NumPy and SciPy.

A patch has axes of its own, those of the patient: z up, y to the back, x to the left, whatever the image's direction.
Its voxels are the network's, multiplied by a zoom, so that small and large lesions alike fill a good part of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from lesionclick.images import Grid

ZOOMS = (0.6, 1.0, 1.6, 2.5, 4.0)
"""Sizes of a patch, in units of the network's voxel size."""
ROOM = 2.0
"""Least size of a patch in units of the lesion's: room for growth, and for a point that is not quite right."""


def choose_zoom(extent_mm: ArrayLike, patch_mm: ArrayLike) -> float:
    """Return the smallest of `ZOOMS` at which a patch leaves `ROOM` around a lesion, else the largest.

    Parameters
    ----------
    extent_mm
        Size of the lesion along z, y, x.
    patch_mm
        Size of the patch at zoom 1 along z, y, x.
    """
    needed = float((ROOM * np.asarray(extent_mm) / np.asarray(patch_mm)).max())
    return next((zoom for zoom in ZOOMS if zoom >= needed), ZOOMS[-1])


@dataclass(frozen=True)
class Patch:
    """A patch's place in an image.

    Attributes
    ----------
    shape
        Of the patch, (z, y, x).
    matrix, offset
        Image index = `matrix` @ patch index + `offset`, all in (z, y, x); shapes (3, 3) and (3,).
    """

    shape: tuple[int, ...]
    matrix: NDArray[np.float64]
    offset: NDArray[np.float64]

    @classmethod
    def around(cls, grid: Grid, place_mm: ArrayLike, shape: Sequence[int], spacing_zyx: ArrayLike) -> Patch:
        """Centre a patch of voxels of `spacing_zyx` mm on a place (x, y, z) in mm of the image on `grid`."""
        to_index = np.linalg.inv(grid.axes_mm)[::-1, ::-1]  # reversed in rows and columns: from and to (z, y, x)
        matrix = np.asarray(to_index * np.asarray(spacing_zyx), dtype=np.float64)
        centre = grid.to_index_zyx(place_mm)[0]
        return cls(tuple(shape), matrix, centre - matrix @ ((np.asarray(shape) - 1) / 2))

    @classmethod
    def at_index(cls, index_zyx: ArrayLike, shape: Sequence[int], zoom: float) -> Patch:
        """Centre a patch on an index of an image with the network's voxels and the patient's axes."""
        matrix = zoom * np.eye(3)
        return cls(tuple(shape), matrix, np.asarray(index_zyx) - matrix @ ((np.asarray(shape) - 1) / 2))

    def to_patch(self, index_zyx: ArrayLike) -> NDArray[np.float64]:
        """Return the patch index, shape (3,), of an image index."""
        offset = np.asarray(index_zyx, dtype=np.float64) - self.offset
        index: NDArray[np.float64] = np.linalg.inv(self.matrix) @ offset
        return index

    def cut(self, array: NDArray[np.float32], outside: float) -> NDArray[np.float32]:
        """Return the patch by linear interpolation, float32; `outside` lies beyond the image."""
        return ndimage.affine_transform(
            array, self.matrix, self.offset, self.shape, order=1, mode="constant", cval=outside
        )

    def cut_mask(self, numbers: NDArray[np.integer], number: int) -> NDArray[np.bool_]:
        """Return where the patch holds at least half of a voxel of lesion `number`."""
        window, moved = self._window(numbers.shape)
        if any(axis.start >= axis.stop for axis in window):
            return np.zeros(self.shape, dtype=bool)
        inside: NDArray[np.bool_] = moved.cut((numbers[window] == number).astype(np.float32), 0.0) >= 0.5
        return inside

    def paste(
        self, patch: NDArray[np.float32], shape: Sequence[int], outside: float
    ) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
        """Return the part of an image of `shape` under the patch, and the patch's values in its voxels.

        Linear interpolation; voxels in a corner that the patch does not reach get `outside`. Where the image does not
        meet the patch the part is empty.
        """
        window, moved = self._window(shape)
        size = [max(axis.stop - axis.start, 0) for axis in window]
        if 0 in size:
            return tuple(slice(0, 0) for _ in window), np.zeros((0, 0, 0), dtype=np.float32)
        back = np.linalg.inv(moved.matrix)
        return window, ndimage.affine_transform(
            patch, back, -back @ moved.offset, tuple(size), order=1, mode="constant", cval=outside
        )

    def _window(self, shape: Sequence[int]) -> tuple[tuple[slice, ...], Patch]:
        """Return the bounding box of the patch in the image, with a voxel to spare, and the patch's place in it."""
        corners = np.stack(np.meshgrid(*([0, n - 1] for n in self.shape), indexing="ij"), axis=-1).reshape(-1, 3)
        places = corners @ self.matrix.T + self.offset
        low = np.clip(np.floor(places.min(axis=0)) - 1, 0, shape).astype(int)
        high = np.clip(np.ceil(places.max(axis=0)) + 2, 0, shape).astype(int)
        window = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
        return window, Patch(self.shape, self.matrix, self.offset - low)
