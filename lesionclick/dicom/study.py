"""A PET/CT study in DICOM files: its series chosen, converted to a case, and kept for what is written back."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from lesionclick.dicom.attributes import attribute, source, text
from lesionclick.dicom.series import IMAGES, Series, describe, find_series, is_dicom
from lesionclick.dicom.suv import suv_factor
from lesionclick.errors import InputError
from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase

logger = logging.getLogger(__name__)

LEAST_HU = -1024.0
"""Scanners fill what lies outside their field of view with less than air."""

_UNSPECIFIED = ("US",)


@dataclass(frozen=True)
class Study:
    """A PET/CT study.

    Attributes
    ----------
    case
        CT in HU and PET in SUVbw, both on the PET's grid, without prompts.
    pet, ct
        The series that it was made of.
    """

    case: PetCtCase
    pet: Series
    ct: Series


def is_dicom_folder(folder: Path) -> bool:
    """Tell whether there is a DICOM file under a folder."""
    return folder.is_dir() and any(is_dicom(path) for path in folder.rglob("*"))


def read_study(folder: Path, *, pet: str | None = None, ct: str | None = None) -> Study:
    """Read the PET and the CT of a study and convert them to a case.

    The CT is resampled to the PET linearly, with air outside.

    Parameters
    ----------
    folder
        Holds the files, in any order and in any folders below; others are passed over.
    pet, ct
        Number or UID of the series to take where there are several.

    Raises
    ------
    InputError
        If there is no PET or no CT in one frame of reference; there are several and none is chosen, which lists them;
        slices are missing or mixed; or the header does not tell SUV safely.
    """
    found = find_series(folder)
    pet_series = Series.sort(_choose(_of_kind(found, "PET"), pet, "PET", folder))
    ct_series = Series.sort(_choose_ct(_of_kind(found, "CT"), ct, pet_series, folder))
    suv = read_suv(pet_series)
    _require_hu(ct_series)
    hu = Volume(np.maximum(ct_series.read(padding=LEAST_HU), LEAST_HU).astype(np.float32), ct_series.grid)
    return Study(PetCtCase.from_images(ct=hu.to_image(), pet=suv.to_image()), pet_series, ct_series)


def find_pet(folder: Path, *, pet: str | None = None) -> Series:
    """Return the PET series of a study; parameters and errors as `read_study`."""
    return Series.sort(_choose(_of_kind(find_series(folder), "PET"), pet, "PET", folder))


def read_suv(pet: Series) -> Volume:
    """Return a PET in SUVbw, float32; errors as `read_study`."""
    factor = suv_factor(pet.slices)
    return Volume((pet.read() * factor).astype(np.float32), pet.grid)


def _require_hu(ct: Series) -> None:
    kinds = {text(one, "RescaleType") for one in ct.slices} - {"", "HU", *_UNSPECIFIED}
    if kinds:
        raise InputError(
            f"{source(ct.slices[0])}: expected a CT in HU, found {attribute('RescaleType')} {', '.join(sorted(kinds))}"
        )
    if any(text(one, "RescaleType") in _UNSPECIFIED for one in ct.slices):
        name = attribute("RescaleType")
        logger.warning("%s: expected a CT in HU, found unspecified units in %s, and went on", ct.uid, name)


def _of_kind(found: Mapping[str, Sequence[Dataset]], kind: str) -> dict[str, Sequence[Dataset]]:
    return {uid: slices for uid, slices in found.items() if slices[0].SOPClassUID in IMAGES[kind]}


def _choose_ct(
    series: Mapping[str, Sequence[Dataset]], wanted: str | None, pet: Series, folder: Path
) -> Sequence[Dataset]:
    """Choose among the CTs in the PET's frame of reference, which alone lie in known places of it."""
    frame = text(pet.slices[0], "FrameOfReferenceUID")
    near = {uid: slices for uid, slices in series.items() if text(slices[0], "FrameOfReferenceUID") == frame}
    if near and wanted is None:
        return _choose(near, None, "CT", folder)
    chosen = _choose(series, wanted, "CT", folder)
    if (other := text(chosen[0], "FrameOfReferenceUID")) != frame:
        raise InputError(
            f"{source(chosen[0])}: expected a CT with the PET's {attribute('FrameOfReferenceUID')} {frame}, found "
            f"{other or 'none'}: nothing tells how they lie to each other"
        )
    return chosen


def _choose(series: Mapping[str, Sequence[Dataset]], wanted: str | None, kind: str, folder: Path) -> Sequence[Dataset]:
    fitting = [
        slices for uid, slices in series.items() if wanted is None or wanted in (uid, text(slices[0], "SeriesNumber"))
    ]
    if len(fitting) == 1:
        return fitting[0]
    listed = "".join(f"\n  {describe(slices)}" for slices in series.values()) or " none"
    expected = f"one {kind} series" if wanted is None else f"one {kind} series with the number or UID {wanted}"
    hint = f"; choose one with --{kind.lower()} NUMBER|UID" if len(series) > 1 else ""
    raise InputError(f"{folder}: expected {expected}{hint}; found{':' if series else ''}{listed}")
