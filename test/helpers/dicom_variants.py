"""One PET told in other ways: headers that scanners and de-identification leave, all of the same SUV.

Each variant changes the slices of a PET in SUV (Units GML) and a known injection in place; none changes pixels.
"""

import math
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from pydicom import Dataset
from pydicom.valuerep import DSfloat

Variant = Callable[[Sequence[Dataset]], None]

UPTAKE = timedelta(minutes=62)
BED = timedelta(minutes=5)
FRAME_MS = 180000


def _tracer(dataset: Dataset) -> Dataset:
    item: Dataset = dataset.RadiopharmaceuticalInformationSequence[0]
    return item


def _scale(slices: Sequence[Dataset], factor: float) -> None:
    for dataset in slices:
        dataset.RescaleSlope = DSfloat(float(dataset.RescaleSlope) * factor, auto_format=True)


def _set(slices: Sequence[Dataset], **attributes: Any) -> None:
    for dataset in slices:
        for keyword, value in attributes.items():
            setattr(dataset, keyword, value)


def _time(slices: Sequence[Dataset], *, injected: datetime, series: datetime, acquired: datetime) -> None:
    for name, moment in (("Series", series), ("Acquisition", acquired)):
        _set(slices, **{f"{name}Date": f"{moment:%Y%m%d}", f"{name}Time": f"{moment:%H%M%S}"})
    for dataset in slices:
        _tracer(dataset).RadiopharmaceuticalStartTime = f"{injected:%H%M%S}"
        _tracer(dataset).RadiopharmaceuticalStartDateTime = f"{injected:%Y%m%d%H%M%S}.00"


def _to_activity(slices: Sequence[Dataset], uptake: timedelta = timedelta()) -> None:
    """Turn SUV into Bq/ml at a time after the injection, at the injection itself where there is none."""
    first = slices[0]
    left = 2 ** (-uptake.total_seconds() / float(_tracer(first).RadionuclideHalfLife))
    _scale(slices, float(_tracer(first).RadionuclideTotalDose) * left / (1000 * float(first.PatientWeight)))
    _set(slices, Units="BQML", DecayCorrection="START" if uptake else "ADMIN")
    for dataset in slices:
        del dataset.SUVType


def _start(slices: Sequence[Dataset], maker: str, injected: datetime = datetime(2005, 6, 1, 12)) -> datetime:
    """Make a PET in Bq/ml at the start of the scan, told by times that agree, and return that start."""
    start = injected + UPTAKE
    _to_activity(slices, UPTAKE)
    _set(slices, Manufacturer=maker, FrameReferenceTime=round(_mean_ms(slices), 3), ActualFrameDuration=FRAME_MS)
    _time(slices, injected=injected, series=start, acquired=start)
    return start


def _mean_ms(slices: Sequence[Dataset]) -> float:
    """Return when in a frame the activity is the frame's mean."""
    decay = math.log(2) / (1000 * float(_tracer(slices[0]).RadionuclideHalfLife))
    frame = decay * FRAME_MS
    return math.log(frame / (1 - math.exp(-frame))) / decay


def _private(slices: Sequence[Dataset], group: int, creator: str, element: tuple[int, str, str]) -> None:
    for dataset in slices:
        dataset.private_block(group, creator, create=True).add_new(*element)


def _beds(slices: Sequence[Dataset]) -> datetime:
    """Make a PET of two beds whose series time is hours later, and return the start of the scan."""
    start = _start(slices, "SIEMENS")
    half = len(slices) // 2
    for bed, delay in ((slices[:half], timedelta()), (slices[half:], BED)):
        acquired = start + delay
        _time(bed, injected=start - UPTAKE, series=start + timedelta(hours=6), acquired=acquired)
        _set(bed, FrameReferenceTime=round(_mean_ms(slices) + 1000 * delay.total_seconds(), 3))
    return start


def as_it_is(_: Sequence[Dataset]) -> None:
    """Change nothing."""


def activity_at_injection(slices: Sequence[Dataset]) -> None:
    """Bq/ml, DecayCorrection ADMIN."""
    _to_activity(slices)


def activity_at_start(slices: Sequence[Dataset]) -> None:
    """Bq/ml, DecayCorrection START, one bed."""
    _start(slices, "SIEMENS")


def two_beds(slices: Sequence[Dataset]) -> None:
    """Siemens with two beds, and a series that was made later."""
    _beds(slices)


def siemens_private(slices: Sequence[Dataset]) -> None:
    """As `two_beds`, with frame times lost but Siemens' own time of the scan."""
    start = _beds(slices)
    _set(slices, FrameReferenceTime=0)
    _private(slices, 0x0071, "SIEMENS MED PT", (0x22, "DT", f"{start:%Y%m%d%H%M%S}.000000"))


def ge_later(slices: Sequence[Dataset]) -> None:
    """GE's second bed alone, and a series that was made later."""
    start = _start(slices, "GE MEDICAL SYSTEMS")
    _time(slices, injected=start - UPTAKE, series=start + timedelta(hours=6), acquired=start + BED)
    _set(slices, FrameReferenceTime=1000 * BED.total_seconds())


def ge_private(slices: Sequence[Dataset]) -> None:
    """As `ge_later`, with the frame time lost but GE's own time of the scan."""
    start = _start(slices, "GE MEDICAL SYSTEMS")
    _time(slices, injected=start - UPTAKE, series=start + timedelta(hours=6), acquired=start + BED)
    _private(slices, 0x0009, "GEMS_PETD_01", (0x0D, "DT", f"{start:%Y%m%d%H%M%S}.00"))


def philips_suv(slices: Sequence[Dataset]) -> None:
    """Counts with Philips' factor to SUV."""
    _start(slices, "Philips Medical Systems")
    _to_counts(slices, (0x00, "DS", "0.000125"))


def philips_activity(slices: Sequence[Dataset]) -> None:
    """Counts with Philips' factor to Bq/ml."""
    _start(slices, "Philips Medical Systems")
    _set(slices, Units="CNTS")
    _scale(slices, 1 / 2.5)
    _private(slices, 0x7053, "Philips PET Private Group", (0x09, "DS", "2.5"))


def _to_counts(slices: Sequence[Dataset], factor: tuple[int, str, str]) -> None:
    first = slices[0]
    left = 2 ** (-UPTAKE.total_seconds() / float(_tracer(first).RadionuclideHalfLife))
    suv = 1000 * float(first.PatientWeight) / (float(_tracer(first).RadionuclideTotalDose) * left)
    _scale(slices, suv / float(factor[2]))
    _set(slices, Units="CNTS")
    _private(slices, 0x7053, "Philips PET Private Group", factor)


def over_midnight(slices: Sequence[Dataset]) -> None:
    """Injected at 23:30, of which only the time is left."""
    _start(slices, "SIEMENS", datetime(2005, 6, 1, 23, 30))
    for dataset in slices:
        del _tracer(dataset).RadiopharmaceuticalStartDateTime


def dates_moved(slices: Sequence[Dataset]) -> None:
    """De-identification moved the dates, but not that of the injection."""
    _start(slices, "SIEMENS")
    for dataset in slices:
        _tracer(dataset).RadiopharmaceuticalStartDateTime = "19990101120000.00"


VARIANTS: tuple[Variant, ...] = (
    as_it_is,
    activity_at_injection,
    activity_at_start,
    two_beds,
    siemens_private,
    ge_later,
    ge_private,
    philips_suv,
    philips_activity,
    over_midnight,
    dates_moved,
)
