"""SUV from headers: each expected value follows from 70 kg, 280 MBq, and half of it left an hour later."""

import logging
from typing import Any

import numpy as np
import pytest
from helpers.dicom_series import SUV_PER_BQML, pet_slices, tracer
from pydicom import Dataset

from lesionclick.dicom.suv import suv_factor
from lesionclick.errors import InputError

STORED = np.arange(4 * 5 * 6, dtype=np.int16).reshape(4, 5, 6)
UNCORRECTED = SUV_PER_BQML / 2
"""SUV per Bq/ml where the whole dose counts."""


def slices(**changes: Any) -> list[Dataset]:
    return pet_slices(STORED, **changes)


def add_private(made: list[Dataset], group: int, creator: str, **elements: tuple[int, str, Any]) -> list[Dataset]:
    for dataset in made:
        block = dataset.private_block(group, creator, create=True)
        for element, representation, value in elements.values():
            block.add_new(element, representation, value)
    return made


def test_activity_at_the_start_of_the_scan_is_compared_with_the_dose_left_then():
    assert suv_factor(slices()) == pytest.approx(SUV_PER_BQML)


def test_activity_at_the_injection_is_not_corrected_again():
    assert suv_factor(slices(DecayCorrection="ADMIN")) == pytest.approx(UNCORRECTED)


def test_suv_is_taken_as_it_is():
    assert suv_factor(slices(Units="GML", SUVType="BW", PatientWeight=None)) == 1.0
    assert suv_factor(slices(Units="GML")) == 1.0


PHILIPS = "Philips PET Private Group"


def philips(**elements: tuple[int, str, Any]) -> list[Dataset]:
    return add_private(slices(Units="CNTS", Manufacturer="Philips Medical Systems"), 0x7053, PHILIPS, **elements)


@pytest.mark.parametrize(
    ("elements", "factor"),
    [
        ({"suv": (0x00, "DS", "0.25")}, 0.25),
        ({"activity": (0x09, "DS", "3")}, 3 * SUV_PER_BQML),
        ({"suv": (0x00, "DS", "0.25"), "activity": (0x09, "DS", "3")}, 3 * SUV_PER_BQML),
        ({"suv": (0x00, "DS", "0.25"), "activity": (0x09, "DS", "0")}, 0.25),
    ],
)
def test_counts_of_philips_have_private_factors(elements, factor):
    assert suv_factor(philips(**elements)) == pytest.approx(factor)


@pytest.mark.parametrize("elements", [{}, {"suv": (0x00, "DS", "0")}, {"other": (0x03, "DS", "1")}])
def test_counts_without_a_factor_are_refused(elements):
    with pytest.raises(InputError, match=r"\(7053,1009\) or SUV Scale Factor \(7053,1000\).*CNTS, found neither"):
        suv_factor(philips(**elements))


def test_midnight_between_injection_and_scan():
    night = slices(SeriesDate="20260303", SeriesTime="003000", AcquisitionDate="20260303", AcquisitionTime="003000")
    tracer(night, RadiopharmaceuticalStartTime="233000")
    assert suv_factor(night) == pytest.approx(SUV_PER_BQML)
    tracer(night, RadiopharmaceuticalStartDateTime="20260302233000.00")
    assert suv_factor(night) == pytest.approx(SUV_PER_BQML)


def test_midnight_between_two_beds():
    night = slices(SeriesDate="20260302", SeriesTime="235900", AcquisitionDate="20260302", AcquisitionTime="235900")
    for dataset in night[2:]:
        dataset.AcquisitionDate, dataset.AcquisitionTime = "20260303", "000400"
        dataset.FrameReferenceTime = 59884.5 + 300e3
    tracer(night, RadiopharmaceuticalStartTime="225900")
    assert suv_factor(night) == pytest.approx(SUV_PER_BQML, rel=1e-5)


def test_a_date_that_does_not_fit_the_scan_is_not_used_and_told(caplog):
    shifted = slices()
    tracer(shifted, RadiopharmaceuticalStartDateTime="19990101091500")
    with caplog.at_level(logging.WARNING):
        assert suv_factor(shifted) == pytest.approx(SUV_PER_BQML)
    (record,) = caplog.records
    assert "Radiopharmaceutical Start DateTime (0018,1078) is 1999-01-01 09:15:00" in record.getMessage()


def test_an_injection_in_another_zone_of_time():
    made = slices(TimezoneOffsetFromUTC="+0100")
    tracer(made, RadiopharmaceuticalStartDateTime="20260302081500.00+0000")
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)
    tracer(made, RadiopharmaceuticalStartDateTime="20260302091500.00+0100")
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)


