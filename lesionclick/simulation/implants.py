"""Lesions made in a real CT, as a background with true organs, vessels and noise."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Volume
from lesionclick.simulation.lesions import bumpy_ellipsoid, grow_region

MEDIAN_ML, SPREAD = 3.0, 1.1
"""Of the lesions' volumes: median in ml, spread of the logarithm."""
LESION_ML = (0.3, 60.0)
CONTRAST_HU = {"lung": (650.0, 850.0), "fat": (90.0, 170.0), "tissue": (25.0, 90.0)}
"""Difference between a lesion and what it grows in; in tissue lesions are darker or brighter."""
DARKER_SHARE = 0.7
"""Share of the lesions in tissue that are darker, as most metastases of the liver are in the portal venous phase."""
LUNG_SHARE, FAT_SHARE = 0.15, 0.25
"""Shares of the lesions that start in lung and in fat, where the CT shows such."""
SAME_TISSUE_HU = {"lung": 135.0, "fat": 60.0, "tissue": 45.0}
"""Voxels whose neighbourhood differs by less belong to the tissue that a lesion started in."""
LEAST_ROOM = 0.8
"""Least share of a lesion's first shape that lies in the tissue that it started in."""
_KINDS = {"lung": (-950.0, -650.0), "fat": (-130.0, -50.0), "tissue": (0.0, 220.0)}
"""What lesions start in, by HU."""
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
    smooth = ndimage.gaussian_filter(image, 3.0 / spacing)
    starts = {kind: _starts(image, smooth, limits) for kind, limits in _KINDS.items()}
    chances = {"lung": LUNG_SHARE, "fat": FAT_SHARE, "tissue": 1 - LUNG_SHARE - FAT_SHARE}
    kinds = [kind for kind in _KINDS if len(starts[kind])]
    shares = np.array([chances[kind] for kind in kinds])
    for _ in range(count if kinds else 0):
        for _ in range(_TRIES):
            kind = kinds[rng.choice(len(kinds), p=shares / shares.sum())]
            start = np.array(np.unravel_index(rng.choice(starts[kind]), image.shape))
            if _add(image, label, smooth, start, kind=kind, spacing=spacing, rng=rng):
                break
    array = np.clip(np.rint(image), -1024, 3071).astype(np.int16)
    return Volume(array, ct.grid), Volume(label, ct.grid)


def _starts(image: Floats, smooth: Floats, limits: tuple[float, float]) -> NDArray[np.int64]:
    """Return the flat indices of voxels that lie within the limits, with what is around them, inside the body."""
    body = ndimage.binary_fill_holes(ndimage.binary_opening(image > -300, iterations=2))
    within = (image > limits[0]) & (image < limits[1]) & (smooth > limits[0]) & (smooth < limits[1])
    return np.flatnonzero(within & ndimage.binary_erosion(body, iterations=3))


def _add(
    image: Floats,
    label: NDArray[np.uint8],
    smooth: Floats,
    start: NDArray[np.int64],
    *,
    kind: str,
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
) -> bool:
    """Add one lesion to the arrays, in place; return whether there was room."""
    ml = float(np.clip(rng.lognormal(np.log(MEDIAN_ML), SPREAD), *LESION_ML))
    radius = (ml * 1000 * 3 / (4 * np.pi)) ** (1 / 3)
    reach = np.ceil(2 * radius / spacing + 2).astype(int)
    window = tuple(map(slice, np.maximum(start - reach, 0), np.minimum(start + reach + 1, image.shape)))
    around = float(smooth[tuple(start)])
    level = bumpy_ellipsoid(image[window].shape, spacing, start - [axis.start for axis in window], radius, rng)
    free = (np.abs(smooth[window] - around) < SAME_TISSUE_HU[kind]) & (label[window] == 0)
    if free[level < 1].mean() < LEAST_ROOM:  # its shape would be that of the gaps between organs
        return False
    inside = grow_region(level, free, max(1, round(ml * 1000 / float(np.prod(spacing)))))
    if inside is None:
        return False
    difference = rng.uniform(*CONTRAST_HU[kind])
    if kind == "tissue" and rng.uniform() < DARKER_SHARE:
        difference = -difference
    weight = ndimage.gaussian_filter(inside.astype(np.float32), 0.6)  # as sharp as a CT at this voxel size
    part = image[window]
    part += weight * (around + difference - smooth[window])
    label[window][inside] = 1
    return True
