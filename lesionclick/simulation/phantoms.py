"""Digital whole-body PET/CT phantoms with lesions, for FDG and PSMA, deterministic by seed.

The patient is drawn in millimetres: x to the left, y to the back, z upwards from mid-thigh. Smooth random
displacements, sizes and uptake make every patient another. Uptake ranges (SUV) follow published means and spreads:
Zincirkeser et al., J Int Med Res 35 (2007) 529 and Boellaard et al., Eur J Nucl Med Mol Imaging 42 (2015) 328 for FDG;
Demirci et al., Nucl Med Commun 37 (2016) 1169 for 68Ga-PSMA-11. CT numbers follow Schneider et al., Phys Med Biol 41
(1996) 111.

The label holds the voxels of the lesions' true shapes, before the scanner blurs them. Where a lesion meets an organ of
high physiological uptake, the voxels are the organ's; in bone, lung, liver and soft tissue they are the lesion's. Every
phantom also has benign foci, drawn from the same distributions as small lesions: only clicks can tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Grid, Volume
from lesionclick.simulation.anatomy import (
    BENIGN_UPTAKE,
    ENHANCED_HU,
    HOT_ORGANS,
    LESION_SITES,
    ORGANS,
    TISSUES,
    Patient,
    Shape,
    draw_organs,
)

Tracer = Literal["fdg", "psma"]

SPACINGS_XYZ = (
    (2.04, 2.04, 3.0),
    (4.07, 4.07, 3.0),
    (4.07, 4.07, 5.0),
    (2.73, 2.73, 3.27),
    (5.47, 5.47, 3.27),
)
"""PET voxels in mm of the challenge's scanners and of older ones."""
LESION_ML = (0.3, 60.0)
MAX_LESIONS = 30
FAT_RIM = 1.6
"""Outer radius of the fat around a lymph node, in units of the node's."""
LEAST_CONTRAST_HU = 35.0
"""Least difference between a lesion and the tissue that it replaces, after contrast agent."""
_WARP_MM = 7.0
_FOCUS_SUV = {"fdg": (5.5, 0.6), "psma": (8.0, 0.7)}  # median and spread of the logarithm


@dataclass(frozen=True)
class Phantom:
    """A phantom's images, all on one grid.

    Attributes
    ----------
    ct
        HU, int16.
    pet
        SUV, float32.
    label
        1 in lesions, uint8.
    organs
        Numbers of `ORGANS`, uint8.
    tracer
        ``fdg`` or ``psma``.
    """

    ct: Volume
    pet: Volume
    label: Volume
    organs: Volume
    tracer: str


def make_phantom(
    seed: int,
    tracer: Tracer,
    *,
    lesions: int | None = None,
    spacing_xyz: tuple[float, float, float] | None = None,
    direction: Sequence[float] | None = None,
    field_of_view: tuple[float, float] | None = None,
    contrast_agent: bool = False,
) -> Phantom:
    """Draw a patient, scan it, and return the images with the truth.

    Parameters
    ----------
    seed
        Same seed and arguments, same phantom.
    tracer
        ``fdg`` or ``psma``.
    lesions
        Number of lesions, 0 to 30; by default none in a third of the patients and a skewed number in the others. A
        lesion that finds no free place is left out.
    spacing_xyz
        Voxel size in mm; by default one of `SPACINGS_XYZ`.
    direction
        Direction cosines, nine numbers row by row; by default the identity.
    field_of_view
        Lowest and highest part of the height from mid-thigh (0) to vertex (1).
    contrast_agent
        Scan the CT in the portal venous phase, where lesions stand out from organs and muscle. Without it, as in most
        PET/CT, few of them can be seen in the CT.

    Returns
    -------
    Phantom
        CT, PET, label and organs on one grid.
    """
    rng = np.random.default_rng([seed, tracer == "psma"])
    patient = Patient.draw(rng)
    spacing = spacing_xyz or SPACINGS_XYZ[rng.integers(len(SPACINGS_XYZ))]
    low, high = field_of_view or (rng.uniform(0, 0.1), rng.uniform(0.88, 1.0))
    grid = _grid(patient, spacing, (low, high), direction)
    places = _Places(grid, low * patient.height, patient, rng)

    organs = draw_organs(places.z, places.y, places.x, patient, rng=rng)
    label = np.zeros(organs.shape, dtype=np.uint8)
    hu, suv = _tissue_maps(organs, tracer, rng, contrast_agent)
    maps = _Maps(organs, label, hu, suv, tracer)
    count = _draw_count(rng) if lesions is None else lesions
    # foci that mimic lesions in PET do not in CT, where they would only cut pieces out of lesions beside them
    for _ in range(0 if contrast_agent else int(rng.integers(2, 13))):
        _add_focus(places, maps, patient, rng, contrast_agent=contrast_agent, benign=True)
    for _ in range(count):
        _add_focus(places, maps, patient, rng, contrast_agent=contrast_agent, benign=False)

    return Phantom(
        ct=Volume(_scan_ct(hu, organs, rng), grid),
        pet=Volume(_scan_pet(suv, grid, rng), grid),
        label=Volume(label, grid),
        organs=Volume(organs, grid),
        tracer=tracer,
    )


