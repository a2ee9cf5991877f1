"""A public download becomes a raw nnU-Net data set: linked, not copied, and without the cases that are broken."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lesionclick.errors import InputError
from lesionclick.images import Volume, require_same_grid
from lesionclick.petct.case import MAX_SUV
from lesionclick.training.downloads import ENDING, Layout, Source, listed, recognise

FOLDS = 5
SPLIT_SEED = 20261123
PET_CHANNEL = 1
_UNLINKABLE = (errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP)
"""Why a file system may refuse a hard link to a file that can be read."""

Split = list[dict[str, list[str]]]
_PARTS = ("train", "val")


@dataclass(frozen=True)
class RawSet:
    """A data set that was built.

    Attributes
    ----------
    folder
        ``imagesTr``, ``labelsTr``, ``dataset.json``, ``splits_final.json``, and ``cases.json`` with the origin of each
        case and what was broken.
    layout
        Of the download.
    cases
        Names of its cases.
    broken
        Names of the cases that were left out, and why.
    """

    folder: Path
    layout: str
    cases: tuple[str, ...]
    broken: Mapping[str, str]


def build_raw_set(download: Path, dataset: Path, *, processes: int = 2) -> RawSet:
    """Build a raw nnU-Net data set from a download in one of the layouts of `lesionclick.training.downloads`.

    Images are hard links to the download, or copies where its file system is another; so are labels of 0 and 1, and
    those with other numbers are written anew, all lesions as 1. A case that is broken is left out: a file is missing or
    no 3-D image, CT, PET and label lie on different grids, a label is not of whole numbers from 0, an image is of one
    value, or a PET is not in SUV. The download's own ``splits_final.json`` is kept where it parts no patient, names all
    cases, and leaves none of its parts empty without the broken ones; else patients are dealt out to five folds.

    Parameters
    ----------
    download
        The folder.
    dataset
        New folder ``Dataset<NNN>_<Name>``; it appears when it is complete.
    processes
        How many read images side by side.

    Raises
    ------
    InputError
        If the layout is unknown, `dataset` exists or is called otherwise, the download's ``splits_final.json`` is
        broken, or fewer than two patients are left.
    """
    download = download.resolve()
    layout, sources = recognise(download)
    given = read_split(download / "splits_final.json")
    if not re.fullmatch(r"Dataset\d{3}_.+", dataset.name):
        raise InputError(f"{dataset}: expected a new folder Dataset<NNN>_<Name>, found {dataset.name}")
    if dataset.exists():
        raise InputError(f"{dataset}: expected a new folder, found one that is there")
    part = dataset.with_name(f".{dataset.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    try:
        return _build(part, sources, layout, given, download=download, dataset=dataset, processes=processes)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def _build(
    part: Path,
    sources: Sequence[Source],
    layout: Layout,
    given: Split | None,
    *,
    download: Path,
    dataset: Path,
    processes: int,
) -> RawSet:
    """Build a data set in the folder `part`, and let it take the place of `dataset`."""
    for folder in ("imagesTr", "labelsTr"):
        (part / folder).mkdir(parents=True)
    with ProcessPoolExecutor(processes) as pool:
        reasons = dict(zip((s.name for s in sources), pool.map(partial(_add, part), sources), strict=True))
    broken = {name: reason for name, reason in reasons.items() if reason is not None}
    kept = {source.name: source for source in sources if source.name not in broken}
    patients = {name: source.patient for name, source in kept.items()}
    if len(set(patients.values())) < 2:
        raise InputError(f"{download}: expected cases of two patients or more, found {len(kept)}; broken: {broken}")
    description = {
        "channel_names": dict(zip(map(str, range(len(layout.channels))), layout.channels, strict=True)),
        "labels": {"background": 0, "lesion": 1},
        "numTraining": len(kept),
        "file_ending": ENDING,
    }
    splits = _kept_split(given, patients) or deal_patients(patients)
    origin = {"layout": layout.name, "download": str(download), "cases": listed(kept), "broken": broken}
    for name, content in (("dataset", description), ("splits_final", splits), ("cases", origin)):
        (part / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n")
    part.rename(dataset)
    return RawSet(dataset, layout.name, tuple(kept), broken)


class _Read(NamedTuple):
    label: Volume
    as_it_is: bool


def _add(dataset: Path, source: Source) -> str | None:
    """Add a case to a data set, or say what is broken about it."""
    try:
        label, as_it_is = _check(source)
    except InputError as error:
        return str(error)
    target = dataset / "labelsTr" / f"{source.name}{ENDING}"
    if as_it_is:
        _link(source.label, target)
    else:
        Volume((label.array > 0).astype(np.uint8), label.grid).write(target)
    for channel, path in enumerate(source.images):
        _link(path, dataset / "imagesTr" / f"{source.name}_{channel:04}{ENDING}")
    return None


def _check(source: Source) -> _Read:
    """Read all of a case, and return its label and whether it is of 0 and 1 alone."""
    label = _read(source.label)
    values = np.unique(label.array)
    if values[0] < 0 or (values != np.rint(values)).any():
        raise InputError(f"{source.label}: expected whole numbers from 0, found values such as {values[[0, -1]]}")
    for channel, path in enumerate(source.images):
        image = _read(path)
        require_same_grid(image, label, str(path), str(source.label))
        low, high = image.array.min(), image.array.max()
        if low == high or (channel == PET_CHANNEL and high > MAX_SUV):
            expected = f"a PET in SUV, up to {MAX_SUV:g}" if channel == PET_CHANNEL else "a CT"
            raise InputError(f"{path}: expected {expected}, found values from {low} to {high}")
    return _Read(label, bool(values[-1] <= 1))


def _read(path: Path) -> Volume:
    volume = Volume.read(path)
    if volume.array.ndim != 3:
        raise InputError(f"{path}: expected a 3-D image with one value per voxel, found shape {volume.array.shape}")
    return volume


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source.resolve(), target)
    except OSError as error:
        if error.errno not in _UNLINKABLE:
            raise
        shutil.copyfile(source, target)


def read_split(path: Path) -> Split | None:
    """Return the folds of a ``splits_final.json``, each with the names in ``train`` and ``val``; None without a file.

    Raises
    ------
    InputError
        If the file is anything else.
    """
    if not path.is_file():
        return None
    try:
        return [{kind: [str(name) for name in fold[kind]] for kind in _PARTS} for fold in json.loads(path.read_text())]
    except (OSError, ValueError, KeyError, TypeError) as error:
        expected = "a list of folds, each with the names in train and in val"
        raise InputError(f"{path}: expected {expected}, found {type(error).__name__}: {error}") from error


def _kept_split(given: Split | None, patients: Mapping[str, str]) -> Split | None:
    """Return the split of a download without the cases that are left out, if it may be kept; see `build_raw_set`."""
    if given is None:
        return None
    splits = [{kind: [name for name in fold[kind] if name in patients] for kind in _PARTS} for fold in given]
    for fold in splits:
        train, val = ({patients[name] for name in fold[kind]} for kind in _PARTS)
        if not train or not val or train & val or {*fold["train"], *fold["val"]} != patients.keys():
            return None
    return splits


def deal_patients(patients: Mapping[str, str]) -> Split:
    """Return nnU-Net's splits: the patients dealt out to the folds in an order drawn by a fixed seed.

    Parameters
    ----------
    patients
        Patient of each case.
    """
    order: Sequence[str] = np.random.default_rng(SPLIT_SEED).permutation(sorted(set(patients.values()))).tolist()
    splits = []
    for fold in range(min(FOLDS, len(order))):
        held_out = set(order[fold::FOLDS])
        parts = {
            kind: [name for name in sorted(patients) if (patients[name] in held_out) == kind] for kind in (False, True)
        }
        splits.append({"train": parts[False], "val": parts[True]})
    return splits
