"""Lesions made in a real CT, as a background with true organs, vessels and noise."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Volume
from lesionclick.simulation.lesions import bumpy_ellipsoid, grow_region

MEDIAN_ML, SPREAD = 3.0, 1.1
"""Of the lesions' volumes: median in ml, spread of the logarithm."""
LESION_ML = (0.3, 60.0)


class Tissue(NamedTuple):
    """What lesions grow in.

    `share` of them start in it, where its HU lie in `hu`. Voxels whose neighbourhood differs from the start's by less
    than `tolerance` HU belong to it. A lesion differs from it by `contrast` HU; a share of `darker` is darker.
    """

    share: float
    hu: tuple[float, float]
    tolerance: float
    contrast: tuple[float, float]
    darker: float


# Of lesions in soft tissue most are darker, as most metastases of the liver are in the portal venous phase.
TISSUES = (
    Tissue(0.15, (-950.0, -650.0), 135.0, (650.0, 850.0), 0.0),  # lung
    Tissue(0.25, (-130.0, -50.0), 60.0, (90.0, 170.0), 0.0),  # fat
    Tissue(0.60, (0.0, 220.0), 45.0, (25.0, 90.0), 0.7),  # soft tissue
)
LEAST_ROOM = 0.8
"""Least share of a lesion's first shape that lies in the tissue that it started in."""
AROUND_MM = 3.0
"""Spread of the Gaussian whose mean is a voxel's neighbourhood."""
_TRIES = 20

Floats = NDArray[np.float32]


def implant_lesions(ct: Volume, count: int, rng: np.random.Generator) -> tuple[Volume, Volume]:
    """Make lesions in the lung, the fat and the soft tissue of a CT; its own noise stays.

    Parameters
    ----------
    ct
        HU, of a part of a body.
    count
        Number of lesions; one that finds no room is left out.
    rng
        The only source of randomness.

    Returns
    -------
    tuple of Volume
        The CT with lesions, int16, and the lesions, uint8: 1 inside. Both on the CT's grid.
    """
    image = ct.array.astype(np.float32)
    label = np.zeros(image.shape, dtype=np.uint8)
    spacing = np.array(ct.grid.spacing_zyx)
    around = ndimage.gaussian_filter(image, AROUND_MM / spacing)
    body = ndimage.binary_fill_holes(ndimage.binary_opening(image > -300, iterations=2))
    deep = ndimage.binary_erosion(body, iterations=3)
    looks = {tissue: _looks_like(image, tissue) & _looks_like(around, tissue) for tissue in TISSUES}
    starts = {tissue: found for tissue in TISSUES if len(found := np.flatnonzero(looks[tissue] & deep))}
    shares = np.array([tissue.share for tissue in starts])
    for _ in range(count if starts else 0):
        for _ in range(_TRIES):
            tissue = list(starts)[rng.choice(len(starts), p=shares / shares.sum())]
            start = np.array(np.unravel_index(rng.choice(starts[tissue]), image.shape))
            if _add(image, label, around, start, tissue=tissue, spacing=spacing, rng=rng):
                break
    array = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return Volume(array, ct.grid), Volume(label, ct.grid)


def _looks_like(image: Floats, tissue: Tissue) -> NDArray[np.bool_]:
    low, high = tissue.hu
    inside: NDArray[np.bool_] = (image > low) & (image < high)
    return inside


def _add(
    image: Floats,
    label: NDArray[np.uint8],
    around: Floats,
    start: NDArray[np.int64],
    *,
    tissue: Tissue,
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
) -> bool:
    """Add one lesion to `image` and `label`, in place; return whether there was room."""
    ml = float(np.clip(rng.lognormal(np.log(MEDIAN_ML), SPREAD), *LESION_ML))
    radius = (ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    reach = np.ceil(2 * radius / spacing + 2).astype(int)
    window = tuple(map(slice, np.maximum(start - reach, 0), np.minimum(start + reach + 1, image.shape)))
    centre = start - [axis.start for axis in window]
    level = bumpy_ellipsoid(image[window].shape, spacing, centre, radius_mm=radius, rng=rng)
    mean = float(around[tuple(start)])
    free = (np.abs(around[window] - mean) < tissue.tolerance) & (label[window] == 0)
    if free[level < 1].mean() < LEAST_ROOM:  # its shape would be that of the gaps between organs
        return False
    inside = grow_region(level, free, max(1, round(ml * 1000 / float(np.prod(spacing)))))
    if inside is None:
        return False
    difference = rng.uniform(*tissue.contrast)
    if tissue.darker and rng.uniform() < tissue.darker:
        difference = -difference
    weight = ndimage.gaussian_filter(inside.astype(np.float32), 0.6)  # as sharp as a CT at this voxel size
    part = image[window]
    part += weight * (mean + difference - around[window])
    label[window][inside] = 1
    return True
