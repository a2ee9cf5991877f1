"""A mask as a DICOM segmentation object: one segment for each lesion, on the slices of the PET that it was drawn on."""

from __future__ import annotations

from pathlib import Path

import highdicom
import numpy as np
from highdicom.seg import SegmentAlgorithmTypeValues, Segmentation, SegmentationTypeValues, SegmentDescription
from pydicom.sr.codedict import codes

from lesionclick import __version__
from lesionclick.dicom.objects import MAKER, SERIES_NUMBER, save, sources, with_patient, without_checks_of_the_source
from lesionclick.dicom.series import Series
from lesionclick.errors import InputError
from lesionclick.images import Volume, require_same_grid


def write_segmentation(path: Path, lesions: Volume, series: Series) -> Path:
    """Write lesions as a binary segmentation of a series; the file appears whole or not at all.

    Segment n is the lesion with the n-th smallest number, labelled `Lesion <number>`; its tracking identifier is that
    too. Frames without a lesion are left out, as DICOM allows.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    lesions
        0 outside, and a number for each lesion, on the series' grid, as `lesionclick.petct.quantification` gives them.
    series
        What the lesions were drawn on.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        If there is no lesion, which DICOM cannot express; the grids differ; or the file cannot be written.
    """
    require_same_grid(lesions, series.grid, "lesions", "PET")
    numbers = [int(number) for number in np.unique(lesions.array) if number]
    if not numbers:
        raise InputError(f"{path}: expected a lesion to write, found none, which DICOM cannot express")
    found = np.searchsorted(numbers, lesions.array) + 1
    segments = np.where(lesions.array > 0, found, 0).astype(np.uint16 if len(numbers) > 255 else np.uint8)
    with without_checks_of_the_source():
        segmentation = Segmentation(
            source_images=sources(series),
            pixel_array=segments,
            segmentation_type=SegmentationTypeValues.BINARY,
            segment_descriptions=[_describe(index, number) for index, number in enumerate(numbers, 1)],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            manufacturer_model_name=MAKER,
            software_versions=__version__,
            device_serial_number="-",
            content_label="LESIONS",
            content_description="Lesions of a PET/CT",
            series_description="Lesions",
        )
        return save(with_patient(segmentation, series.slices[0]), path)


def _describe(index: int, number: int) -> SegmentDescription:
    """Describe a segment by codes of DICOM's context groups 7150 and 7159, as viewers show them."""
    return SegmentDescription(
        segment_number=index,
        segment_label=f"Lesion {number}",
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=SegmentAlgorithmTypeValues.SEMIAUTOMATIC,
        algorithm_identification=highdicom.AlgorithmIdentificationSequence(
            name=MAKER, version=__version__, family=codes.DCM.ArtificialIntelligence
        ),
        tracking_uid=highdicom.UID(),
        tracking_id=f"Lesion {number}",
    )