def test_a_moment_with_an_offset_tells_nothing_where_the_scanners_own_is_unknown():
    """08:15 UTC is 09:15 on the scanner's clock, which alone the other attributes tell."""
    made = slices()
    tracer(made, RadiopharmaceuticalStartDateTime="20260302081500.00+0000")
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)
    tracer(made, RadiopharmaceuticalStartTime=None)
    with pytest.raises(InputError, match=r"Radiopharmaceutical Start Time \(0018,1072\), found none"):
        suv_factor(made)


def test_a_private_start_with_an_offset_is_passed_over():
    made = slices()
    for dataset in made:
        block = dataset.private_block(0x0071, "SIEMENS MED PT", create=True)
        block.add_new(0x22, "DT", "20260302091500.000000+0000")
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)


def test_two_times_of_the_injection_that_contradict_each_other_are_refused():
    made = slices()
    tracer(made, RadiopharmaceuticalStartDateTime="20260302084500")
    expected = r"one time in .*\(0018,1078\) and .*\(0018,1072\), found 2026-03-02 08:45:00 and 09:15:00"
    with pytest.raises(InputError, match=expected):
        suv_factor(made)
    tracer(made, RadiopharmaceuticalStartDateTime="20260302091530")  # as scanners round
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML, rel=0.01)


def test_a_late_scan_counts_where_date_and_time_agree():
    """Three half-lives after the injection: an eighth of the dose is left, a half of what `SUV_PER_BQML` has."""
    made = slices()
    tracer(made, RadiopharmaceuticalStartTime="071500")
    with pytest.raises(InputError, match="within two half-lives"):
        suv_factor(made)
    tracer(made, RadiopharmaceuticalStartDateTime="20260302071500")
    assert suv_factor(made) == pytest.approx(4 * SUV_PER_BQML)


def test_the_dates_of_a_long_lived_tracer_must_fit():
    zirconium = slices(SeriesDate="20260304", AcquisitionDate="20260304")
    half_life_s = 48 * 3600.0
    told = {"RadiopharmaceuticalStartDateTime": "20260302101500", "RadiopharmaceuticalStartTime": "101500"}
    tracer(zirconium, RadionuclideHalfLife=half_life_s, **told)
    assert suv_factor(zirconium) == pytest.approx(SUV_PER_BQML)
    tracer(zirconium, RadiopharmaceuticalStartDateTime="20260226101500")  # three half-lives before, at the same time
    with pytest.raises(InputError, match="within two half-lives"):
        suv_factor(zirconium)
    tracer(zirconium, RadiopharmaceuticalStartDateTime=None)
    with pytest.raises(InputError, match=r"Radiopharmaceutical Start DateTime \(0018,1078\).*found none"):
        suv_factor(zirconium)


def test_no_other_date_stands_in_for_that_of_a_long_lived_tracers_scan():
    """A day more fits a long half-life too: the series was made on the day after the scan."""
    zirconium = slices(SeriesDate="20260305", SeriesTime="080000", AcquisitionDate="20260304")
    for dataset in zirconium:
        dataset.FrameReferenceTime = 60000.0
    tracer(zirconium, RadionuclideHalfLife=48 * 3600.0, RadiopharmaceuticalStartDateTime="20260302101500")
    tracer(zirconium, RadiopharmaceuticalStartTime="101500")
    assert suv_factor(zirconium) == pytest.approx(SUV_PER_BQML, rel=1e-4)
    for dataset in zirconium:
        dataset.AcquisitionDate = ""
    with pytest.raises(InputError, match=r"Acquisition Date \(0008,0022\), found none"):
        suv_factor(zirconium)


def beds(**changes: Any) -> list[Dataset]:
    """Return slices of two beds, ten minutes apart, whose series time is that of a later processing."""
    made = slices(SeriesTime="140000", **changes)
    for dataset in made[2:]:
        dataset.AcquisitionTime = "102500"
        dataset.FrameReferenceTime = 59884.5 + 600e3
    return made


def test_the_scan_starts_with_the_first_bed_whenever_the_series_was_made():
    assert suv_factor(beds()) == pytest.approx(SUV_PER_BQML, rel=1e-5)


def test_siemens_tells_the_start_of_the_scan_in_private():
    made = add_private(beds(), 0x0071, "SIEMENS MED PT", start=(0x22, "DT", "20260302111500.000000"))
    assert suv_factor(made) == pytest.approx(2 * SUV_PER_BQML)


def test_ge_tells_the_start_of_the_scan_in_private():
    ge = {"Manufacturer": "GE MEDICAL SYSTEMS", "SeriesTime": "140000"}
    made = add_private(slices(**ge), 0x0009, "GEMS_PETD_01", start=(0x0D, "DT", "20260302101500.00"))
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)
    for dataset in made:
        dataset.AcquisitionTime = "111500"  # which the private time overrules
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)


