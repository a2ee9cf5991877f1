"""One patient as a map of organs: shapes of the atlas, deformed and swapped, and what it lacks drawn around them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from lesionclick.simulation import skeleton
from lesionclick.simulation.anatomy import Shape
from lesionclick.simulation.atlas import Organ, Person, load_organ, smooth_organ
from lesionclick.simulation.canvas import ORGANS, Build, Canvas

VOLUMES_ML = {
    "liver": (1150, 1950),
    "spleen": (100, 300),
    "pancreas": (65, 130),
    "kidney": (125, 200),
    "heart": (560, 820),
    "colon": (500, 1300),
    "duodenum": (45, 90),
    "small_bowel": (450, 950),
    "bladder": (60, 380),
    "stomach": (160, 420),
    "gallbladder": (15, 45),
    "prostate": (20, 60),
}
"""Range of the organs' volumes, after publication 89 of the International Commission on Radiological Protection (2002)
and, for filled bladders and stomachs, as they are seen in scans."""


@dataclass(frozen=True)
class Variety:
    """How much organs differ: spread of their places in mm, of the logarithm of their sizes, and how smooth they get.

    `smoothest_mm` is the largest spread of the Gaussian that smooths an organ; at 15 mm, kidneys are nearly ellipsoids.
    """

    place_mm: float = 4.0
    size: float = 0.06
    smoothest_mm: float = 0.0


RANDOMISED = Variety(12.0, 0.15, 15.0)
"""Of patients that are unlike people."""


def draw_body(canvas: Canvas, build: Build, rng: np.random.Generator, variety: Variety) -> None:
    """Draw a patient on a table."""
    skeleton.draw_outline(canvas, build, rng)
    skeleton.draw_bones(canvas, build, rng)
    placer = _Placer(canvas, build, rng, variety)
    _draw_abdomen(placer)
    _draw_chest(placer)
    skeleton.draw_head_and_neck(canvas, build, rng)
    skeleton.draw_ganglia(canvas)
    skeleton.draw_table(canvas, build)


_SOFT = ("fat", "muscle", "blood", "disc", "small_bowel", "colon", "colon_content", "stomach", "pancreas", "duodenum")


class _Placer:
    """Chooses whose organ a patient gets, how large it is and where it lies, and paints it."""

    def __init__(self, canvas: Canvas, build: Build, rng: np.random.Generator, variety: Variety) -> None:
        self.canvas, self.build, self.rng, self.variety = canvas, build, rng, variety

    def place(self, name: str, kind: str = "", people: Sequence[Person] = ("female", "male")) -> Placed:
        """Draw person, volume and place of an organ; `kind` names its volume's range, if that is another word."""
        own: Person = self.build.sex if self.build.sex in people else people[0]
        person: Person = own if self.rng.uniform() < 0.5 else people[int(self.rng.integers(len(people)))]
        organ = load_organ(person, name)
        moved = self.rng.normal(scale=self.variety.place_mm, size=3)
        centre = (load_organ(own, name).centre + organ.centre) / 2 + moved
        scale = np.exp(self.rng.normal(scale=self.variety.size, size=3))
        wanted = self.rng.uniform(*VOLUMES_ML[kind or name])
        scale *= (wanted / (organ.ml * np.prod(scale) * np.prod(self.build.scale_zyx))) ** (1 / 3)
        smoothest = self.variety.smoothest_mm
        smooth_mm = self.rng.uniform(0, smoothest) if smoothest else 0.0  # no draw that would change other patients
        return Placed(person, organ, centre, scale, smooth_mm)

    def paint(
        self, name: str, placed: Placed, least: float = 0.5, part: str = "", *, within: Sequence[str] = _SOFT
    ) -> None:
        """Paint an organ, or the `part` of the same person that moves with it."""
        organ = load_organ(placed.person, part) if part else placed.organ
        if placed.smooth_mm:
            organ = smooth_organ(organ, placed.smooth_mm)
        window, full = self.canvas.full(organ, placed.centre, placed.scale, placed.organ.centre)
        self.canvas.paint(name, window, full >= least, within)


@dataclass(frozen=True)
class Placed:
    """A person's organ with the place of its centre in mm and its scale, both (z, y, x), and how smooth it is drawn."""

    person: Person
    organ: Organ
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    smooth_mm: float


