"""The factor that turns a PET's rescaled values into SUV by body weight (SUVbw, g/ml).

SUVbw = activity concentration (Bq/ml) x body weight (g) / injected activity (Bq), both activities at one moment. The
cases follow QIBA's pseudocode (FDG-PET/CT profile 1.13, appendix G) and the manual of the Image Biomarker
Standardisation Initiative that `lesionclick.dicom.times` cites.
"""

from __future__ import annotations

from collections.abc import Sequence

from pydicom import Dataset

from lesionclick.dicom.attributes import (
    attribute,
    number,
    private,
    radiopharmaceutical,
    required,
    same_in_all,
    source,
    text,
)
from lesionclick.dicom.times import injection, scan_start
from lesionclick.errors import InputError

MAX_WEIGHT_KG = 500.0
"""Heaviest patient; more means grams."""

MIN_DOSE_BQ = 1e6
"""Doses of at most this are in MBq or kBq: no patient's PET is made with 1 MBq."""

_PHILIPS = (0x7053, "Philips PET Private Group")
_SUV_SCALE, _ACTIVITY_SCALE = 0x00, 0x09


def suv_factor(slices: Sequence[Dataset]) -> float:
    """Return SUVbw per unit of the values of a PET series, after each slice's rescale slope and intercept.

    Parameters
    ----------
    slices
        All slices of the series.

    Raises
    ------
    InputError
        If the units are none of BQML, CNTS with a private factor of Philips, and GML of SUVbw; attenuation or decay
        are not corrected for; the slices disagree; or an attribute that is needed is missing or not plausible.
    """
    same_in_all(slices, "Units", "SUVType", "CorrectedImage", "DecayCorrection", "PatientWeight", "Manufacturer")
    first = slices[0]
    _require_corrected(first)
    match text(first, "Units"):
        case "GML":
            kind = text(first, "SUVType") or "BW"  # PS3.3 C.8.9.1.1.3: BW where it is absent
            if kind != "BW":
                raise InputError(f"{source(first)}: expected {attribute('SUVType')} BW or none, found {kind}")
            return 1.0
        case "BQML":
            return _from_activity(slices)
        case "CNTS":
            activity, suv = (_philips_factor(slices, element) for element in (_ACTIVITY_SCALE, _SUV_SCALE))
            if activity:
                return activity * _from_activity(slices)
            if suv:
                return suv
            raise InputError(
                f"{source(first)}: expected Philips' Activity Concentration Scale Factor (7053,1009) or SUV Scale "
                f"Factor (7053,1000) for {attribute('Units')} CNTS, found neither"
            )
        case units:
            expected = f"{attribute('Units')} BQML, CNTS or GML"
            raise InputError(f"{source(first)}: expected {expected}, found {units or 'none'}")


def _require_corrected(dataset: Dataset) -> None:
    corrected = text(dataset, "CorrectedImage").split("\\")
    if not {"ATTN", "DECY"} <= set(corrected):
        raise InputError(
            f"{source(dataset)}: expected {attribute('CorrectedImage')} with ATTN and DECY, found "
            f"{', '.join(corrected) or 'none'}"
        )
    if (decay := required(dataset, "DecayCorrection")) not in ("START", "ADMIN"):
        raise InputError(f"{source(dataset)}: expected {attribute('DecayCorrection')} START or ADMIN, found {decay}")


def _from_activity(slices: Sequence[Dataset]) -> float:
    """Return SUVbw per Bq/ml."""
    first = slices[0]
    weight_g = 1000 * number(first, "PatientWeight", above=0, upto=MAX_WEIGHT_KG)
    tracers = [radiopharmaceutical(dataset) for dataset in slices]
    same_in_all(
        tracers,
        "RadionuclideTotalDose",
        "RadionuclideHalfLife",
        "RadiopharmaceuticalStartDateTime",
        "RadiopharmaceuticalStartTime",
    )
    dose_bq = number(tracers[0], "RadionuclideTotalDose", above=MIN_DOSE_BQ)
    if first.DecayCorrection == "ADMIN":
        return weight_g / dose_bq
    half_life_s = number(tracers[0], "RadionuclideHalfLife", above=0)
    start = scan_start(slices, half_life_s)
    uptake_s = (start - injection(first, start, half_life_s)).total_seconds()
    return weight_g / (dose_bq * 2 ** (-uptake_s / half_life_s))


def _philips_factor(slices: Sequence[Dataset], element: int) -> float:
    """Return a private factor, 0 where it is missing: Philips writes 0 or nothing where it does not know it."""
    found = {private(dataset, *_PHILIPS, element) for dataset in slices}
    name = f"(7053,10{element:02X})"
    if len(found) > 1:
        raise InputError(
            f"{source(slices[0])}: expected one {name} in all slices of a series, found {sorted(found)[:5]}"
        )
    try:
        factor = float(found.pop() or 0)
    except ValueError as error:
        raise InputError(f"{source(slices[0])}: expected a number in {name}, found {error}") from error
    return max(factor, 0.0)
