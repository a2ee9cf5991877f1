"""The case of Task 1, read and checked. What is not as promised is refused; nothing is repaired.

Tolerated with one warning each: CT and PET whose grids differ by rounding (the PET's is used), a PET that looks like
Bq/ml or like a CT, a PET whose slices are not axial, and what `lesionclick.prompts.points.describe_oddities` lists.
"""

from __future__ import annotations

import logging
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_clicks, write_clicks
from lesionclick.grand_challenge.image_files import ImageFile
from lesionclick.grand_challenge.interfaces import CT, LESION_CLICKS, PET
from lesionclick.images import AIR_HU, Grid, Volume, read_image, require_boxes, require_same_grid, unwritable
from lesionclick.prompts.points import Prompts, describe_oddities

logger = logging.getLogger(__name__)

MAX_SUV = 1000.0
"""Uptake above which a PET is taken for one in Bq/ml: even a full bladder stays a few times below it."""

MIN_SUV = -500.0
"""Value below which a PET is taken for a CT: noise makes uptake negative, but by far less."""

COVERED = 0.9
"""Share of the PET's voxels below which the CT is said to cover only a part: most CTs reach as far as the patient does.
"""


@dataclass(frozen=True)
class PetCtCase:
    """A PET/CT, and what was clicked on it.

    Attributes
    ----------
    ct
        CT in HU, float32, on the PET's grid.
    pet
        PET in SUV, float32.
    prompts
        Points on the PET, in the order in which they were set; those outside the image are among them.
    """

    ct: Volume
    pet: Volume
    prompts: Prompts = field(default_factory=Prompts)

    @classmethod
    def read(cls, folder: CaseFolder) -> PetCtCase:
        """Read and check the case that the platform laid out.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        ct_file, pet_file = folder.image(CT), folder.image(PET)
        require_same_grid(ct_file.grid, pet_file.grid, str(ct_file), str(pet_file))
        prompts = read_clicks(folder.json(LESION_CLICKS))
        with ThreadPoolExecutor(2) as pool:  # inflating leaves Python's lock alone
            ct, pet = pool.map(ImageFile.read, (ct_file, pet_file))
        if ct.grid != pet.grid:
            logger.warning("%s and %s: grids differ by rounding, the second is used", ct_file, pet_file)
        _check_pet(pet, str(pet_file))
        warn_about_prompts(prompts, pet)
        return cls(Volume(ct.array, pet.grid), pet, prompts)

    @classmethod
    def from_files(cls, ct: Path, pet: Path) -> PetCtCase:
        """Make a case of two image files, NIfTI or MetaImage for example; see `from_images`.

        Raises
        ------
        InputError
            If one cannot be read, and as `from_images`.
        """
        return cls.from_images(ct=read_image(ct, sitk.sitkFloat32), pet=read_image(pet, sitk.sitkFloat32))

    @classmethod
    def from_images(cls, ct: sitk.Image, pet: sitk.Image) -> PetCtCase:
        """Make a case of two images in memory.

        Parameters
        ----------
        ct
            CT in HU; where it lies on another grid, it is resampled to the PET's, linearly, with air outside.
        pet
            PET in SUV.

        Raises
        ------
        InputError
            If one is not 3-D, has several values per voxel, values that are not finite or a direction that is no three
            unit vectors at right angles; if no voxel of the PET lies in the CT; or the PET is of one value.
        """
        for name, image in (("CT", ct), ("PET", pet)):
            if (image.GetDimension(), image.GetNumberOfComponentsPerPixel()) != (3, 1):
                raise InputError(
                    f"{name}: expected a 3-D image with one value per voxel, found "
                    f"{image.GetDimension()}-D with {image.GetNumberOfComponentsPerPixel()}"
                )
            require_boxes(Grid.from_image(image), name)
            _require_finite(sitk.GetArrayViewFromImage(image), name)  # resampling makes large numbers of infinite ones
        same = Volume.from_image(sitk.Resample(ct, pet, sitk.Transform(), sitk.sitkLinear, np.nan, sitk.sitkFloat32))
        beyond = np.isnan(same.array)
        if beyond.all():
            raise InputError(
                "CT and PET: expected images of one place, found no voxel of the PET in the CT: "
                f"CT {Grid.from_image(ct)}, PET {same.grid}"
            )
        if (share := 1 - beyond.mean()) < COVERED:
            logger.warning("CT: covers %.0f %% of the PET, and the rest is taken for air", 100 * share)
        same.array[beyond] = AIR_HU
        return cls.from_volumes(same, Volume.from_image(sitk.Cast(pet, sitk.sitkFloat32)))

    @classmethod
    def from_volumes(cls, ct: Volume, pet: Volume) -> PetCtCase:
        """Make a case of two arrays with a grid; parameters and errors as `from_images`, but on one grid.

        Raises
        ------
        InputError
            If the two do not lie on one grid, a value is not finite, or the PET is of one value.
        """
        require_same_grid(ct, pet, "CT", "PET")
        with np.errstate(over="ignore"):  # what is infinite as float32 is refused
            ct_array, pet_array = (volume.array.astype(np.float32, copy=False) for volume in (ct, pet))
        for name, array in (("CT", ct_array), ("PET", pet_array)):
            _require_finite(array, name)
        checked = Volume(pet_array, pet.grid)
        _check_pet(checked, "PET")
        return cls(Volume(ct_array, pet.grid), checked)

    def write(self, folder: Path) -> None:
        """Write the case as the platform lays it out; it appears whole or not at all.

        Parameters
        ----------
        folder
            New case folder.

        Raises
        ------
        InputError
            If the folder exists, or cannot be written.
        """
        if folder.exists():
            raise InputError(f"{folder}: expected a new folder to write, found one that exists")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as temporary:
                made = Path(temporary) / folder.name
                for socket, volume in ((CT, self.ct), (PET, self.pet)):
                    place = made / socket.relative_path
                    place.mkdir(parents=True)
                    volume.write(place / f"{socket.slug}.mha")
                write_clicks(made / LESION_CLICKS.relative_path, self.prompts)
                made.rename(folder)
        except OSError as error:
            raise unwritable(folder.parent, error) from error


def warn_about_prompts(prompts: Prompts, pet: Volume) -> None:
    """Log one warning for each kind of oddity among the points that is tolerated."""
    for oddity in describe_oddities(prompts, pet.grid.shape_zyx):
        logger.warning("%s: %s", LESION_CLICKS.slug, oddity)


def _require_finite(array: NDArray[np.number], name: str) -> None:
    if not np.isfinite(array).all():
        raise InputError(f"{name}: expected finite voxels, found NaN or infinite ones")


def _check_pet(pet: Volume, name: str) -> None:
    low, high = pet.array.min(), pet.array.max()
    if low == high:
        raise InputError(f"{name}: expected a PET, found the value {low} in every voxel")
    if low < MIN_SUV:
        looks = "the values are from %.4g to %.4g, which looks like a CT in HU, or like Bq/ml"
        logger.warning(f"%s: {looks}; expected SUV, and went on", name, low, high)
    elif high > MAX_SUV:
        logger.warning("%s: the maximum is %.4g, which looks like Bq/ml; expected SUV, and went on", name, high)
    if int(np.abs(np.reshape(pet.grid.direction, (3, 3)))[2].argmax()) != 2:
        logger.warning("%s: the slices are not axial, as those of the training are; the mask may be much worse", name)
