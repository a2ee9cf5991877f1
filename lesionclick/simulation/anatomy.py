"""The anatomy of the phantoms: where organs lie, how they look in CT and PET, and where lesions grow.

Places are in mm in the frame of a standard patient of 1,030 mm from mid-thigh to vertex: (z, y, x) with z upwards from
mid-thigh, y to the back, x to the left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating]
Range = tuple[float, float]
Place = Sequence[float] | NDArray[np.float64]

STANDARD_HEIGHT = 1030.0


class Tissue(NamedTuple):
    """Ranges of HU and of the mean SUV for the two tracers."""

    hu: Range
    fdg: Range
    psma: Range


TISSUES = {
    "air": Tissue((-1000, -1000), (0, 0), (0, 0)),
    "fat": Tissue((-115, -85), (0.2, 0.4), (0.2, 0.35)),
    "muscle": Tissue((35, 65), (0.5, 0.9), (0.4, 0.7)),
    "lung": Tissue((-850, -720), (0.35, 0.6), (0.3, 0.5)),
    "bone": Tissue((250, 500), (0.9, 1.8), (0.5, 1.0)),
    "skull": Tissue((700, 1000), (0.6, 1.0), (0.3, 0.6)),
    "brain": Tissue((30, 40), (6.0, 13.0), (0.08, 0.2)),
    "blood": Tissue((35, 50), (1.3, 2.2), (1.1, 1.9)),
    "heart": Tissue((40, 60), (1.5, 11.0), (1.1, 1.9)),
    "liver": Tissue((50, 65), (1.9, 2.9), (3.5, 7.5)),
    "spleen": Tissue((45, 60), (1.6, 2.4), (4.0, 10.0)),
    "kidneys": Tissue((30, 45), (2.5, 7.0), (20.0, 55.0)),
    "bladder": Tissue((0, 15), (6.0, 35.0), (5.0, 50.0)),
    "bowel": Tissue((15, 45), (0.9, 4.0), (1.2, 5.0)),
    "duodenum": Tissue((20, 45), (1.2, 2.5), (6.0, 14.0)),
    "stomach": Tissue((10, 40), (1.2, 3.0), (1.2, 3.0)),
    "salivary_glands": Tissue((20, 60), (1.5, 3.5), (9.0, 19.0)),
    "lacrimal_glands": Tissue((20, 50), (0.8, 1.5), (4.0, 9.0)),
}
ENHANCED_HU: dict[str, Range] = {
    "muscle": (50, 70),
    "blood": (140, 190),
    "heart": (120, 160),
    "liver": (95, 125),
    "spleen": (105, 135),
    "kidneys": (150, 210),
    "bowel": (40, 80),
    "duodenum": (50, 90),
    "stomach": (20, 60),
    "salivary_glands": (60, 100),
    "lacrimal_glands": (50, 90),
}
"""HU of organs in the portal venous phase, about 70 s after contrast agent; the other organs stay as they are."""
ORGANS = {name: number for number, name in enumerate(TISSUES)} | {"benign_uptake": len(TISSUES)}
"""Numbers of the organs in a phantom's organ image; `benign_uptake` marks foci that look like lesions."""

BENIGN_UPTAKE = ORGANS["benign_uptake"]
HOT_ORGANS = [
    ORGANS[name]
    for name in ("brain", "heart", "kidneys", "bladder", "bowel", "duodenum", "salivary_glands", "lacrimal_glands")
]
"""Organs whose voxels stay theirs where a lesion meets them."""


@dataclass(frozen=True)
class Shape:
    """An ellipsoid, or with `end` a capsule from `centre` to there; all in mm as (z, y, x)."""

    centre: NDArray[np.float64]
    radii: NDArray[np.float64]
    end: NDArray[np.float64] | None = None

    def level(self, z: Floats, y: Floats, x: Floats) -> NDArray[np.float64]:
        """Return the distance from the centre (or the axis) in units of the radius; 1 on the surface."""
        offsets = [axis - c for axis, c in zip((z, y, x), self.centre, strict=True)]
        if self.end is not None:
            axis = self.end - self.centre
            along = np.clip(sum(o * a for o, a in zip(offsets, axis, strict=True)) / (axis @ axis), 0, 1)
            offsets = [o - along * a for o, a in zip(offsets, axis, strict=True)]
        squared: NDArray[np.float64] = sum((o / r) ** 2 for o, r in zip(offsets, self.radii, strict=True))
        return np.sqrt(squared)


