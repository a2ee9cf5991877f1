"""What the DICOM objects that are written have in common."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import DSfloat

from lesionclick.dicom.attributes import required, same_in_all
from lesionclick.dicom.series import Series
from lesionclick.images import replacing

MAKER = "lesionclick"
"""What the objects name as their manufacturer, model and algorithm."""

SERIES_NUMBER = 300
"""Number of the series of segmentations, by which viewers sort: above those of scanners. Reports have the next."""


_MAY_BE_EMPTY = (
    "PatientID",
    "PatientName",
    "PatientBirthDate",
    "PatientSex",
    "AccessionNumber",
    "StudyID",
    "StudyDate",
    "StudyTime",
)
"""What an object takes over from its sources: DICOM wants it, but empty where it is unknown."""

_CHARACTERS = "SpecificCharacterSet"


def sources(series: Series) -> list[Dataset]:
    """Return copies of the slices of a series to derive an object from; see `without_patient`.

    Their thickness and their distance are the grid's, which positions tell: scanners write a gap, a sign or nothing
    there, and readers believe it.

    Raises
    ------
    InputError
        If they do not tell one study, in which the object could lie.
    """
    required(series.slices[0], "StudyInstanceUID")
    same_in_all(series.slices, "StudyInstanceUID")
    made = [without_patient(one) for one in series.slices]
    for dataset in made:
        for keyword in ("SliceThickness", "SpacingBetweenSlices"):
            dataset.add_new(keyword, "DS", DSfloat(series.grid.spacing_xyz[2], auto_format=True))
    return made


def without_patient(dataset: Dataset) -> Dataset:
    """Return a copy with nothing in what `with_patient` puts in again, because highdicom refuses unknown values there.

    Scanners and de-identification write them: a sex W, a birthday 19500000, characters of UTF-8.
    """
    made = dataset[:]
    made.pop(_CHARACTERS, None)
    for keyword in _MAY_BE_EMPTY:
        made.add_new(keyword, dictionary_VR(keyword), "")
    return made


def with_patient(dataset: Dataset, source: Dataset) -> Dataset:
    """Return an object with patient and study as a slice tells them, which are handed on as they are."""
    for keyword in (_CHARACTERS, *_MAY_BE_EMPTY):
        if keyword in source:
            dataset.add(source[keyword])
    return dataset


@contextmanager
def without_checks_of_the_source() -> Iterator[None]:
    """Hand on without a word what the source's header breaks, such as the length of an identifier or a name's form."""
    with disable_value_validation(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def save(dataset: Dataset, path: Path) -> Path:
    """Write a DICOM file that any user can read; it appears whole or not at all. Return its path.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with replacing(path) as temporary:
        dataset.save_as(temporary)
        temporary.chmod(0o644)
    return path
