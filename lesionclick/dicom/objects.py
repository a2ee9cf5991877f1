"""What the DICOM objects that are written have in common."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pydicom import Dataset
from pydicom.config import disable_value_validation
from pydicom.valuerep import DSfloat

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


def sources(series: Series) -> list[Dataset]:
    """Return the slices of a series to derive an object from.

    What de-identification has removed from them is empty. Their thickness and their distance are the grid's, which
    positions tell: scanners write a gap, a sign or nothing there, and readers believe it.
    """
    made = [Dataset(one) for one in series.slices]
    for dataset in made:
        dataset.SliceThickness = dataset.SpacingBetweenSlices = DSfloat(series.grid.spacing_xyz[2], auto_format=True)
    for keyword in _MAY_BE_EMPTY:
        if keyword not in made[0]:
            setattr(made[0], keyword, "")
    return made


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
