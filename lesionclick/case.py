"""A case as the platform gives it, and the mask that it wants; the only file access between the two."""

from __future__ import annotations

import logging
import math
import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.clicks import Click, read_clicks
from lesionclick.errors import InputError
from lesionclick.images import Grid, Volume, require_same_grid
from lesionclick.interfaces import (
    CT,
    LESION_CLICKS,
    PET,
    TUMOR_LESION_SEGMENTATION,
    find_image,
    find_interface,
    find_json,
)

logger = logging.getLogger(__name__)

MAX_VOXELS = 500_000_000
"""Largest image that is read: four times a 512 x 512 x 450 study; two of them as float32 fill 4 GB."""
MAX_SUV = 1000.0
"""No tissue has an uptake anywhere near this; what has it is most likely in Bq/ml."""


@dataclass(frozen=True)
class PetCtCase:
    """A Task 1 case: CT in HU and PET in SUV on one grid, clicks in its voxel indices, and the CT's file stem."""

    ct: Volume
    pet: Volume
    clicks: tuple[Click, ...]
    stem: str

    @classmethod
    def read(cls, input_dir: Path) -> PetCtCase:
        """Read and check a case from a folder in the platform's layout.

        The PET's grid counts where the CT's differs by rounding. A PET whose maximum is far above any SUV is used with
        a warning.

        Raises
        ------
        InputError
            If anything is missing, unreadable, of the wrong kind, not finite, or if CT and PET lie on different grids.
        """
        find_interface(input_dir)
        ct_path, pet_path = find_image(input_dir, CT), find_image(input_dir, PET)
        clicks = read_clicks(find_json(input_dir, LESION_CLICKS))
        ct, pet = read_image(ct_path, "CT"), read_image(pet_path, "PET")
        require_same_grid(ct, pet, f"CT {ct_path.name}", f"PET {pet_path.name}")
        _check_uptake(pet, pet_path)
        return cls(Volume(ct.array, pet.grid), pet, clicks, ct_path.stem)


def _check_uptake(pet: Volume, path: Path) -> None:
    low, high = float(pet.array.min()), float(pet.array.max())
    if low == high:
        raise InputError(f"PET {path}: expected uptake that varies, found {low:g} in every voxel")
    if high > MAX_SUV:
        logger.warning("PET %s: maximum %.4g is far above any SUV; is it in Bq/ml? It is used as it is", path, high)


def read_image(path: Path, name: str) -> Volume:
    """Read a 3D image as float32.

    The header is checked before the voxels are read, so that an absurd size fails with a message and not for memory.

    Parameters
    ----------
    path
        The file.
    name
        What to call the image in messages.

    Raises
    ------
    InputError
        If the file cannot be read, or is not a scalar 3D image of finite values and sensible size.
    """
    reader = sitk.ImageFileReader()
    reader.SetFileName(str(path))
    try:
        reader.ReadImageInformation()
        size = reader.GetSize()
        if len(size) != 3 or reader.GetNumberOfComponents() != 1:
            raise InputError(
                f"{name} {path}: expected a 3D image with one value per voxel, found {len(size)} dimensions of size "
                f"{size} and {reader.GetNumberOfComponents()} values per voxel"
            )
        if not 0 < math.prod(size) <= MAX_VOXELS:
            raise InputError(f"{name} {path}: expected 1 to {MAX_VOXELS} voxels, found {math.prod(size)}, size {size}")
        reader.SetOutputPixelType(sitk.sitkFloat32)
        image = reader.Execute()
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{name} {path}: expected a readable image file, found: {reason}") from error
    array = sitk.GetArrayFromImage(image)
    if bad := array.size - int(np.isfinite(array).sum()):
        raise InputError(f"{name} {path}: expected finite values, found {bad} voxels that are NaN or infinite")
    return Volume(array, Grid.from_image(image))


def mask_path(output_dir: Path, case: PetCtCase) -> Path:
    """Return where the platform wants the mask of a case: under the stem of its CT."""
    return output_dir / TUMOR_LESION_SEGMENTATION.relative_path / f"{case.stem}.mha"


def prepare_output(output_dir: Path) -> None:
    """Make the output folder ready, so that a case does not fail after all the work.

    Raises
    ------
    InputError
        If a file cannot be written there, naming the folder and the user.
    """
    folder = output_dir / TUMOR_LESION_SEGMENTATION.relative_path
    probe = folder / f".probe-{os.getpid()}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise InputError(
            f"{folder}: expected a folder that user {os.getuid()} may write to, found: {error.strerror}"
        ) from error


def write_mask(mask: Volume, path: Path) -> None:
    """Write a mask compressed, under a temporary name that becomes `path` when the file is whole.

    Raises
    ------
    InputError
        If it cannot be written; nothing is left behind then.
    """
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp.mha")
    try:
        sitk.WriteImage(mask.to_image(), str(temporary), useCompression=True)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except (OSError, RuntimeError) as error:
        temporary.unlink(missing_ok=True)
        reason = str(error).strip().splitlines()[-1]
        raise InputError(f"{path}: expected to write the mask as user {os.getuid()}, found: {reason}") from error
