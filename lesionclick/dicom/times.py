"""When a PET's tracer was injected, and to which moment its voxels are corrected for decay.

The rules are those of the Image Biomarker Standardisation Initiative's manual for SUV computation (Vácha, Hofheinz,
Braune, Löck, Zwanenburg, 2026, https://oncoray.github.io/suv_computation/suv.html), as z-rad 26.9 and MIRP 2.7 apply
them; QIBA's older pseudocode (FDG-PET/CT profile 1.13, appendix G) gives the same moments wherever the header is
consistent. `docs/dicom.md` lists them.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from datetime import date, datetime, time, timedelta
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DA, DT, TM

from lesionclick.dicom.attributes import attribute, number, private, radiopharmaceutical, required, source, text
from lesionclick.errors import InputError

logger = logging.getLogger(__name__)

LONG_LIVED_S = 41400.0
"""Half-life in s from which an uptake may last for days, so that dates must be right; between 18F and 64Cu."""

MAX_UPTAKE_HALF_LIVES = 2.0
"""Half-lives between injection and scan above which a date is taken for wrong: three quarters of the dose are gone."""

MAX_SURE_HALF_LIVES = 4.0
"""The same where date and clock time are told apart and agree, as late scans with 68Ga have it."""

MAX_SPREAD_S = 60.0
"""Allowed difference in s between the slices' moments of decay correction: 0.6 % of SUV for 18F."""

_GE = r"^GE\b"
_PRIVATE_STARTS = (
    (_GE, (0x0009, "GEMS_PETD_01", 0x0D)),
    (r"\b(SIEMENS|CPS|CTI)\b", (0x0071, "SIEMENS MED.*", 0x22)),
)
"""Where makers tell the start of the scan: pattern of their name; group, private creator, element."""

_MILLISECOND = 1e-3


def scan_start(slices: Sequence[Dataset], half_life_s: float) -> datetime:
    """Return the moment to which a series with Decay Correction START is corrected, the start of its scan.

    Parameters
    ----------
    slices
        All slices of the series.
    half_life_s
        Of the radionuclide, in s.

    Raises
    ------
    InputError
        If an attribute is missing or broken, or the slices give moments that are more than `MAX_SPREAD_S` apart.
    """
    moments = [_scan_start(dataset, half_life_s) for dataset in slices]
    first, last = min(moments), max(moments)
    if (last - first).total_seconds() > MAX_SPREAD_S:
        early, late = (slices[moments.index(moment)] for moment in (first, last))
        raise InputError(
            f"{source(early)} and {source(late)}: expected all slices to be decay-corrected to one moment, found "
            f"{first} and {last} from {attribute('AcquisitionTime')} and {attribute('FrameReferenceTime')}"
        )
    return first


def injection(dataset: Dataset, reference: datetime, half_life_s: float) -> datetime:
    """Return the moment of injection.

    Where its date does not fit the scan's, as de-identification leaves it, or there is none, the clock time counts,
    on the scan's day or the day before: a warning tells which date was not used.

    Parameters
    ----------
    dataset
        A slice.
    reference
        What `scan_start` gives.
    half_life_s
        Of the radionuclide, in s.

    Raises
    ------
    InputError
        If there is neither date nor time; the two contradict each other; the radionuclide is long-lived and the date is
        missing or does not fit; or the scan begins before the injection, or more than two half-lives after it, four
        where date and time agree.
    """
    where, tracer = source(dataset), radiopharmaceutical(dataset)
    dated = text(tracer, "RadiopharmaceuticalStartDateTime")
    name = attribute("RadiopharmaceuticalStartDateTime")
    moment = _moment(dated, dataset, name) if len(dated) >= len("YYYYMMDDHHMM") else None
    timed = bool(text(tracer, "RadiopharmaceuticalStartTime"))
    sure = MAX_SURE_HALF_LIVES if half_life_s < LONG_LIVED_S else MAX_UPTAKE_HALF_LIVES  # a clock confirms no date
    if moment is not None and _fits(moment, reference, sure * half_life_s):
        if timed and _apart_s(moment.time(), clock := _time(tracer, "RadiopharmaceuticalStartTime")) > MAX_SPREAD_S:
            other = attribute("RadiopharmaceuticalStartTime")
            raise InputError(f"{where}: expected one time in {name} and {other}, found {moment} and {clock}")
        if timed or _fits(moment, reference, MAX_UPTAKE_HALF_LIVES * half_life_s):
            return moment
    if half_life_s >= LONG_LIVED_S:
        raise InputError(
            f"{where}: expected {name} within two half-lives before the scan of {reference}, because the half-life is "
            f"{half_life_s:g} s, found {dated or 'none'}"
        )
    if moment is not None:
        message = "%s: %s is %s, which does not fit the scan of %s; its date is not used"
        logger.warning(message, where, name, moment, reference)
    clock = _time(tracer, "RadiopharmaceuticalStartTime") if timed or moment is None else moment.time()
    moment = datetime.combine(reference.date(), clock)
    if moment > reference:
        moment -= timedelta(days=1)
    if not _fits(moment, reference, MAX_UPTAKE_HALF_LIVES * half_life_s):
        raise InputError(
            f"{where}: expected {attribute('RadiopharmaceuticalStartTime')} within two half-lives before the scan of "
            f"{reference} with a half-life of {half_life_s:g} s, found {clock}"
        )
    return moment