def _draw_abdomen(placer: _Placer) -> None:
    """Draw the organs between diaphragm and pelvic floor."""
    canvas, build, rng = placer.canvas, placer.build, placer.rng
    everyone: tuple[Person, ...] = ("female", "male", "torso")
    window, full = canvas.in_place(load_organ("torso", "vessels"))
    canvas.paint("blood", window, full >= 0.4, ("fat", "muscle"))
    bowel = placer.place("small_bowel", people=everyone)
    placer.paint("small_bowel", bowel, within=("fat",))
    colon = placer.place("colon", people=everyone)
    placer.paint("colon", colon, within=("fat", "small_bowel", "muscle"))
    placer.paint("colon_content", colon, 0.93, within=("colon",))
    stomach = placer.place("stomach", people=("torso",))
    placer.paint("stomach", stomach, within=("fat", "colon", "colon_content", "small_bowel"))
    placer.paint("duodenum", placer.place("duodenum", people=everyone), within=("fat", "small_bowel", "colon"))
    placer.paint("pancreas", placer.place("pancreas"), within=("fat", "small_bowel", "stomach", "colon"))
    placer.paint("spleen", placer.place("spleen"))
    liver = placer.place("liver")
    placer.paint("liver", liver)
    if rng.uniform() < 0.85:
        placer.paint("gallbladder", placer.place("gallbladder", people=("torso",)), within=("liver", "fat", "colon"))
    for side in ("left", "right"):
        kidney = placer.place(f"kidney_{side}", "kidney")
        inside = (*_SOFT, "liver", "spleen")
        placer.paint("kidney_cortex", kidney, within=inside)
        placer.paint("kidney_medulla", kidney, 0.4, f"medulla_{side}", within=("kidney_cortex",))
        placer.paint("kidney_pelvis", kidney, 0.3, f"renal_pelvis_{side}", within=("kidney_cortex", "kidney_medulla"))
        window, full = canvas.in_place(load_organ(kidney.person, f"ureter_{side}"))
        canvas.paint("ureter", window, full >= 0.25, ("fat", "muscle", "small_bowel", "blood"))
        adrenal = kidney.centre + np.array((52, -12, -18 if side == "left" else 18))
        canvas.shape("adrenals", Shape(adrenal, np.array((11.0, 9, 4))), within=("fat", "liver"))
    pelvic = ("fat", "muscle", "small_bowel", "colon", "colon_content", "ureter")
    if build.sex == "female":
        canvas.shape(
            "uterus", Shape(np.array((300.0, 5, 0)) + rng.normal(scale=6, size=3), np.array((30.0, 24, 26))), pelvic
        )
    elif build.prostate:
        placer.paint("prostate", placer.place("prostate", people=("torso",)), within=pelvic)
    placer.paint("bladder", placer.place("bladder", people=everyone), within=(*pelvic, "uterus", "prostate"))


def _draw_chest(placer: _Placer) -> None:
    """Draw heart, great vessels and airways, and lungs above whatever lies under the diaphragm."""
    canvas, rng = placer.canvas, placer.rng
    heart = placer.place("heart")
    placer.paint("fat", heart, 0.15, within=("fat",))
    placer.paint("blood", heart, within=("fat", "muscle", "liver", "stomach"))
    placer.paint("myocardium", heart, 0.5, "left_ventricle", within=("blood",))
    skeleton.draw_mediastinum(canvas, rng)
    window = canvas.window((540, -130, -170), (915, 130, 170))
    z, y, x = canvas.places(window)
    part = canvas.organs[window]
    solid = np.isin(
        part, [ORGANS[name] for name in ("liver", "spleen", "stomach", "myocardium", "colon", "colon_content")]
    )
    below = np.maximum.accumulate(solid[::-1], axis=0)[::-1]
    top = heart.centre[0] - 28 + rng.normal(scale=5)
    dome = top - np.minimum(((np.abs(x) - 70) ** 2 + 0.8 * (y - 5) ** 2) * 0.010, 120)
    middle = np.abs(x) < np.interp(z, (600, 760, 860, 900), (26, 30, 24, 16))
    middle &= (y > -80) & (y < 75)
    inside = (skeleton.cage_level(z, y, x) < 0.93) & (z > dome) & ~below & ~middle
    canvas.paint("lung", window, inside, ("fat", "muscle"))