@dataclass(frozen=True)
class Patient:
    """The size of a patient: factors on the standard height and girth, and whether the arms are in the image."""

    tall: float
    wide: float
    arms_down: bool

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Patient:
        """Draw a patient between small and slim, and tall and obese."""
        return cls(rng.uniform(0.9, 1.1), rng.uniform(0.85, 1.25), bool(rng.uniform() < 0.4))

    @property
    def height(self) -> float:
        """Height from mid-thigh to vertex in mm."""
        return STANDARD_HEIGHT * self.tall

    @property
    def half_width(self) -> float:
        """Half the width of the image in mm."""
        return (290 if self.arms_down else 215) * self.wide

    @property
    def half_depth(self) -> float:
        """Half the depth of the image in mm."""
        return 140 * self.wide

    def place(self, place_zyx: Place) -> NDArray[np.float64]:
        """Carry a place of the standard patient to this one."""
        return np.asarray(place_zyx, dtype=np.float64) * (self.tall, self.wide, self.wide)


class Site(NamedTuple):
    """A place where lesions grow: a segment with a spread around it, how often, and how lesions look in CT there.

    `hu` is without contrast agent (None: the tissue's), `enhanced_hu` with it. A lesion `in_fat` has a rim of fat, as
    lymph nodes do.
    """

    start: tuple[float, float, float]
    end: tuple[float, float, float]
    spread: float
    weight: float
    hu: Range | None
    enhanced_hu: Range
    in_fat: bool = False

    def draw(self, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw a place on either side of the body."""
        place = np.array(self.start) + rng.uniform() * (np.array(self.end) - self.start)
        place += rng.normal(scale=self.spread, size=3)
        place[2] *= rng.choice([-1, 1])
        return place


_NODE = (20.0, 60.0)
_ENHANCED_NODE = (70.0, 110.0)
_BONE = (150.0, 900.0)
_LYTIC = (30.0, 130.0)
LESION_SITES = [
    Site((300, 40, 18), (470, 35, 15), 8, 0.14, _NODE, _ENHANCED_NODE, in_fat=True),  # retroperitoneal nodes
    Site((200, 25, 60), (300, 35, 35), 8, 0.12, _NODE, _ENHANCED_NODE, in_fat=True),  # iliac nodes
    Site((150, -70, 80), (170, -65, 70), 8, 0.05, _NODE, _ENHANCED_NODE, in_fat=True),  # inguinal nodes
    Site((600, 5, 15), (690, 0, 12), 10, 0.11, _NODE, _ENHANCED_NODE, in_fat=True),  # mediastinal nodes
    Site((690, 25, 140), (720, 20, 120), 10, 0.06, _NODE, _ENHANCED_NODE, in_fat=True),  # axillary nodes
    Site((765, 10, 42), (820, 20, 42), 6, 0.06, _NODE, _ENHANCED_NODE, in_fat=True),  # cervical nodes
    Site((560, 0, 85), (680, 10, 75), 25, 0.10, (0.0, 50.0), (20.0, 80.0)),  # lung
    Site((480, 0, -90), (530, 5, -50), 25, 0.09, (20.0, 45.0), (40.0, 75.0)),  # liver
    Site((240, 75, 0), (740, 70, 0), 5, 0.14, _BONE, _LYTIC),  # spine
    Site((230, 40, 90), (320, 45, 85), 12, 0.07, _BONE, _LYTIC),  # pelvic bones
    Site((20, 0, 95), (120, 0, 95), 15, 0.03, None, (85.0, 120.0)),  # thigh
    Site((250, 60, 120), (650, 70, 110), 20, 0.03, None, (85.0, 120.0)),  # trunk wall
]

# half width and half depth of the trunk by height, in mm
_TRUNK = np.array(
    [
        (130, 150, 95),
        (180, 175, 110),
        (300, 165, 112),
        (420, 148, 108),
        (540, 160, 112),
        (680, 172, 108),
        (730, 165, 90),
        (757, 75, 65),
        (800, 60, 60),
        (830, 55, 58),
    ]
)


def draw_organs(z: Floats, y: Floats, x: Floats, patient: Patient, *, rng: np.random.Generator) -> NDArray[np.uint8]:
    """Draw the organs of a patient.

    Parameters
    ----------
    z, y, x
        Place of each voxel in mm, shape (z, y, x).
    patient
        The patient's size.
    rng
        Draws the organs' sizes and places.

    Returns
    -------
    NDArray
        Numbers of `ORGANS`, uint8, shape (z, y, x).
    """
    z, y, x = z / patient.tall, y / patient.wide, x / patient.wide
    organs = np.zeros(z.shape, dtype=np.uint8)

    def draw(name: str, shape: Shape, within: Sequence[str] = (), scale: float = 1.0) -> None:
        reach = shape.radii.max() * scale
        ends = np.stack([shape.centre, shape.centre if shape.end is None else shape.end])
        near = np.flatnonzero(
            ((z > ends[:, 0].min() - reach) & (z < ends[:, 0].max() + reach)).any(axis=(1, 2))
        )  # only slices that the shape can reach
        if not len(near):
            return
        part = slice(near[0], near[-1] + 1)
        inside = shape.level(z[part], y[part], x[part]) <= scale
        if within:
            inside &= np.isin(organs[part], [ORGANS[other] for other in within])
        organs[part][inside] = ORGANS[name]

    def ellipsoid(centre: Place, radii: Place) -> Shape:
        moved = np.array(centre) + rng.normal(scale=4.0, size=3)
        return Shape(moved, np.array(radii) * rng.uniform(0.85, 1.15, 3))

    def capsule(start: Place, end: Place, radius: float) -> Shape:
        return Shape(np.array(start, dtype=float), np.full(3, radius), np.array(end, dtype=float))

    _draw_outline(organs, z, y, x, patient=patient, draw=draw, capsule=capsule, fat=rng.uniform(0.72, 0.9))

    for side in (-1, 1):
        draw("lung", ellipsoid((605, 0, 78 * side), (115, 78, 56)), within=("muscle", "fat"))
    draw("heart", ellipsoid((585, -25, 25), (48, 42, 46)))
    draw("blood", ellipsoid((585, -25, 28), (30, 25, 26)))
    draw("blood", capsule((300, 45, 8), (690, 40, 8), 11))
    draw("liver", ellipsoid((490, -5, -68), (62, 70, 85)), within=("muscle", "fat", "lung"))
    draw("spleen", ellipsoid((505, 40, 98), (48, 38, 28)), within=("muscle", "fat", "lung"))
    draw("stomach", ellipsoid((490, -35, 48), (38, 32, 40)), within=("muscle", "fat"))
    for side in (-1, 1):
        draw("kidneys", ellipsoid((425, 52, 62 * side), (52, 24, 27)))
    draw("duodenum", Shape(np.array([425.0, 0, -35]), np.full(3, 12.0), np.array([400.0, 10, 20])))
    for _ in range(int(rng.integers(5, 10))):
        start = rng.uniform((260, -70, -95), (400, 0, 95))
        draw("bowel", capsule(start, start + rng.normal(scale=(20, 15, 45)), rng.uniform(10, 17)), ("muscle", "fat"))
    draw("bladder", ellipsoid((205, -20, 0), np.array((28, 30, 36)) * rng.uniform(0.7, 1.3)))
    draw("bone", capsule((190, 78, 0), (790, 68, 0), 21), within=("muscle", "fat", "lung"))
    for side in (-1, 1):
        draw("bone", ellipsoid((270, 45, 88 * side), (58, 34, 22)), within=("muscle", "fat"))
        draw("bone", capsule((-20, 0, 95 * side), (185, 10, 92 * side), 15), within=("muscle", "fat"))
        draw("salivary_glands", ellipsoid((860, 12, 62 * side), (24, 16, 12)))
        draw("salivary_glands", ellipsoid((822, -22, 30 * side), (13, 12, 11)))
        draw("lacrimal_glands", ellipsoid((912, -72, 34 * side), (5, 6, 7)))
    return organs


def _draw_outline(organs, z, y, x, *, patient, draw, capsule, fat) -> None:  # type: ignore[no-untyped-def]
    """Draw skin, fat and muscle of trunk, neck, head and limbs, and skull and brain."""
    level, width, depth = _TRUNK.T
    a, b = np.interp(z, level, width), np.interp(z, level, depth)
    surface = ((np.abs(x) / a) ** 2.5 + (np.abs(y) / b) ** 2.5) ** 0.4
    trunk = (z > level[0] - 20) & (z < level[-1])
    organs[trunk & (surface <= 1)] = ORGANS["fat"]
    organs[trunk & (surface <= fat)] = ORGANS["muscle"]
    limbs = [((-60, 0, 95 * side), (140, 0, 95 * side), 82.0) for side in (-1, 1)]
    if patient.arms_down:
        limbs += [((150, 10, 235 * side), (710, 10, 195 * side), 38.0) for side in (-1, 1)]
    for start, end, radius in limbs:
        draw("fat", capsule(start, end, radius), within=("air",))
        draw("muscle", capsule(start, end, radius * fat), within=("air", "fat"))
    head = Shape(np.array([915.0, 0, 0]), np.array([112.0, 96, 78]))
    draw("muscle", head)
    cranium = Shape(np.array([940.0, 5, 0]), np.array([82.0, 84, 68]))
    draw("skull", cranium, within=("muscle", "air"))
    draw("brain", Shape(cranium.centre, cranium.radii - 8))