def _grid(
    patient: Patient, spacing: Sequence[float], view: tuple[float, float], direction: Sequence[float] | None
) -> Grid:
    """Return a grid around the patient, a little wider than the trunk, over the part `view` of the height."""
    low, high = view
    extent = (2 * patient.half_width, 2 * patient.half_depth, (high - low) * patient.height)
    size = tuple(max(16, int(np.ceil(e / s))) for e, s in zip(extent, spacing, strict=True))
    cosines = tuple(float(v) for v in direction) if direction is not None else (1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0)
    centre = (np.array(size) - 1) / 2 * np.array(spacing)
    origin = -np.array(cosines).reshape(3, 3) @ centre
    return Grid(size, tuple(map(float, spacing)), tuple(origin.tolist()), cosines)


class _Places:
    """Where each voxel lies in the patient, in mm: arrays x, y, z of shape (z, y, x), displaced at random."""

    def __init__(self, grid: Grid, bottom_mm: float, patient: Patient, rng: np.random.Generator) -> None:
        self.spacing_zyx = np.array(grid.spacing_zyx)
        self.shape = grid.shape_zyx
        offsets = (bottom_mm, -patient.half_depth, -patient.half_width)
        axes = [(np.arange(n) + 0.5) * s + o for n, s, o in zip(self.shape, self.spacing_zyx, offsets, strict=True)]
        self.offsets = np.array(offsets)
        self.z, self.y, self.x = (
            (axis.reshape([-1 if i == j else 1 for j in range(3)]) + self._noise(rng, 80.0) * _WARP_MM).astype(
                np.float32
            )
            for i, axis in enumerate(axes)
        )
        self.roughness = self._noise(rng, 12.0)

    def _noise(self, rng: np.random.Generator, length_mm: float) -> NDArray[np.float32]:
        """Return smooth noise of mean 0 and about unit spread."""
        coarse = [max(4, int(n * s / length_mm) + 3) for n, s in zip(self.shape, self.spacing_zyx, strict=True)]
        noise = rng.normal(size=coarse).astype(np.float32)
        zoom = [n / c for n, c in zip(self.shape, coarse, strict=True)]
        smooth: NDArray[np.float32] = ndimage.zoom(noise, zoom, order=1, grid_mode=True, mode="nearest")
        return smooth / max(float(smooth.std()), 1e-6)

    def window(self, centre_zyx: NDArray[np.float64], reach_mm: float) -> tuple[slice, ...]:
        """Return the voxels that may lie within `reach_mm` of a place."""
        reach = reach_mm + 3.5 * _WARP_MM
        low = np.floor((centre_zyx - reach - self.offsets) / self.spacing_zyx).astype(int)
        high = np.ceil((centre_zyx + reach - self.offsets) / self.spacing_zyx).astype(int)
        return tuple(slice(max(a, 0), max(min(b, n), 0)) for a, b, n in zip(low, high, self.shape, strict=True))


