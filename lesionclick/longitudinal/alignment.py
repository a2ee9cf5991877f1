"""What a registration finds: a map of places between two images."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from lesionclick.images import Grid

Kind = Literal["deformable", "affine", "centre"]
Array = NDArray[np.float64]

_INVERSION_STEPS, _INVERSION_MM = 200, 0.01


@dataclass(frozen=True, eq=False)
class Alignment:
    """A map of places between two CTs.

    Attributes
    ----------
    kind
        The last stage that counts.
    overlap
        Share of the smaller body that the other covers, 0..1; 0 where the two do not look alike, because any part of
        the body covers any other. See `MIN_SIMILARITY` and `MIN_OVERLAP` of `lesionclick.longitudinal.registration`.
    matrix, offset_mm
        Affine part, shapes (3, 3) and (3,), x, y, z.
    displacement_mm
        Displacement (x, y, z) that comes before the affine part, shape (z, y, x, 3), or none.
    grid
        Where the displacement lies; beyond its borders the values at the border hold.
    complete
        Whether no stage was left out for want of time.
    """

    kind: Kind
    overlap: float
    matrix: Array = field(repr=False)
    offset_mm: Array = field(repr=False)
    displacement_mm: Array | None = field(default=None, repr=False)
    grid: Grid | None = field(default=None, repr=False)
    complete: bool = True

    def to_followup(self, points_mm: ArrayLike) -> Array:
        """Return the places in the follow-up, shape (n, 3), x, y, z in mm, of places in the baseline."""
        points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
        places: Array = (points + self._displacement(points)) @ self.matrix.T + self.offset_mm
        return places

    def to_baseline(self, points_mm: ArrayLike) -> Array:
        """Return the places in the baseline, shape (n, 3), x, y, z in mm, of places in the follow-up.

        The displacement is inverted by fixed-point iteration, at half steps so that it also converges where tissue is
        stretched to more than twice its length.
        """
        points = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3)
        target = (points - self.offset_mm) @ np.linalg.inv(self.matrix).T
        places: Array = target.copy()
        for _ in range(_INVERSION_STEPS):
            step = target - places - self._displacement(places)
            places += step / 2
            if not np.any(np.abs(step) > _INVERSION_MM):
                break
        return places

    def _displacement(self, points_mm: Array) -> Array:
        """Return the displacement at places of the baseline, interpolated, shape (n, 3)."""
        if self.displacement_mm is None or self.grid is None:
            return np.zeros_like(points_mm)
        indices_zyx = self.grid.to_index_zyx(points_mm).T
        axes = [
            ndimage.map_coordinates(self.displacement_mm[..., i], indices_zyx, order=1, mode="nearest")
            for i in range(3)
        ]
        displacement: Array = np.stack(axes, axis=-1)
        return displacement
