"""Real tumours among the organs of a drawn patient."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Volume
from lesionclick.simulation.canvas import ORGANS, Canvas

TUMOUR_ML = (1.0, 300.0)
"""Range of the volume that a tumour is scaled to, unless it is smaller."""
RIM_MM = 6.0
"""Width of the rim around the tumour in which the images fade into each other."""
BLURRED_SCALE = 0.75
"""Least part of its true size at which a tumour shows about the blur of a scanner."""

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Tumour:
    """A crop around a real tumour, all three on one grid: SUV, HU, and a mask."""

    pet: Volume
    ct: Volume
    label: Volume


@dataclass(frozen=True)
class Transplant:
    """A tumour on a window of the patient's grid.

    Attributes
    ----------
    window
        Of the patient's arrays.
    suv, hu, weight
        Images of the tumour, and 1 in it, falling to 0 over the rim; shape of the window, float32.
    label
        The tumour, bool.
    blurred
        Whether it is shown at so much of its true size that it has the blur of a scanner, and is put into the images
        rather than into what is scanned.
    """

    window: tuple[slice, ...]
    suv: Floats
    hu: Floats
    weight: Floats
    label: NDArray[np.bool_]
    blurred: bool

    def blend(self, image: Floats, tumour: Floats) -> None:
        """Put the tumour's image into a patient's, in place."""
        part = image[self.window]
        part += self.weight * (tumour - part)


def find_place(
    canvas: Canvas, label: NDArray[np.uint8], tumour: Tumour, rng: np.random.Generator, *, scale: float | None = None
) -> Transplant | None:
    """Scale a tumour, turn it at random, and find a place for it in soft tissue, free of other lesions.

    Parameters
    ----------
    canvas
        The patient.
    label
        The lesions that there are, shape (z, y, x).
    tumour
        The crop.
    rng
        Draws size, mirroring and place.
    scale
        Factor on the tumour's lengths; by default drawn so that its volume lies in `TUMOUR_ML`, never above 1.

    Returns
    -------
    Transplant or None
        None if in 40 tries there is no place.
    """
    mask = tumour.label.array > 0
    ml = mask.sum() * tumour.label.grid.voxel_ml
    if scale is None:
        wanted = np.exp(rng.uniform(*np.log(TUMOUR_ML)))
        scale = float(min(1.0, (wanted / ml) ** (1 / 3)))
    spacing = np.array(tumour.label.grid.spacing_zyx) * scale
    box = ndimage.find_objects(mask.astype(np.uint8))[0]
    low = np.array([axis.start for axis in box]) * spacing - RIM_MM
    high = np.array([axis.stop - 1 for axis in box]) * spacing + RIM_MM
    flips = rng.choice((-1, 1), 3)
    size = np.ceil((high - low) / canvas.spacing_zyx).astype(int) + 1
    axes = [
        np.linspace(-1, 1, n) * (n - 1) / 2 * mm * flip
        for n, mm, flip in zip(size, canvas.spacing_zyx, flips, strict=True)
    ]
    middle = (low + high) / 2
    index = np.meshgrid(*((a + m) / s for a, m, s in zip(axes, middle, spacing, strict=True)), indexing="ij")
    # the mean over a voxel of the patient, where the shrunk tumour's are smaller
    smooth = np.maximum(canvas.spacing_zyx / spacing / 3.5 - 0.3, 0)

    def resample(array: NDArray[np.generic]) -> Floats:
        blurred = ndimage.gaussian_filter(array.astype(np.float32), smooth)
        resampled: Floats = ndimage.map_coordinates(blurred, index, order=1, mode="nearest", output=np.float32)
        return resampled

    inside = resample(mask) >= 0.5
    if not inside.any():
        return None
    distance = ndimage.distance_transform_edt(~inside, sampling=canvas.spacing_zyx)
    weight = np.clip(1 - distance / RIM_MM, 0, 1).astype(np.float32)
    soft = [ORGANS[name] for name in ("muscle", "fat", "small_bowel", "bone", "marrow", "lung", "liver")]
    shape = np.array(canvas.organs.shape)
    seeds = np.argwhere(np.isin(canvas.organs, [ORGANS["muscle"], ORGANS["fat"]]))
    if (size > shape).any() or not len(seeds):
        return None
    for _ in range(40):
        corner = seeds[rng.integers(len(seeds))] - size // 2
        if (corner < 0).any() or (corner + size > shape).any():
            continue
        window = tuple(map(slice, corner, corner + size))
        free = np.isin(canvas.organs[window], soft) & (label[window] == 0)
        if free[inside].mean() > 0.97:
            rim = np.where(canvas.organs[window] == ORGANS["air"], np.float32(0), weight)
            suv, hu = resample(tumour.pet.array), resample(tumour.ct.array)
            return Transplant(window, suv, hu, rim, inside & free, blurred=scale > BLURRED_SCALE)
    return None
