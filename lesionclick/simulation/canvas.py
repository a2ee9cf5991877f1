"""The image that a patient is drawn on, and the patient's build.

Places are in mm in the frame of a standard patient of 1,140 mm from mid-thigh to vertex: (z, y, x) with z upwards from
mid-thigh, y to the back, x to the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Grid
from lesionclick.simulation.anatomy import Shape
from lesionclick.simulation.atlas import VOXEL_MM, Organ

STANDARD_HEIGHT = 1140.0
NAMES = (
    "air", "table", "fat", "muscle", "bone", "marrow", "lung", "airway", "brain", "blood", "myocardium", "liver",
    "gallbladder", "spleen", "pancreas", "kidney_cortex", "kidney_medulla", "kidney_pelvis", "ureter", "bladder",
    "stomach", "duodenum", "small_bowel", "colon", "colon_content", "prostate", "uterus", "salivary_glands",
    "lacrimal_glands", "tonsils", "thyroid", "adrenals", "oesophagus", "spinal_cord", "brown_fat", "ganglia", "larynx",
    "testes", "breast", "disc", "benign_uptake",
)  # fmt: skip
ORGANS = {name: number for number, name in enumerate(NAMES)}
"""Numbers of the organs in a patient's organ image; `benign_uptake` marks foci that look like lesions."""
WARP_MM = 6.0


Sex = Literal["female", "male"]
Arms = Literal["up", "down", "out"]


@dataclass(frozen=True)
class Build:
    """What a patient looks like from outside.

    Attributes
    ----------
    sex
        Whose organs most of them are.
    tall, wide
        Factors on the standard height and girth.
    fat_mm
        Thickness of the fat under the skin.
    arms
        ``up``, ``down``, or ``out`` of the image.
    prostate
        Whether a man has one still.
    """

    sex: Sex
    tall: float
    wide: float
    fat_mm: float
    arms: Arms
    prostate: bool

    @classmethod
    def draw(cls, rng: np.random.Generator, sex: Sex | None = None) -> Build:
        """Draw a patient between small and slim, and tall and obese."""
        chosen: Sex = sex or ("female" if rng.uniform() < 0.5 else "male")
        tall = rng.normal(0.95 if chosen == "female" else 1.02, 0.04)
        arms: tuple[Arms, ...] = ("up", "down", "out")
        return cls(
            chosen,
            float(np.clip(tall, 0.85, 1.12)),
            float(np.clip(rng.normal(1.0, 0.06), 0.87, 1.15)),
            float(np.clip(rng.lognormal(np.log(16), 0.5), 5, 45)),
            arms[int(rng.choice(3, p=(0.5, 0.4, 0.1)))],
            bool(rng.uniform() < 0.55),
        )

    @property
    def height(self) -> float:
        """Height from mid-thigh to vertex in mm."""
        return STANDARD_HEIGHT * self.tall

    @property
    def scale_zyx(self) -> NDArray[np.float64]:
        """What turns places of the standard patient into this one's."""
        return np.array((self.tall, self.wide, self.wide))

    @property
    def half_width(self) -> float:
        """Half the width of the image in mm."""
        return (275 if self.arms == "down" else 205) * self.wide + self.fat_mm

    @property
    def half_depth(self) -> float:
        """Half the depth of the image in mm, with some of the table."""
        return 150 * self.wide + self.fat_mm + 12


