"""Tiny DICOM series: a PET whose SUV can be worked out in the head, and a CT."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.uid import (
    CTImageStorage,
    ExplicitVRLittleEndian,
    PositronEmissionTomographyImageStorage,
    generate_uid,
)

from lesionclick.images import Grid

GRID = Grid((6, 5, 4), (4.0, 4.5, 3.0), (-10.0, -20.0, 100.0))
SUV_PER_BQML = 70e3 / 140e6
"""Of `pet_slices`: 70 kg, and 280 MBq that lose half in the hour to the scan, so that 2000 Bq/ml are SUV 1."""


def uid(name: str) -> str:
    """Return the UID that belongs to a name."""
    return str(generate_uid(entropy_srcs=[name]))


def pet_slices(stored: NDArray[np.int16], grid: Grid = GRID, **changes: Any) -> list[Dataset]:
    """Return a PET in Bq/ml, corrected for decay to the start of the scan, an hour after the injection.

    Parameters
    ----------
    stored
        Stored values, shape (z, y, x); the rescale slope is 2.
    grid
        Where they lie.
    changes
        Attributes of all slices to set, or with None to remove.
    """
    tracer = Dataset()
    tracer.RadiopharmaceuticalStartTime = "091500"
    tracer.RadionuclideTotalDose = 280e6
    tracer.RadionuclideHalfLife = 3600
    attributes = {
        "SOPClassUID": PositronEmissionTomographyImageStorage,
        "Modality": "PT",
        "SeriesNumber": 4,
        "SeriesDescription": "PET AC",
        "Manufacturer": "SIEMENS",
        "SeriesDate": "20260302",
        "SeriesTime": "101500",
        "AcquisitionDate": "20260302",
        "AcquisitionTime": "101500",
        "ActualFrameDuration": 120000,
        "FrameReferenceTime": 59884.5,
        "PatientWeight": 70,
        "Units": "BQML",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "DecayCorrection": "START",
        "NumberOfSlices": len(stored),
        "RescaleSlope": 2,
        "RescaleIntercept": 0,
        "RadiopharmaceuticalInformationSequence": [tracer],
    }
    return _slices(stored, grid, attributes | changes)


def ct_slices(stored: NDArray[np.int16], grid: Grid = GRID, **changes: Any) -> list[Dataset]:
    """Return a CT with a rescale intercept of -1024; parameters as `pet_slices`."""
    attributes = {
        "SOPClassUID": CTImageStorage,
        "Modality": "CT",
        "SeriesNumber": 2,
        "SeriesDescription": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    }
    return _slices(stored, grid, attributes | changes)


def tracer(slices: Sequence[Dataset], **changes: Any) -> None:
    """Change attributes of the tracer in all slices, or with None remove them."""
    for dataset in slices:
        _change(dataset.RadiopharmaceuticalInformationSequence[0], changes)


def write(slices: Sequence[Dataset], folder: Path, names: Sequence[str] | None = None) -> Path:
    """Write slices as files of a folder, by default in their order, and return the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for index, dataset in enumerate(slices):
        dataset.save_as(folder / (names[index] if names else f"{index:03}.dcm"), enforce_file_format=True)
    return folder


def _slices(stored: NDArray[np.int16], grid: Grid, attributes: dict[str, Any]) -> list[Dataset]:
    return [_slice(stored, grid, attributes, index) for index in range(len(stored))]


def _slice(stored: NDArray[np.int16], grid: Grid, attributes: dict[str, Any], index: int) -> Dataset:
    x, y, _ = np.array(grid.direction).reshape(3, 3).T
    (position,) = grid.to_physical((0, 0, index))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    common = {
        "PatientName": "Test^Patient",
        "PatientID": "1",
        "PatientBirthDate": "",
        "PatientSex": "O",
        "StudyInstanceUID": uid("study"),
        "StudyID": "1",
        "StudyDate": "20260302",
        "StudyTime": "100000",
        "AccessionNumber": "",
        "ReferringPhysicianName": "",
        "FrameOfReferenceUID": uid("frame"),
        "PositionReferenceIndicator": "",
        "InstanceNumber": index + 1,
        "ImageOrientationPatient": [round(float(one), 8) for one in (*x, *y)],
        "ImagePositionPatient": [round(float(one), 6) for one in position],
        "PixelSpacing": [grid.spacing_xyz[1], grid.spacing_xyz[0]],
        "SliceThickness": grid.spacing_xyz[2],
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": stored.shape[1],
        "Columns": stored.shape[2],
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 1,
        "PixelData": stored[index].astype("<i2").tobytes(),
    }
    made = common | attributes
    made.setdefault("SeriesInstanceUID", uid(f"series {made['SeriesNumber']}"))
    made["SOPInstanceUID"] = uid(f"{made['SeriesInstanceUID']} {index}")
    _change(dataset, made)
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
    return dataset


def _change(dataset: Dataset, changes: dict[str, Any]) -> None:
    for keyword, value in changes.items():
        if value is not None:
            setattr(dataset, keyword, value)
        elif keyword in dataset:
            delattr(dataset, keyword)
