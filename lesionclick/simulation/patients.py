"""Digital PET/CT patients from real organ shapes, for FDG and PSMA, deterministic by seed.

A patient is drawn organ by organ (`body`), gets uptake (`uptake`), lesions and what mimics them (`lesions`), on demand
real tumours (`transplants`), and is scanned (`scanner`). The label holds the lesions' true voxels, before the scanner
blurs them.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from lesionclick.images import Grid, Volume
from lesionclick.simulation.body import RANDOMISED, Variety, draw_body
from lesionclick.simulation.canvas import ORGANS, Build, Canvas
from lesionclick.simulation.lesions import Disease, Maps, draw_count
from lesionclick.simulation.phantoms import Phantom
from lesionclick.simulation.scanner import SPACINGS_XYZ, scan_ct, scan_pet
from lesionclick.simulation.transplants import Tumour, find_place
from lesionclick.simulation.uptake import Tracer, draw_uptake

DIFFUSE_SHARE = 0.05
"""Share of the patients with lesions whose marrow is diseased all over."""
DIAPHRAGM_MM = 670.0
TRAINING_CLASSES = {
    "brain": ("brain", "spinal_cord"),
    "skeleton": ("bone", "marrow", "disc"),
    "lung": ("lung", "airway"),
    "blood": ("blood",),
    "myocardium": ("myocardium",),
    "liver": ("liver",),
    "gallbladder": ("gallbladder",),
    "spleen": ("spleen",),
    "pancreas": ("pancreas", "adrenals"),
    "kidneys": ("kidney_cortex", "kidney_medulla"),
    "urine": ("kidney_pelvis", "ureter"),
    "bladder": ("bladder",),
    "stomach": ("stomach", "oesophagus"),
    "small_bowel": ("duodenum", "small_bowel"),
    "colon": ("colon", "colon_content"),
    "pelvic_organs": ("prostate", "uterus", "testes"),
    "glands": ("salivary_glands", "lacrimal_glands", "tonsils", "thyroid", "larynx"),
    "soft_tissue": ("muscle", "fat", "breast", "brown_fat"),
    "benign_uptake": ("benign_uptake", "ganglia"),
}
"""Organs put together to the 19 classes that a network may learn beside lesions; the rest is background."""


def make_patient(
    seed: int,
    tracer: Tracer,
    *,
    lesions: int | None = None,
    spacing_xyz: tuple[float, float, float] | None = None,
    field_of_view: tuple[float, float] | None = None,
    contrast_agent: bool = False,
    transplants: Sequence[Tumour] = (),
    randomised: bool = False,
) -> Phantom:
    """Draw a patient, scan it, and return the images with the truth.

    Parameters
    ----------
    seed
        Same seed and arguments, same patient.
    tracer
        ``fdg`` or ``psma``; patients of the latter are men.
    lesions
        Number of lesions; by default none in a third of the patients and a skewed number in the others, some of whom
        have diffuse disease of the marrow. A lesion that finds no free place is left out.
    spacing_xyz
        Voxel size in mm; by default one of `SPACINGS_XYZ`.
    field_of_view
        Lowest and highest part of the height from mid-thigh (0) to vertex (1); by default from about mid-thigh to the
        vertex or the base of the skull, sometimes less.
    contrast_agent
        Scan the CT in the portal venous phase.
    transplants
        Real tumours to put in, one after the other; one that finds no place is left out.
    randomised
        Draw organs with shapes and uptake that are not found in people, for networks that shall know organs in images
        unlike those trained on; after Tobin et al., "Domain Randomization for Transferring Deep Neural Networks from
        Simulation to the Real World", IROS 2017.

    Returns
    -------
    Phantom
        CT, PET, label and organs (numbers of `canvas.ORGANS`) on one grid.
    """
    rng = np.random.default_rng([seed, tracer == "psma", 2])
    build = Build.draw(rng, "male" if tracer == "psma" else None)
    spacing = spacing_xyz or SPACINGS_XYZ[rng.integers(len(SPACINGS_XYZ))]
    low, high = _field_of_view(rng) if field_of_view is None else field_of_view
    grid = _grid(build, spacing, (high - low) * build.height)
    canvas = Canvas(grid, build, low * build.height, rng)
    draw_body(canvas, build, rng, RANDOMISED if randomised else Variety())
    hu, suv = draw_uptake(canvas, tracer, rng, contrast_agent=contrast_agent, randomised=randomised)

    maps = Maps(hu, suv, np.zeros(canvas.organs.shape, dtype=np.uint8))
    disease = Disease(canvas, maps, tracer, rng, contrast_agent=contrast_agent)
    count = draw_count(rng) if lesions is None else lesions
    if lesions is None and count and rng.uniform() < DIFFUSE_SHARE:
        disease.add_diffuse_marrow()
    disease.add_lesions(count)
    disease.add_benign(count)
    placed = []
    for tumour in transplants:
        transplant = find_place(canvas, maps.label, tumour, rng)
        if transplant is not None:
            placed.append(transplant)
            maps.label[transplant.window][transplant.label] = 1
            if not transplant.blurred:
                transplant.blend(maps.hu, transplant.hu)
                transplant.blend(maps.suv, transplant.suv)

    ct = scan_ct(maps.hu, canvas, DIAPHRAGM_MM, rng)
    pet = scan_pet(maps.suv, canvas.spacing_zyx, rng)
    for transplant in placed:
        if transplant.blurred:
            transplant.blend(ct, transplant.hu)
            transplant.blend(pet, transplant.suv)
    return Phantom(
        ct=Volume(np.clip(np.rint(ct), -1024, 3071).astype(np.int16), grid),
        pet=Volume(np.maximum(pet, 0), grid),
        label=Volume(maps.label, grid),
        organs=Volume(canvas.organs, grid),
        tracer=tracer,
    )


def training_classes() -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
    """Return the number of the training class, from 1 on, of each number of `ORGANS`; 0 is background."""
    table = np.zeros(len(ORGANS), dtype=np.uint8)
    for number, names in enumerate(TRAINING_CLASSES.values(), start=1):
        table[[ORGANS[name] for name in names]] = number
    return table


def _field_of_view(rng: np.random.Generator) -> tuple[float, float]:
    """Return mid-thigh to vertex, mid-thigh to the base of the skull, or less."""
    kind = rng.choice(3, p=(0.45, 0.45, 0.1))
    if kind == 2:
        low = rng.uniform(0.1, 0.45)
        return low, rng.uniform(low + 0.35, 0.97)
    return rng.uniform(0.0, 0.12), (rng.uniform(0.99, 1.02) if kind == 0 else rng.uniform(0.86, 0.95))


def _grid(build: Build, spacing: Sequence[float], height_mm: float) -> Grid:
    """Return a grid around the patient and the table."""
    extent = (2 * build.half_width, 2 * build.half_depth, height_mm)
    size = tuple(max(16, int(np.ceil(e / s))) for e, s in zip(extent, spacing, strict=True))
    return Grid(size, tuple(map(float, spacing)))
