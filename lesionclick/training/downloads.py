"""The layouts of public downloads: which files belong to which case of which patient. Reads names alone."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lesionclick.errors import InputError

ENDING = ".nii.gz"
_STUDY_FILES = ("CTres", "SUV", "SEG")
_TRACERS = {"PETCT": "fdg", "PSMA": "psma"}
"""By how the folder of a patient begins."""
_SCAN = re.compile(r"(?P<patient>.+)_(?P<visit>BL|FU)_img_(?P<region>\d\d)\.nii\.gz")


@dataclass(frozen=True)
class Source:
    """A case of a download, whose files may be missing.

    Attributes
    ----------
    name
        Of the case in the data set.
    patient
        Cases of one patient are never parted.
    images
        In the order of the channels.
    label
        Its lesions.
    points
        Its click file, where the layout has one.
    """

    name: str
    patient: str
    images: tuple[Path, ...]
    label: Path
    points: Path | None = None


@dataclass(frozen=True)
class Layout:
    """How a download is laid out.

    Attributes
    ----------
    name
        For people.
    channels
        Names of the channels.
    find
        Returns the cases of a folder, none where it is laid out in another way.
    """

    name: str
    channels: tuple[str, ...]
    find: Callable[[Path], list[Source]]


def recognise(download: Path) -> tuple[Layout, list[Source]]:
    """Return the layout of a download and its cases, in the order of their names.

    Raises
    ------
    InputError
        If none of `LAYOUTS` fits, or two cases have one name.
    """
    for layout in LAYOUTS:
        if sources := sorted(layout.find(download), key=lambda source: source.name):
            names = [source.name for source in sources]
            if twice := {name for name in names if names.count(name) > 1}:
                raise InputError(f"{download}: expected another name for each case, found {min(twice)} twice")
            return layout, sources
    raise InputError(
        f"{download}: expected one of these, found none: inputsTr/<id>_BL_img_<nn>{ENDING} and so on (the challenge's "
        f"longitudinal CTs); imagesTr/<case>_0000{ENDING} with _0001 and labelsTr (its PET/CTs); folders "
        f"<patient>/<study> with CTres{ENDING}, SUV{ENDING} and SEG{ENDING} (the public PET/CTs)"
    )


def _find_longitudinal(download: Path) -> list[Source]:
    """Each baseline and each follow-up is a case: training makes its pairs of single CTs."""
    inputs, targets = download / "inputsTr", download / "targetsTr"
    found = []
    for path in inputs.glob(f"*{ENDING}"):
        if match := _SCAN.fullmatch(path.name):
            patient, visit, region = match.group("patient", "visit", "region")
            mask = (inputs if visit == "BL" else targets) / f"{patient}_{visit}_mask_{region}{ENDING}"
            points = inputs / f"{patient}_{visit}_{region}.json"
            found.append(Source(f"{patient}_{visit}_{region}", patient, (path,), mask, points))
    return found


def _find_raw(download: Path) -> list[Source]:
    """Names are ``<tracer>_<patient>_<study>``; further channels, as of clicks, are left where they are."""
    images, labels = download / "imagesTr", download / "labelsTr"
    names = {path.name.removesuffix(ENDING) for path in labels.glob(f"*{ENDING}")}
    for channel in ("_0000", "_0001"):
        names |= {path.name.removesuffix(channel + ENDING) for path in images.glob(f"*{channel}{ENDING}")}
    return [
        Source(
            name,
            patient=name.rsplit("_", 1)[0] if name.count("_") > 1 else name,
            images=tuple(images / f"{name}_{channel:04}{ENDING}" for channel in range(2)),
            label=labels / f"{name}{ENDING}",
        )
        for name in names
    ]


def _find_studies(download: Path) -> list[Source]:
    """Find ``<patient>/<study>`` at any depth; how the patient's folder begins tells the tracer."""
    studies = {path.parent for stem in _STUDY_FILES for path in download.rglob(stem + ENDING)}
    found = []
    for study in studies:
        ct, pet, label = (study / (stem + ENDING) for stem in _STUDY_FILES)
        kind, _, number = study.parent.name.partition("_")
        patient = f"{_TRACERS[kind]}_{number}" if kind in _TRACERS and number else study.parent.name
        name = re.sub(r"[^A-Za-z0-9_.-]+", "-", f"{patient}_{study.name}")
        found.append(Source(name, patient, (ct, pet), label))
    return found


LAYOUTS = (
    Layout("the challenge's longitudinal CTs", ("CT",), _find_longitudinal),
    Layout("the challenge's PET/CTs", ("CT", "PET"), _find_raw),
    Layout("public PET/CTs, a folder for each study", ("CT", "PET"), _find_studies),
)


def listed(sources: Mapping[str, Source]) -> dict[str, dict[str, object]]:
    """Return what a data set keeps of its cases' origin, for JSON."""
    return {
        name: {
            "patient": source.patient,
            "images": [str(path) for path in source.images],
            "label": str(source.label),
            "points": None if source.points is None else str(source.points),
        }
        for name, source in sources.items()
    }
