"""What the DICOM objects that are written have in common."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pydicom.config import disable_value_validation

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


def sources(slices: Sequence[Dataset]) -> list[Dataset]:
    """Return slices to derive an object from, with what de-identification has removed from them as empty."""
    first = Dataset(slices[0])
    for keyword in _MAY_BE_EMPTY:
        if keyword not in first:
            setattr(first, keyword, "")
    return [first, *slices[1:]]


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