def test_without_it_ge_counts_the_frame_reference_time_from_the_start_of_the_scan():
    made = slices(
        Manufacturer="GE MEDICAL SYSTEMS", SeriesTime="140000", AcquisitionTime="103000", FrameReferenceTime=900e3
    )
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)


def test_a_private_time_of_another_maker_is_none():
    made = add_private(slices(), 0x0009, "GEMS_PETD_01", start=(0x0D, "DT", "20260302111500.00"))
    assert suv_factor(made) == pytest.approx(SUV_PER_BQML)


def test_slices_that_tell_different_starts_are_refused():
    made = beds()
    made[3].FrameReferenceTime = 59884.5
    with pytest.raises(InputError, match=r"to one moment.*Frame Reference Time \(0054,1300\)"):
        suv_factor(made)


WRONG_HEADERS = [
    ({"PatientWeight": None}, r"Patient's Weight \(0010,1030\), found none"),
    ({"PatientWeight": ""}, r"Patient's Weight \(0010,1030\), found none"),
    ({"PatientWeight": 0}, r"Patient's Weight \(0010,1030\) to be a number above 0, up to 500, found '0.0'"),
    ({"PatientWeight": 70000}, r"Patient's Weight \(0010,1030\).*found '70000.0'"),
    ({"Units": None}, r"Units \(0054,1001\) BQML, CNTS or GML, found none"),
    ({"Units": "PROPCNTS"}, r"Units \(0054,1001\) BQML, CNTS or GML, found PROPCNTS"),
    ({"Units": "GML", "SUVType": "LBM"}, r"SUV Type \(0054,1006\) BW or none, found LBM"),
    ({"DecayCorrection": "NONE"}, r"Decay Correction \(0054,1102\) START or ADMIN, found NONE"),
    ({"DecayCorrection": None}, r"Decay Correction \(0054,1102\), found none"),
    ({"CorrectedImage": ["DECY", "SCAT"]}, r"Corrected Image \(0028,0051\) with ATTN and DECY, found DECY, SCAT"),
    ({"AcquisitionTime": None}, r"Acquisition Time \(0008,0032\), found none"),
    ({"SeriesTime": "abc"}, r"date or time in Series Time \(0008,0031\), found 'abc'"),
    ({"SeriesTime": "140000", "FrameReferenceTime": None}, r"Frame Reference Time \(0054,1300\), found none"),
    ({"RadiopharmaceuticalInformationSequence": None}, r"Radiopharmaceutical Information Sequence \(0054,0016\)"),
]


@pytest.mark.filterwarnings("ignore:.*Invalid value for VR TM:UserWarning")
@pytest.mark.parametrize(("changes", "message"), WRONG_HEADERS)
def test_what_does_not_tell_suv_safely_is_refused_with_the_name_of_the_tag(changes, message):
    with pytest.raises(InputError, match=message):
        suv_factor(slices(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"RadionuclideTotalDose": None}, r"Radionuclide Total Dose \(0018,1074\), found none"),
        ({"RadionuclideTotalDose": 0}, r"Radionuclide Total Dose \(0018,1074\) to be a number above 1e\+06, found"),
        ({"RadionuclideTotalDose": 280}, r"Radionuclide Total Dose \(0018,1074\).*found '280.0'"),
        ({"RadionuclideTotalDose": 280e3}, r"Radionuclide Total Dose \(0018,1074\).*found '280000.0'"),
        ({"RadionuclideHalfLife": 0}, r"Radionuclide Half Life \(0018,1075\) to be a number above 0, found"),
        ({"RadiopharmaceuticalStartTime": None}, r"Radiopharmaceutical Start Time \(0018,1072\), found none"),
        (
            {"RadiopharmaceuticalStartTime": "110000"},
            r"Start Time \(0018,1072\) within two half-lives before.*11:00:00",
        ),
    ],
)
def test_a_tracer_that_is_not_told_is_refused_with_the_name_of_the_tag(changes, message):
    made = slices()
    tracer(made, **changes)
    with pytest.raises(InputError, match=message):
        suv_factor(made)


@pytest.mark.parametrize(("keyword", "value"), [("Units", "CNTS"), ("PatientWeight", 71), ("DecayCorrection", "ADMIN")])
def test_slices_that_disagree_are_refused(keyword, value):
    made = slices()
    setattr(made[2], keyword, value)
    with pytest.raises(InputError, match="in all slices of a series"):
        suv_factor(made)
