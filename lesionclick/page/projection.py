"""Rotating maximum-intensity projections, each pixel with the voxel that it shows."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lesionclick.images import Grid, Volume, points_from_indices

Scalar = TypeVar("Scalar", bound=np.generic)

N_FRAMES = 36
"""Over the full turn: one every 10 degrees."""
POOLED_MM = 4.0
"""Voxels are joined to blocks of about this size, each with its highest value: a PET resolves no more."""
STEP = 0.7
"""Distance of samples in units of the joined voxel. Below 1 / sqrt(2) no voxel slips between the samples of a slice,
however the frame is turned."""
BAND_SAMPLES = 2**22
"""Samples that are in memory at a time, or those of one row where these are more."""


@dataclass(frozen=True)
class Frame:
    """A projection.

    Attributes
    ----------
    values
        Highest value along each ray, 0 where a ray meets no voxel, shape (rows, columns), float32.
    voxels
        The voxel that has it, as an index into the flat array, -1 where there is none, shape (rows, columns), int32.
    """

    values: NDArray[np.float32]
    voxels: NDArray[np.int32]


@dataclass(frozen=True)
class Raster:
    """Where the samples of frames lie.

    Attributes
    ----------
    centre_mm
        Of the volume, about which frames turn, x, y, z.
    step_mm
        Between two samples, along rows, columns and depth.
    shape
        Rows and columns of a frame; each pixel has as many samples in depth as a frame has columns.
    """

    centre_mm: NDArray[np.float64]
    step_mm: float
    shape: tuple[int, int]

    @classmethod
    def around(cls, grid: Grid) -> Raster:
        """Return the raster that holds a grid of blocks, however it is turned."""
        corners = grid.to_physical(points_from_indices(_corners(grid.shape_zyx)))
        centre_mm = (corners.min(axis=0) + corners.max(axis=0)) / 2
        reach = np.abs(corners - centre_mm)
        step_mm = STEP * min(grid.spacing_xyz)
        wide = math.ceil(np.hypot(reach[:, 0], reach[:, 1]).max() / step_mm)
        high = math.ceil(reach[:, 2].max() / step_mm)
        return cls(centre_mm, step_mm, (2 * high + 1, 2 * wide + 1))


class Projector:
    """Makes the frames of a volume, turned about the patient's long axis.

    Frame 0 is seen from the front, with the patient's right on the left; the patient turns the left side to the viewer.
    Rows run from head to foot.

    Parameters
    ----------
    volume
        Such as a PET.
    """

    n_frames = N_FRAMES

    def __init__(self, volume: Volume) -> None:
        self._grid = volume.grid
        grid, values, voxels = _pool(volume)
        self._index_image = Volume(np.arange(values.size, dtype=np.int32).reshape(grid.shape_zyx), grid).to_image()
        # what lies outside has the index -1, and so the last place
        self._values, self._voxels = np.append(values, np.float32(-np.inf)), np.append(voxels, np.int32(-1))
        raster = Raster.around(grid)
        self.centre_mm, self.step_mm, self.shape = raster.centre_mm, raster.step_mm, raster.shape

    def axes(self, number: int) -> NDArray[np.float64]:
        """Return the directions of the columns, the rows and the depth of a frame, as columns of a (3, 3) matrix."""
        angle = 2 * math.pi * number / self.n_frames
        c, s = math.cos(angle), math.sin(angle)
        return np.array([[c, 0.0, -s], [s, 0.0, c], [0.0, -1.0, 0.0]])

    def frame(self, number: int) -> Frame:
        """Return a frame, by the number of its turn from 0 to `n_frames` - 1."""
        rows, columns = self.shape
        high = max(1, BAND_SAMPLES // columns**2)
        bands = [self._band(number, range(first, min(first + high, rows))) for first in range(0, rows, high)]
        best = np.concatenate(bands)
        return Frame(np.where(best >= 0, self._values[best], np.float32(0)), self._voxels[best])

    def _band(self, number: int, band: range) -> NDArray[np.int32]:
        """Return the block that each pixel of some rows of a frame shows, -1 where there is none."""
        rows, columns = self.shape
        axes = self.axes(number)
        first = np.array([0, band.start, 0]) - (np.array([columns, rows, columns]) - 1) / 2
        found = sitk.Resample(
            self._index_image,
            (columns, len(band), columns),
            sitk.Transform(),
            sitk.sitkNearestNeighbor,
            (self.centre_mm + axes @ (first * self.step_mm)).tolist(),
            [self.step_mm] * 3,
            axes.ravel().tolist(),
            -1,
        )
        blocks = sitk.GetArrayViewFromImage(found)
        deepest = self._values[blocks].argmax(axis=0)[None]
        best: NDArray[np.int32] = np.take_along_axis(blocks, deepest, axis=0)[0]
        return best

    def point_xyz(self, voxel: int) -> tuple[int, int, int]:
        """Return the voxel index (x, y, z) of an index into the flat array."""
        z, y, x = (int(one) for one in np.unravel_index(voxel, self._grid.shape_zyx))
        return x, y, z


class Frames:
    """The frames of a volume, each made when it is first asked for.

    One is made at a time, since it takes memory and all cores.

    Parameters
    ----------
    volume
        Such as a PET.
    """

    def __init__(self, volume: Volume) -> None:
        self._volume = volume
        self._making = threading.Lock()
        self._projector: Projector | None = None
        self._frames: dict[int, Frame] = {}

    @property
    def projector(self) -> Projector:
        """What makes the frames."""
        if self._projector is None:
            with self._making:
                self._projector = self._projector or Projector(self._volume)
        return self._projector

    def frame(self, number: int) -> Frame:
        """Return a frame by its number, see `Projector.frame`; those that are there need not wait for others."""
        projector = self.projector
        if number not in self._frames:
            with self._making:
                if number not in self._frames:
                    self._frames[number] = projector.frame(number)
        return self._frames[number]


def pooling_factors(grid: Grid) -> tuple[int, ...]:
    """Return how many voxels along z, y and x are joined to a block."""
    return tuple(max(1, round(POOLED_MM / spacing)) for spacing in grid.spacing_zyx)


def pooled_grid(grid: Grid) -> Grid:
    """Return the grid of the blocks that voxels are joined to."""
    factors_xyz = np.array(pooling_factors(grid)[::-1])
    return Grid(
        tuple((-(-np.array(grid.size_xyz) // factors_xyz)).tolist()),
        tuple((factors_xyz * grid.spacing_xyz).tolist()),
        tuple(grid.to_physical((factors_xyz - 1) / 2)[0].tolist()),
        grid.direction,
    )


def _pool(volume: Volume) -> tuple[Grid, NDArray[np.float32], NDArray[np.int32]]:
    """Join voxels to blocks; return the blocks' grid, their highest values, and where these are, both flat."""
    grid, factors = volume.grid, pooling_factors(volume.grid)
    padding = [(0, -size % factor) for size, factor in zip(grid.shape_zyx, factors, strict=True)]
    array = np.pad(volume.array.astype(np.float32), padding, constant_values=-np.inf)
    voxels = np.pad(np.arange(volume.array.size, dtype=np.int32).reshape(grid.shape_zyx), padding)
    values, places = _blocks(array, factors), _blocks(voxels, factors)
    best = values.argmax(axis=1)[:, None]
    return pooled_grid(grid), np.take_along_axis(values, best, 1)[:, 0], np.take_along_axis(places, best, 1)[:, 0]


def _blocks(array: NDArray[Scalar], factors: Sequence[int]) -> NDArray[Scalar]:
    """Return the voxels of each block as a row."""
    (fz, fy, fx), (z, y, x) = factors, array.shape
    parts = array.reshape(z // fz, fz, y // fy, fy, x // fx, fx).transpose(0, 2, 4, 1, 3, 5)
    return parts.reshape(-1, fz * fy * fx)


def _corners(shape_zyx: Sequence[int]) -> NDArray[np.float64]:
    """Return the outer corners of an array, shape (8, 3)."""
    ends = [(-0.5, size - 0.5) for size in shape_zyx]
    return np.stack(np.meshgrid(*ends, indexing="ij"), axis=-1).reshape(-1, 3)
