"""Lesions where disease grows them, foci that mimic them, and real tumours put into a patient."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.simulation.canvas import ORGANS, Canvas, smooth_noise
from lesionclick.simulation.uptake import Range, Tracer

LESION_ML = (0.1, 500.0)
MEDIAN_ML = 1.8
MAX_LESIONS = 40
BENIGN_SITES_PER_LESION = 0.22
"""With paired foci, and with those of patients without a lesion, who have as many as with three, there is about one
focus for three lesions: reports of whole-body scans describe more lesions than foci of doubt."""
FOCUS_SUV = {"fdg": (5.0, 0.5), "psma": (8.0, 0.65)}
"""Median and spread of the logarithm of the patients' mean lesion uptake."""
LEAST_CONTRAST = 1.35
"""Least ratio of a lesion's SUV to the organ's around it."""

Floats = NDArray[np.float32]
Point = tuple[float, float, float]


class Site(NamedTuple):
    """Where a kind of lesion grows.

    `seeds` are organs in whose voxels one starts; with `chain`, ends of segments in the standard patient (z, y, x in
    mm, on either side), it starts near them in `seeds`. It spreads into `grows`. `hu` are ranges of what CT shows
    without contrast agent, one of which is drawn, and `enhanced` what the agent adds. `scale` is the volume's factor.
    """

    fdg: float
    psma: float
    seeds: tuple[str, ...]
    grows: tuple[str, ...]
    hu: tuple[Range | None, ...]
    enhanced: float
    chain: tuple[tuple[Point, Point], ...] = ()
    scale: float = 1.0


_SOFT = ("fat", "muscle")
_NODE: tuple[Range | None, ...] = ((25, 55),)
SITES = {
    "retroperitoneal": Site(0.12, 0.16, ("fat",), (*_SOFT, "blood"), _NODE, 45, (((380, 12, 22), (600, 8, 18)),)),
    "iliac": Site(0.10, 0.2, ("fat", "muscle"), (*_SOFT, "blood"), _NODE, 45, (((270, -20, 68), (370, 8, 40)),)),
    "inguinal": Site(0.05, 0.03, ("fat", "muscle"), _SOFT, _NODE, 45, (((225, -78, 72), (245, -70, 62)),)),
    "mediastinal": Site(
        0.14,
        0.06,
        ("fat", "muscle", "blood"),
        (*_SOFT, "blood", "lung"),
        _NODE,
        45,
        (((730, -10, 14), (850, -12, 12)),),
    ),
    "axillary": Site(0.06, 0.02, ("fat", "muscle"), _SOFT, _NODE, 45, (((800, 20, 150), (850, 10, 130)),)),
    "cervical": Site(0.10, 0.05, ("fat", "muscle"), _SOFT, _NODE, 45, (((865, -5, 48), (960, 5, 44)),)),
    "mesenteric": Site(0.05, 0.01, ("fat",), (*_SOFT, "small_bowel"), _NODE, 45, (((380, -50, 10), (480, -20, 40)),)),
    "bone": Site(0.20, 0.34, ("marrow",), ("marrow", "bone", "fat", "muscle", "disc"), ((450, 950), (30, 90), None), 0),
    "liver": Site(0.12, 0.04, ("liver",), ("liver",), ((25, 48), None), 30, scale=1.6),
    "lung": Site(0.12, 0.05, ("lung",), ("lung", "fat"), ((0, 45),), 25),
    "spleen": Site(0.02, 0.0, ("spleen",), ("spleen",), ((30, 45),), 25),
    "peritoneal": Site(
        0.06, 0.01, ("fat",), ("fat", "small_bowel", "colon", "muscle"), _NODE, 35, (((320, -95, 30), (560, -70, 110)),)
    ),
    "soft": Site(0.06, 0.01, ("muscle",), _SOFT, ((30, 50),), 35, scale=2.5),
    "prostate": Site(0.0, 0.14, ("prostate",), ("prostate", "fat", "muscle"), ((30, 45),), 30, scale=1.5),
    "prostate_bed": Site(0.01, 0.08, ("fat", "muscle"), _SOFT, ((30, 45),), 30, (((240, 15, 3), (262, 25, 8)),), 0.6),
}
_JOINT, _RIB = ("bone", "fat", "muscle"), ("bone", "muscle", "fat")
BENIGN_SITES = {
    "shoulder": Site(0.2, 0.1, ("bone", "muscle"), _JOINT, (None,), 0, (((862, 40, 150), (875, 30, 140)),)),
    "facet_joint": Site(0.2, 0.15, ("bone", "muscle"), _JOINT, (None,), 0, (((420, 60, 18), (700, 80, 18)),)),
    "hip": Site(0.1, 0.1, ("bone", "muscle"), _JOINT, (None,), 0, (((280, 20, 95), (300, 15, 100)),)),
    "hilar": Site(
        0.25,
        0.1,
        ("fat", "blood", "lung", "muscle"),
        ("fat", "blood", "lung"),
        ((30, 60),),
        45,
        (((745, 5, 38), (770, 8, 34)),),
    ),
    "rib": Site(0.1, 0.5, ("bone",), _RIB, (None,), 0, (((600, -60, 125), (800, 60, 110)),)),
    "injection": Site(0.05, 0.05, ("muscle", "fat"), _SOFT, (None,), 0, (((600, 30, 218), (610, 20, 220)),)),
    "bowel": Site(0.1, 0.0, ("colon",), ("colon",), (None,), 0),
}
"""Degenerative joints, reactive hilar nodes, fractures and ribs with unspecific uptake, the vein of the injection, and
bowel. Vocal cords, ganglia and tonsils are organs."""
_PAIRED = ("shoulder", "hip", "hilar")


