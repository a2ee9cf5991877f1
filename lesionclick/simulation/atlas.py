"""Organ shapes of three people, for patients that look like patients; sources and licences in `atlas/README.md`."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from importlib import resources
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

VOXEL_MM = 3.0
_MARGIN = 2

Person = Literal["female", "male", "torso"]


@dataclass(frozen=True)
class Organ:
    """The shape of an organ in the standard patient's frame.

    Attributes
    ----------
    full
        Part of each voxel that the organ fills, float32, shape (z, y, x), voxels of `VOXEL_MM`; smooth, 0.5 on the
        surface.
    origin
        Place (z, y, x) of the first voxel's centre in mm.
    centre
        Centre of gravity (z, y, x) in mm.
    ml
        Volume.
    """

    full: NDArray[np.float32]
    origin: NDArray[np.float64]
    centre: NDArray[np.float64]
    ml: float

    @property
    def corners(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lowest and highest place (z, y, x) in mm."""
        return self.origin, self.origin + (np.array(self.full.shape) - 1) * VOXEL_MM


@cache
def load_organ(person: Person, name: str) -> Organ:
    """Return an organ of a person.

    Raises
    ------
    KeyError
        If that person lacks it.
    """
    with _file() as atlas:
        mask = np.pad(atlas[f"{person}/{name}"], _MARGIN)
        origin = atlas[f"{person}/{name}/origin"].astype(np.float64) - _MARGIN * VOXEL_MM
    smooth = ndimage.gaussian_filter(mask.astype(np.float32), 0.7)
    centre = np.array(ndimage.center_of_mass(mask)) * VOXEL_MM + origin
    return Organ(smooth, origin, centre, float(mask.sum()) * VOXEL_MM**3 / 1000)


def smooth_organ(organ: Organ, mm: float) -> Organ:
    """Return an organ of the same volume and place whose surface is smoothed by a Gaussian with that spread in mm."""
    margin = int(np.ceil(2 * mm / VOXEL_MM))
    smooth = ndimage.gaussian_filter(np.pad(organ.full, margin), mm / VOXEL_MM)
    filled = round(organ.ml * 1000 / VOXEL_MM**3)
    surface = np.partition(smooth.ravel(), -filled)[-filled]
    return replace(organ, full=smooth * (0.5 / surface), origin=organ.origin - margin * VOXEL_MM)


def list_organs() -> list[tuple[str, str]]:
    """Return person and name of each organ that there is."""
    with _file() as atlas:
        names = [key.split("/") for key in atlas.files]
    return sorted((parts[0], parts[1]) for parts in names if len(parts) == 2)


def _file() -> np.lib.npyio.NpzFile:
    source = resources.files("lesionclick.simulation") / "atlas" / "organs.npz"
    with resources.as_file(source) as path:
        file: np.lib.npyio.NpzFile = np.load(path)
        return file