def _fits(moment: datetime, reference: datetime, most_s: float) -> bool:
    return 0 <= (reference - moment).total_seconds() <= most_s


def _apart_s(one: time, other: time) -> float:
    """Return how far two clock times are apart in s, over midnight where that is nearer."""
    day = timedelta(days=1)
    first, second = (datetime.combine(date.min + day, clock) for clock in (one, other))
    return min(abs((first - second + turn).total_seconds()) for turn in (-day, timedelta(), day))


def _scan_start(dataset: Dataset, half_life_s: float) -> datetime:
    maker = text(dataset, "Manufacturer").upper()
    for makers, (group, creator, element) in _PRIVATE_STARTS:
        if re.search(makers, maker) and (value := private(dataset, group, creator, element)):
            moment = _moment(value, dataset, f"({group:04X},10{element:02X})")
            if moment is not None:
                return moment
    acquired = datetime.combine(_date(dataset, "AcquisitionDate", half_life_s), _time(dataset, "AcquisitionTime"))
    series = datetime.combine(_date(dataset, "SeriesDate", half_life_s), _time(dataset, "SeriesTime"))
    if acquired == series:
        return acquired
    moved = number(dataset, "FrameReferenceTime", above=-_MILLISECOND) * _MILLISECOND
    if re.search(_GE, maker):
        return acquired - timedelta(seconds=moved)
    return acquired + timedelta(seconds=_mean_activity_s(dataset, half_life_s) - moved)


def _mean_activity_s(dataset: Dataset, half_life_s: float) -> float:
    """Return the s from the start of a frame to the moment at which the activity is the frame's mean.

    DICOM PS3.3 C.8.9.4.1.5, example 2.
    """
    decay = math.log(2) / half_life_s * number(dataset, "ActualFrameDuration", above=0) * _MILLISECOND
    return half_life_s / math.log(2) * math.log(decay / -math.expm1(-decay))


def _date(dataset: Dataset, keyword: str, half_life_s: float) -> date:
    """Return a date, where it is missing another of the study, because the injection's decides whether it fits.

    With a long-lived radionuclide it does not, since a day more fits too: there, none stands in for another.
    """
    if half_life_s < LONG_LIVED_S:
        keyword = next(
            (one for one in (keyword, "SeriesDate", "AcquisitionDate", "StudyDate") if text(dataset, one)), keyword
        )
    found: date = _parse(DA, required(dataset, keyword), dataset, attribute(keyword))
    return date(found.year, found.month, found.day)


def _time(dataset: Dataset, keyword: str) -> time:
    found: time = _parse(TM, required(dataset, keyword), dataset, attribute(keyword))
    return time(found.hour, found.minute, found.second, found.microsecond)


def _moment(value: str, dataset: Dataset, name: str) -> datetime | None:
    """Return date and time on the scanner's clock, which other attributes show without an offset from UTC.

    A moment with an offset tells nothing of that clock where the header does not tell the clock's own; that is None.
    """
    found: datetime = _parse(DT, value, dataset, name)
    if found.tzinfo is not None:
        if not (offset := text(dataset, "TimezoneOffsetFromUTC")):
            return None
        zone = _parse(DT, f"2000010100{offset}", dataset, attribute("TimezoneOffsetFromUTC")).tzinfo
        found = found.astimezone(zone)
    return datetime.combine(found.date(), found.time())


def _parse(kind: Any, value: object, dataset: Dataset, name: str) -> Any:
    try:
        return kind(str(value))
    except ValueError as error:
        raise InputError(f"{source(dataset)}: expected a date or time in {name}, found {value!r}") from error
