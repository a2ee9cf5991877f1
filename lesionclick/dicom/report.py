"""The table of lesions as a DICOM structured report by template TID 1500, which points at the segments."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import highdicom
from highdicom import sr
from pydicom import Dataset, dcmread
from pydicom.errors import InvalidDicomError
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code
from pydicom.uid import SegmentationStorage

from lesionclick import __version__
from lesionclick.dicom.objects import (
    MAKER,
    SERIES_NUMBER,
    save,
    with_patient,
    without_checks_of_the_source,
    without_patient,
)
from lesionclick.dicom.series import Series
from lesionclick.errors import InputError
from lesionclick.petct.quantification import Lesion

SUVBW = Code("126401", "DCM", "SUVbw")
"""Standardized uptake value by body weight, from DICOM PS3.16, context group 7466."""

GRAM = Code("g", "UCUM", "gram")


def write_report(path: Path, lesions: Sequence[Lesion], segmentation: Path, series: Series) -> Path:
    """Write the measurements of lesions as a Comprehensive 3D SR; the file appears whole or not at all.

    Parameters
    ----------
    path
        File to write; an existing one is replaced.
    lesions
        One for each segment.
    segmentation
        File that `write_segmentation` wrote.
    series
        The PET that was measured.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    InputError
        If there is no such segmentation, it lacks a lesion, or the file cannot be written.
    """
    segments = _read_segmentation(segmentation)
    by_label = {segment.SegmentLabel: segment for segment in segments.SegmentSequence}
    missing = [lesion.number for lesion in lesions if f"Lesion {lesion.number}" not in by_label]
    if missing or not lesions:
        raise InputError(f"{segmentation}: expected a segment for each lesion, found none for {missing or 'any'}")
    content = sr.MeasurementReport(
        observation_context=sr.ObservationContext(
            observer_device_context=sr.ObserverContext(
                observer_type=codes.DCM.Device,
                observer_identifying_attributes=sr.DeviceObserverIdentifyingAttributes(
                    uid=highdicom.UID(), name=MAKER, manufacturer_name=MAKER, model_name=MAKER
                ),
            )
        ),
        procedure_reported=codes.LN.PETUnspecifiedBodyRegion,
        title=codes.DCM.ImagingMeasurementReport,
        imaging_measurements=[
            _measure(lesion, by_label[f"Lesion {lesion.number}"], segments, series) for lesion in lesions
        ],
    )
    with without_checks_of_the_source():
        report = sr.Comprehensive3DSR(
            evidence=[without_patient(segments), *series.slices],
            content=content[0],
            series_instance_uid=highdicom.UID(),
            series_number=SERIES_NUMBER + 1,
            sop_instance_uid=highdicom.UID(),
            instance_number=1,
            manufacturer=MAKER,
            series_description="Lesion measurements",
            is_complete=True,
        )
        return save(with_patient(report, series.slices[0]), path)


def _measure(
    lesion: Lesion, segment: Dataset, segmentation: Dataset, series: Series
) -> sr.VolumetricROIMeasurementsAndQualitativeEvaluations:
    suv = codes.UCUM.StandardizedUptakeValueBodyWeight
    of_suv = (
        (codes.SCT.Maximum, lesion.suv_max),
        (codes.SCT.Mean, lesion.suv_mean),
        (codes.DCM.PeakValueWithinROI, lesion.suv_peak),
    )
    return sr.VolumetricROIMeasurementsAndQualitativeEvaluations(
        tracking_identifier=sr.TrackingIdentifier(uid=segment.TrackingUID, identifier=segment.TrackingID),
        referenced_segment=sr.ReferencedSegment(
            sop_class_uid=segmentation.SOPClassUID,
            sop_instance_uid=segmentation.SOPInstanceUID,
            segment_number=segment.SegmentNumber,
            source_series=sr.SourceSeriesForSegmentation(series.uid),
        ),
        finding_type=codes.SCT.Lesion,
        algorithm_id=sr.AlgorithmIdentification(name=MAKER, version=__version__),
        measurements=[
            sr.Measurement(codes.SCT.Volume, lesion.volume_ml, codes.UCUM.CubicCentimeter),
            *(sr.Measurement(SUVBW, value, suv, derivation=kind) for kind, value in of_suv),
            sr.Measurement(codes.DCM.TotalLesionGlycolysis, lesion.glycolysis_g, GRAM),
        ],
    )


def _read_segmentation(path: Path) -> Dataset:
    try:
        found = dcmread(path)
    except (OSError, InvalidDicomError) as error:
        raise InputError(f"{path}: expected a DICOM segmentation, found {error}") from error
    if found.get("SOPClassUID") != SegmentationStorage:
        raise InputError(
            f"{path}: expected a DICOM segmentation, found {getattr(found.get('SOPClassUID'), 'name', 'none')}"
        )
    return found
