"""The table of lesions: how large and how hot each is. Pure NumPy.

SUV is in g/ml, as by body weight. A lesion is a component of the mask with 26 neighbours, as the challenge's clicks
count them: voxels that touch at a corner are one lesion, so that a thin oblique one does not fall apart. Its scores
count 18 neighbours.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Volume, points_from_indices, require_same_grid

PEAK_RADIUS_MM = 10 * (3 / (4 * np.pi)) ** (1 / 3)
"""Radius of a sphere of 1 ml, about 6.2 mm."""


@dataclass(frozen=True)
class Lesion:
    """One component of a mask.

    Attributes
    ----------
    number
        Place in the table, from 1 on, the largest first.
    volume_ml
        Number of voxels times the volume of one: the metabolic tumour volume.
    suv_max, suv_mean
        Over its voxels.
    suv_peak
        See `quantify`.
    glycolysis_g
        Lesion glycolysis, mean SUV times volume.
    centroid_xyz
        Centre of gravity of its voxels, all alike; it may lie outside the lesion.
    hottest_xyz
        Voxel of `suv_max`.
    peak_xyz
        Voxel in the centre of the sphere of `suv_peak`.
    """

    number: int
    volume_ml: float
    suv_max: float
    suv_mean: float
    suv_peak: float
    glycolysis_g: float
    centroid_xyz: tuple[float, float, float]
    hottest_xyz: tuple[int, int, int]
    peak_xyz: tuple[int, int, int]


@dataclass(frozen=True)
class Quantification:
    """All lesions of a mask.

    Attributes
    ----------
    lesions
        The largest first; of equal ones the hotter.
    numbers
        The number of its lesion in each voxel, 0 outside, int32, on the mask's grid.
    """

    lesions: tuple[Lesion, ...]
    numbers: Volume

    @property
    def volume_ml(self) -> float:
        """Total metabolic tumour volume, the sum over the lesions."""
        return sum((lesion.volume_ml for lesion in self.lesions), start=0.0)

    @property
    def glycolysis_g(self) -> float:
        """Total lesion glycolysis, the sum over the lesions."""
        return sum((lesion.glycolysis_g for lesion in self.lesions), start=0.0)


def quantify(mask: Volume, pet: Volume) -> Quantification:
    """Measure each lesion of a mask.

    Lesion glycolysis is that of Larson et al., Clin Positron Imaging 2 (1999) 159. SUVpeak is the highest mean in a
    sphere of 1 ml, as in PERCIST (Wahl et al., J Nucl Med 50 (2009) 122S). Which sphere, it leaves open; ours is the
    global intensity peak of the Image Biomarker Standardisation Initiative (0F91; Zwanenburg et al., Radiology 295
    (2020) 328, and arXiv:1612.07003): the centre is the centre of any voxel of the lesion, a voxel takes part as a
    whole if its centre lies in the sphere and not at all otherwise, and voxels outside the lesion take part too. Those
    outside the image are left out.

    Parameters
    ----------
    mask
        Lesion where it is not 0.
    pet
        SUV.

    Raises
    ------
    InputError
        If the two do not lie on one grid.
    """
    require_same_grid(mask, pet, "mask", "PET")
    components = cc3d.connected_components(mask.array != 0, connectivity=26)
    offsets = _sphere_offsets(mask.grid.spacing_zyx)
    found = []
    for component, box in enumerate(ndimage.find_objects(components), start=1):
        voxels = np.argwhere(components[box] == component) + [axis.start for axis in box]
        found.append((voxels, pet.array[tuple(voxels.T)].astype(np.float64)))
    found.sort(key=lambda one: (-len(one[1]), -one[1].max()))
    numbers = np.zeros(mask.array.shape, dtype=np.int32)
    lesions = []
    for number, (voxels, suv) in enumerate(found, start=1):
        numbers[tuple(voxels.T)] = number
        peaks = _sphere_means(pet.array, voxels, offsets)
        volume_ml = len(voxels) * mask.grid.voxel_ml
        x, y, z = points_from_indices(voxels.mean(axis=0)).tolist()
        lesions.append(
            Lesion(
                number,
                volume_ml,
                suv_max=float(suv.max()),
                suv_mean=float(suv.mean()),
                suv_peak=float(peaks.max()),
                glycolysis_g=float(suv.mean()) * volume_ml,
                centroid_xyz=(x, y, z),
                hottest_xyz=_voxel_xyz(voxels[suv.argmax()]),
                peak_xyz=_voxel_xyz(voxels[peaks.argmax()]),
            )
        )
    return Quantification(tuple(lesions), Volume(numbers, mask.grid))


def to_csv(found: Quantification) -> str:
    """Return the table as text with commas: a line for each lesion, and one for the total, below the names."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["lesion", "volume_ml", "suv_max", "suv_mean", "suv_peak", "glycolysis_g", "x", "y", "z"])
    for one in found.lesions:
        values = one.volume_ml, one.suv_max, one.suv_mean, one.suv_peak, one.glycolysis_g
        table.writerow([one.number, *(f"{value:.3f}" for value in values), *one.hottest_xyz])
    table.writerow(["total", f"{found.volume_ml:.3f}", "", "", "", f"{found.glycolysis_g:.3f}", "", "", ""])
    return text.getvalue()


def _sphere_offsets(spacing_zyx: Sequence[float]) -> NDArray[np.int64]:
    """Return the steps to the voxels whose centres lie within `PEAK_RADIUS_MM` of a voxel's centre, shape (n, 3)."""
    reach = [int(PEAK_RADIUS_MM // mm) for mm in spacing_zyx]
    steps = np.indices([2 * n + 1 for n in reach]).reshape(3, -1).T - reach
    inside: NDArray[np.int64] = steps[np.linalg.norm(steps * np.asarray(spacing_zyx), axis=1) <= PEAK_RADIUS_MM]
    return inside


def _sphere_means(
    array: NDArray[np.number], voxels_zyx: NDArray[np.int64], offsets_zyx: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the mean over the voxels at all offsets from each voxel that lie in the array, shape (n,)."""
    total, count = np.zeros(len(voxels_zyx)), np.zeros(len(voxels_zyx))
    for offset in offsets_zyx:
        places = voxels_zyx + offset
        inside = ((places >= 0) & (places < array.shape)).all(axis=1)
        total[inside] += array[tuple(places[inside].T)]
        count += inside
    return total / count


def _voxel_xyz(index_zyx: NDArray[np.int64]) -> tuple[int, int, int]:
    z, y, x = index_zyx.tolist()
    return x, y, z