@dataclass(frozen=True)
class Maps:
    """What is scanned, shape (z, y, x) each; lesions change them in place.

    Attributes
    ----------
    hu, suv
        float32.
    label
        1 in lesions, uint8.
    """

    hu: Floats
    suv: Floats
    label: NDArray[np.uint8]


class Disease:
    """Adds lesions and benign foci to one patient."""

    def __init__(
        self, canvas: Canvas, maps: Maps, tracer: Tracer, rng: np.random.Generator, *, contrast_agent: bool
    ) -> None:
        self.canvas, self.maps, self.tracer, self.rng = canvas, maps, tracer, rng
        self.contrast_agent = contrast_agent
        self.voxel_ml = float(np.prod(canvas.spacing_zyx)) / 1000
        self._seeds: dict[str, NDArray[np.int64]] = {}
        self._found: dict[str, list[NDArray[np.int64]]] = {}

    def add_lesions(self, count: int) -> int:
        """Add lesions at a few favoured sites, and return how many found a place."""
        rng = self.rng
        chances = np.array([getattr(site, self.tracer) for site in SITES.values()])
        chances = rng.dirichlet(2.5 * chances / chances.sum() + 1e-3) + 0.01 * chances
        median_ml = MEDIAN_ML * rng.lognormal(0, 0.6)
        level, spread = FOCUS_SUV[self.tracer]
        mean_suv = rng.lognormal(np.log(level), spread)
        added = 0
        for _ in range(count):
            for _ in range(8):
                name = list(SITES)[rng.choice(len(SITES), p=chances / chances.sum())]
                ml = float(np.clip(median_ml * SITES[name].scale * rng.lognormal(0, 1.2), *LESION_ML))
                suv = float(np.clip(mean_suv * rng.lognormal(0, 0.4), 1.5, 80))
                if self._add(name, SITES[name], ml, suv, benign=False):
                    added += 1
                    break
        return added

    def add_diffuse_marrow(self) -> None:
        """Fill patches of the marrow of spine and pelvis with disease."""
        organs, noise = self.canvas.organs, self.canvas.noise(28.0)
        level, spread = FOCUS_SUV[self.tracer]
        inside = (organs == ORGANS["marrow"]) & (noise > self.rng.uniform(-0.2, 1.0)) & (self.canvas.z > 200)
        suv = self.rng.lognormal(np.log(level), spread)
        self.maps.suv[inside] = np.maximum(suv * np.exp(0.2 * noise[inside]), 3.0)
        self.maps.label[inside] = 1
        if self.rng.uniform() < 0.5:
            self.maps.hu[inside] += self.rng.uniform(100, 450)

    def add_benign(self, lesions: int) -> None:
        """Add weak foci at typical sites; shoulders, hips and hila often on both sides."""
        rng = self.rng
        chances = np.array([getattr(site, self.tracer) for site in BENIGN_SITES.values()])
        for _ in range(int(rng.poisson(BENIGN_SITES_PER_LESION * max(lesions, 3)))):
            name = list(BENIGN_SITES)[rng.choice(len(BENIGN_SITES), p=chances / chances.sum())]
            ml = float(np.clip(rng.lognormal(0, 0.7), 0.2, 5))
            suv = float(rng.uniform(1.8, 4.5)) * (6.0 if name == "injection" else 1.0)
            sides = (-1, 1) if name in _PAIRED and rng.uniform() < 0.6 else (int(rng.choice((-1, 1))),)
            for side in sides:
                self._add(name, BENIGN_SITES[name], ml, suv * rng.uniform(0.85, 1.15), benign=True, side=side)

    def _start(self, name: str, site: Site, side: int) -> NDArray[np.int64] | None:
        """Return a voxel (z, y, x) where a lesion starts, often near an earlier one of the site."""
        canvas, rng = self.canvas, self.rng
        if site.chain:
            start, end = np.array(site.chain[rng.integers(len(site.chain))])
            place = start + rng.uniform() * (end - start) + rng.normal(scale=7, size=3)
            place[2] *= side
            index = np.array([np.searchsorted(axis, p) for axis, p in zip(canvas.axes, place, strict=True)])
            if (index < 1).any() or (index >= np.array(canvas.organs.shape) - 1).any():
                return None
            seeds = [ORGANS[seed] for seed in site.seeds]
            return index if canvas.organs[tuple(index)] in seeds else None
        if name not in self._seeds:
            numbers = [ORGANS[seed] for seed in site.seeds]
            self._seeds[name] = np.argwhere(np.isin(canvas.organs, numbers))
        seeds_zyx = self._seeds[name]
        if not len(seeds_zyx):
            return None
        chosen = seeds_zyx[rng.integers(len(seeds_zyx), size=60)]
        earlier = self._found.get(name, [])
        if earlier and rng.uniform() < 0.5:
            around = earlier[rng.integers(len(earlier))]
            distance = np.linalg.norm((chosen - around) * canvas.spacing_zyx, axis=1)
            return np.asarray(chosen[distance.argmin()])
        return np.asarray(chosen[0])

    def _add(self, name: str, site: Site, ml: float, suv: float, *, benign: bool, side: int = 0) -> bool:
        """Grow one focus to its volume in the organs that it may take; return whether there was room."""
        canvas, maps, rng = self.canvas, self.maps, self.rng
        start = self._start(name, site, side or int(rng.choice((-1, 1))))
        if start is None:
            return False
        radius = (ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        reach = np.ceil(2.0 * radius / canvas.spacing_zyx + 2).astype(int)
        low = np.maximum(start - reach, 0)
        high = np.minimum(start + reach + 1, canvas.organs.shape)
        window = tuple(map(slice, low, high))
        organs = canvas.organs[window]
        level = bumpy_ellipsoid(organs.shape, canvas.spacing_zyx, start - low, radius_mm=radius, rng=rng)
        free = np.isin(organs, [ORGANS[organ] for organ in site.grows]) & (maps.label[window] == 0)
        inside = grow_region(level, free, max(1, round(ml / self.voxel_ml)))
        if inside is None:
            return False
        self._fill(maps, window, inside, level, site=site, suv=suv, ml=ml)
        if benign:
            organs[inside] = ORGANS["benign_uptake"]
        else:
            maps.label[window][inside] = 1
            self._found.setdefault(name, []).append(start)
        return True

    def _fill(
        self,
        maps: Maps,
        window: tuple[slice, ...],
        inside: NDArray[np.bool_],
        level: Floats,
        *,
        site: Site,
        suv: float,
        ml: float,
    ) -> None:
        """Set SUV and HU of a focus."""
        rng = self.rng
        around = float(np.median(maps.suv[window][inside]))
        texture = smooth_noise(level.shape, self.canvas.spacing_zyx, 8.0, rng)[inside]
        values = max(suv, LEAST_CONTRAST * around) * np.exp(0.12 * texture)
        if ml > 10 and rng.uniform() < 0.5:
            values[level[inside] < rng.uniform(0.4, 0.7)] *= rng.uniform(0.15, 0.45)
        maps.suv[window][inside] = values
        # after contrast agent a CT is what the lesions are looked for in, so that each is seen there
        seen = [hu for hu in site.hu if hu is not None] if self.contrast_agent else []
        hu = (seen or site.hu)[rng.integers(len(seen or site.hu))]
        if hu is not None:
            maps.hu[window][inside] = rng.uniform(*hu) + self.contrast_agent * site.enhanced


def bumpy_ellipsoid(
    shape: tuple[int, ...],
    spacing_zyx: NDArray[np.float64],
    centre_zyx: NDArray[np.int64],
    *,
    radius_mm: float,
    rng: np.random.Generator,
) -> Floats:
    """Return the level of each voxel: 0 in the middle of a bumpy ellipsoid, 1 on its surface, more outside.

    Parameters
    ----------
    shape
        Of the result, (z, y, x).
    spacing_zyx
        Voxel size in mm.
    centre_zyx
        Index of the voxel in which the middle lies.
    radius_mm
        Of the ball with the volume of the ellipsoid without bumps.
    rng
        Draws stretch, bumps, and the middle's place in its voxel.
    """
    stretch = np.exp(rng.normal(scale=0.22, size=3))
    radii = radius_mm * stretch / np.prod(stretch) ** (1 / 3)
    shift = rng.uniform(-0.5, 0.5, 3)
    axes = np.ogrid[tuple(slice(n) for n in shape)]
    scale = spacing_zyx / radii
    squared = sum(((a - c + d) * s) ** 2 for a, c, d, s in zip(axes, centre_zyx, shift, scale, strict=True))
    bumps = smooth_noise(shape, spacing_zyx, max(0.9 * radius_mm, 5.0), rng)
    level: Floats = (np.sqrt(squared) * (1 + 0.22 * np.clip(bumps, -2, 2))).astype(np.float32)
    return level


def grow_region(level: Floats, free: NDArray[np.bool_], voxels: int) -> NDArray[np.bool_] | None:
    """Return the connected `voxels` of least level among the free ones, or None where there is no room for most.

    `level` and `free` are of one shape (z, y, x), and so is the result, bool.
    """
    places = np.flatnonzero(free & (level < 1.9))
    if len(places) < max(1, 0.7 * voxels):
        return None
    best = places[np.argsort(level.ravel()[places], kind="stable")[:voxels]]
    inside = np.zeros(level.size, dtype=bool)
    inside[best] = True
    components, count = ndimage.label(inside.reshape(level.shape), np.ones((3, 3, 3)))
    if count > 1:
        sizes = np.bincount(components.ravel())[1:]
        if sizes.max() < 0.7 * voxels:
            return None
        return np.asarray(components == 1 + sizes.argmax())
    return np.asarray(components > 0)


def draw_count(rng: np.random.Generator) -> int:
    """Return the number of lesions: none in a third of the patients, else a skewed number with a tail."""
    return 0 if rng.uniform() < 1 / 3 else int(min(np.ceil(rng.lognormal(np.log(4), 1.0)), MAX_LESIONS))
