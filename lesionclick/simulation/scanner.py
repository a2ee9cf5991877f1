"""From maps of HU and SUV to images as scanners give them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.simulation.canvas import Canvas

SPACINGS_XYZ = ((2.04, 2.04, 3.0), (4.07, 4.07, 3.0), (4.07, 4.07, 5.0), (2.73, 2.73, 3.27))
"""PET voxels in mm of the challenge's scanners."""
FWHM_MM = (4.0, 8.0)
"""Point spread of reconstructed PET, full width at half maximum."""
NOISE = (0.07, 0.28)
"""Standard deviation of the noise where the SUV is 1, from a long scan of a slim patient to a short one of a large."""
BREATH_MM = (-4.0, 22.0)
"""How much higher the diaphragm lies in PET, which sees quiet breathing, than in CT after some breathing in."""

Floats = NDArray[np.float32]


def scan_pet(suv: Floats, spacing_zyx: NDArray[np.float64], rng: np.random.Generator) -> Floats:
    """Return the PET: blurred by the scanner, with noise that grows as the root of the activity.

    The noise is correlated over a little less than the point spread, as in iterative reconstructions.
    """
    sigma = rng.uniform(*FWHM_MM) / 2.355 / spacing_zyx
    pet = ndimage.gaussian_filter(suv, sigma, truncate=3)
    noise = ndimage.gaussian_filter(rng.standard_normal(suv.shape, dtype=np.float32), 0.7 * sigma, truncate=3)
    pet += rng.uniform(*NOISE) / noise.std() * noise * np.sqrt(pet + 0.01)
    clipped: Floats = np.maximum(pet, 0)
    return clipped


def scan_ct(hu: Floats, canvas: Canvas, diaphragm_mm: float, rng: np.random.Generator) -> Floats:
    """Return the CT on the PET grid in HU, with the organs near the diaphragm lower than in the PET.

    Parameters
    ----------
    hu
        HU of each voxel, shape (z, y, x).
    canvas
        Where the voxels lie.
    diaphragm_mm
        Height of the diaphragm in the standard patient.
    rng
        Draws the breath and the noise.
    """
    moved = _breathe(hu, canvas, diaphragm_mm, rng.uniform(*BREATH_MM))
    blurred = ndimage.gaussian_filter(moved, 1.2 / canvas.spacing_zyx)
    noise = ndimage.gaussian_filter(rng.standard_normal(hu.shape, dtype=np.float32), 0.4)
    blurred += rng.uniform(6.0, 16.0) / noise.std() * noise * np.where(blurred > -900, 1.0, 0.3)
    return blurred


def _breathe(hu: Floats, canvas: Canvas, diaphragm_mm: float, depth_mm: float) -> Floats:
    """Move what is inside the chest and upper belly down, most at the diaphragm and nothing near skin and spine."""
    window = canvas.window((diaphragm_mm - 200, -110, -140), (diaphragm_mm + 130, 60, 140))
    z, y, x = canvas.places(window)
    part = hu[window]
    if part.size == 0:
        return hu
    inside = np.clip(1.6 - 1.6 * np.sqrt((x / 138) ** 2 + ((y + 15) / 85) ** 2), 0, 1)
    height = z - diaphragm_mm
    shift = depth_mm * inside * np.exp(-((height / np.where(height > 0, 60.0, 90.0)) ** 2))
    index = np.indices(part.shape, dtype=np.float32)
    index[0] += shift / canvas.spacing_zyx[0]
    moved = hu.copy()
    moved[window] = ndimage.map_coordinates(part, index, order=1, mode="nearest")
    return moved