def _tissue_maps(
    organs: NDArray[np.uint8], tracer: Tracer, rng: np.random.Generator, contrast_agent: bool
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Return HU and SUV of each voxel: one draw per organ from its range."""
    hu_table = np.zeros(256, dtype=np.float32)
    suv_table = np.zeros(256, dtype=np.float32)
    for name, tissue in TISSUES.items():
        hu_table[ORGANS[name]] = rng.uniform(*(ENHANCED_HU.get(name, tissue.hu) if contrast_agent else tissue.hu))
        low, high = getattr(tissue, tracer)
        suv_table[ORGANS[name]] = np.exp(rng.uniform(np.log(low), np.log(high))) if low > 0 else 0.0
    return hu_table[organs], suv_table[organs]


def _draw_count(rng: np.random.Generator) -> int:
    """Return the number of lesions: none in a third, else a geometric number with a tail up to 30."""
    return 0 if rng.uniform() < 1 / 3 else int(min(rng.geometric(0.2), MAX_LESIONS))


class _Maps(NamedTuple):
    """What a phantom is made of, arrays of shape (z, y, x), and the tracer."""

    organs: NDArray[np.uint8]
    label: NDArray[np.uint8]
    hu: NDArray[np.float32]
    suv: NDArray[np.float32]
    tracer: Tracer


def _add_focus(
    places: _Places,
    maps: _Maps,
    patient: Patient,
    rng: np.random.Generator,
    *,
    contrast_agent: bool,
    benign: bool,
) -> None:
    """Add a lesion, or a benign focus that looks like a small one, at a free place; change the maps in place."""
    organs, label, hu, suv, tracer = maps
    ml = float(np.clip(rng.lognormal(np.log(3.0), 1.1), LESION_ML[0], 12.0 if benign else LESION_ML[1]))
    median, spread = _FOCUS_SUV[tracer]
    uptake = float(np.clip(rng.lognormal(np.log(median), spread), 1.5, 45.0))
    for _ in range(20):
        site = LESION_SITES[rng.choice(len(LESION_SITES), p=[site.weight for site in LESION_SITES])]
        centre = patient.place(site.draw(rng))
        radius = (ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
        stretch = rng.uniform(0.75, 1.3, 3)
        shape = Shape(centre, radius * stretch / np.prod(stretch) ** (1 / 3))
        window = places.window(centre, 1.5 * radius)
        if any(axis.start >= axis.stop for axis in window):
            continue
        level = shape.level(places.z[window], places.y[window], places.x[window])
        level *= 1 + 0.12 * np.clip(places.roughness[window], -2, 2)
        blocked = np.isin(organs[window], HOT_ORGANS) | (organs[window] == ORGANS["air"]) | (label[window] > 0)
        blocked |= organs[window] == BENIGN_UPTAKE
        inside = (level <= 1) & ~blocked
        wanted = ml * 1000 / np.prod(places.spacing_zyx)
        if inside.sum() < max(1, 0.6 * wanted):
            continue
        core = inside & (level < 0.55) if not benign and ml > 15 and rng.uniform() < 0.5 else np.zeros_like(inside)
        suv[window][inside] = uptake * (1 + 0.1 * places.roughness[window][inside])
        suv[window][core] = 0.3 * uptake
        if contrast_agent and site.in_fat:
            rim = (level > 1) & (level <= FAT_RIM) & (organs[window] == ORGANS["muscle"]) & (label[window] == 0)
            hu[window][rim] = np.mean(TISSUES["fat"].hu)
        if contrast_agent:
            tissue, lesion = np.median(hu[window][inside]), rng.uniform(*site.enhanced_hu)
            stands_out = abs(lesion - tissue) >= LEAST_CONTRAST_HU
            hu[window][inside] = lesion if stands_out else tissue + LEAST_CONTRAST_HU
        elif site.hu is not None:
            hu[window][inside] = rng.uniform(*site.hu)
        if benign:
            organs[window][inside] = BENIGN_UPTAKE
        else:
            label[window][inside] = 1
        return


def _scan_ct(hu: NDArray[np.float32], organs: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.int16]:
    """Return the CT: blurred to the PET grid, with noise in the body."""
    blurred = ndimage.gaussian_filter(hu, 0.5)
    blurred += rng.normal(scale=12.0, size=hu.shape).astype(np.float32) * (organs != ORGANS["air"])
    return np.clip(np.rint(blurred), -1000, 3000).astype(np.int16)


def _scan_pet(suv: NDArray[np.float32], grid: Grid, rng: np.random.Generator) -> NDArray[np.float32]:
    """Return the PET: point spread of 5 to 7 mm FWHM, then noise whose variance grows with the signal."""
    sigma = rng.uniform(5.0, 7.0) / 2.355 / np.array(grid.spacing_zyx)
    pet = ndimage.gaussian_filter(suv, sigma)
    noise = ndimage.gaussian_filter(rng.normal(size=suv.shape).astype(np.float32), 0.6)
    pet += rng.uniform(0.1, 0.2) * np.sqrt(pet + 0.02) * noise / noise.std()
    clipped: NDArray[np.float32] = np.maximum(pet, 0).astype(np.float32)
    return clipped