class Canvas:
    """The organ image that a patient is drawn on, and where its voxels lie in the standard patient.

    Attributes
    ----------
    organs
        Numbers of `ORGANS`, uint8, shape (z, y, x).
    z, y, x
        Places in mm, float32, same shape, displaced at random.
    """

    def __init__(self, grid: Grid, build: Build, bottom_mm: float, rng: np.random.Generator) -> None:
        self.spacing_zyx = np.array(grid.spacing_zyx)
        self.organs = np.zeros(grid.shape_zyx, dtype=np.uint8)
        self._rng = rng
        offsets = (bottom_mm, -build.half_depth, -build.half_width)
        self.axes = [
            ((np.arange(n) + 0.5) * mm + start) / scale
            for n, mm, start, scale in zip(grid.shape_zyx, self.spacing_zyx, offsets, build.scale_zyx, strict=True)
        ]
        shapes = [[-1 if i == j else 1 for j in range(3)] for i in range(3)]
        self.z, self.y, self.x = (
            axis.reshape(shape).astype(np.float32) + WARP_MM * self.noise(90.0)
            for axis, shape in zip(self.axes, shapes, strict=True)
        )

    def noise(self, length_mm: float) -> NDArray[np.float32]:
        """Return smooth noise of mean 0 and spread 1 that changes over about `length_mm`."""
        return smooth_noise(self.organs.shape, self.spacing_zyx, length_mm, self._rng)

    def window(
        self, low: Sequence[float] | NDArray[np.float64], high: Sequence[float] | NDArray[np.float64]
    ) -> tuple[slice, ...]:
        """Return the voxels that may lie between two places."""
        reach = 3.5 * WARP_MM
        return tuple(
            slice(*np.searchsorted(axis, (a - reach, b + reach)).tolist())
            for axis, a, b in zip(self.axes, low, high, strict=True)
        )

    def places(self, window: tuple[slice, ...]) -> tuple[NDArray[np.float32], ...]:
        """Return z, y and x in a window."""
        return self.z[window], self.y[window], self.x[window]

    def paint(
        self, name: str, window: tuple[slice, ...], inside: NDArray[np.bool_], within: Sequence[str] = ()
    ) -> None:
        """Give the voxels `inside` a window to an organ, if `within` is given only where those organs are."""
        part = self.organs[window]
        if within:
            inside = inside & np.isin(part, [ORGANS[other] for other in within])
        part[inside] = ORGANS[name]

    def shape(self, name: str, shape: Shape, within: Sequence[str] = (), scale: float = 1.0) -> None:
        """Paint an ellipsoid or a capsule."""
        ends = np.stack([shape.centre, shape.centre if shape.end is None else shape.end])
        window = self.window(ends.min(axis=0) - shape.radii * scale, ends.max(axis=0) + shape.radii * scale)
        self.paint(name, window, shape.level(*self.places(window)) <= scale, within)

    def in_place(self, organ: Organ) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
        """Return a window around an organ where its own person has it, and how full it is there."""
        return self.full(organ, organ.centre, np.ones(3), organ.centre)

    def full(
        self, organ: Organ, centre: NDArray[np.float64], scale: NDArray[np.float64], pivot: NDArray[np.float64]
    ) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
        """Return a window around an organ, scaled about `pivot`, which comes to `centre`, and how full it is there."""
        low, high = organ.corners
        window = self.window((low - pivot) * scale + centre, (high - pivot) * scale + centre)
        index = [
            ((place - c) / s + p - o) / VOXEL_MM
            for place, c, s, p, o in zip(self.places(window), centre, scale, pivot, organ.origin, strict=True)
        ]
        return window, ndimage.map_coordinates(organ.full, index, order=1, output=np.float32)


def smooth_noise(
    shape: tuple[int, ...], spacing_zyx: NDArray[np.float64], length_mm: float, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Return smooth noise of mean 0 and spread 1, float32, that changes over about `length_mm`."""
    coarse = [max(4, int(n * mm / length_mm) + 3) for n, mm in zip(shape, spacing_zyx, strict=True)]
    noise = rng.normal(size=coarse).astype(np.float32)
    for axis, n in enumerate(shape):  # one axis after the other is far quicker than all three at once
        places = np.linspace(0, coarse[axis] - 1, n)
        low = np.minimum(places.astype(int), coarse[axis] - 2)
        part = (places - low).astype(np.float32)
        part = (part * part * (3 - 2 * part)).reshape([-1 if i == axis else 1 for i in range(3)])
        noise = np.take(noise, low, axis) * (1 - part) + np.take(noise, low + 1, axis) * part
    return noise / max(float(noise.std()), 1e-6)
