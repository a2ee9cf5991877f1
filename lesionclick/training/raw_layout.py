"""nnU-Net's raw layout, checked before hours of preprocessing, where nnU-Net itself would end with a traceback."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lesionclick.errors import InputError
from lesionclick.training.raw_sets import read_split

_NAME = re.compile(r"Dataset\d{3,}_.+")
_SHOWN = 3
"""Missing files that an error names."""


def require_raw_set(dataset: Path, task: str, channels: Sequence[str]) -> None:
    """Refuse a data set folder that is not in nnU-Net's raw layout, or is of another task.

    Parameters
    ----------
    dataset
        Folder ``Dataset<NNN>_<Name>`` with ``dataset.json``, ``imagesTr``, ``labelsTr`` and, if wanted,
        ``splits_final.json``.
    task
        For the message.
    channels
        Names of the images that the task's model sees, in their order. Other names in ``dataset.json`` are taken as
        they are, but not one of these in another place.

    Raises
    ------
    InputError
        If the folder's name or a file is another than expected, an image or label of a case is missing, or a split
        names a case that is not there.
    """
    path = dataset / "dataset.json"
    if not _NAME.fullmatch(dataset.name) or not path.is_file():
        raise InputError(f"{dataset}: expected a folder Dataset<NNN>_<Name> with dataset.json, imagesTr and labelsTr")
    description = _read_description(path)
    found = tuple(map(str, description["channel_names"].values()))
    upper = [name.upper() for name in found]
    moved = any(name in upper and upper.index(name) != place for place, name in enumerate(channels))
    if len(found) != len(channels) or moved:
        expected = f"the channels {', '.join(channels)} for {task}"
        raise InputError(f"{path}: expected {expected}, found {', '.join(found) or 'none'}")
    if "dataset" in description:  # the places of all files, which may lie anywhere
        return
    cases = _require_files(dataset, str(description.get("file_ending", ".nii.gz")), len(channels))
    for fold in read_split(dataset / "splits_final.json") or ():
        if strangers := {*fold["train"], *fold["val"]} - cases:
            where = dataset / "splits_final.json"
            raise InputError(f"{where}: expected names of cases in imagesTr, found {min(strangers)!r}")


def _read_description(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: expected a JSON file, found {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("channel_names"), Mapping):
        raise InputError(f"{path}: expected an object with channel_names, such as {{'0': 'CT'}}, found others")
    return content


def _require_files(dataset: Path, ending: str, n_channels: int) -> set[str]:
    """Return the names of the cases, and refuse those that lack an image or the label."""
    images, labels = dataset / "imagesTr", dataset / "labelsTr"
    there = {path for folder in (images, labels) for path in folder.glob(f"*{ending}")}
    cases = {path.name.removesuffix(ending)[: -len("_0000")] for path in there if path.parent == images}
    cases |= {path.name.removesuffix(ending) for path in there if path.parent == labels}
    if not cases:
        raise InputError(f"{images}: expected images <case>_0000{ending}, found none")
    expected = [images / f"{case}_{channel:04}{ending}" for case in sorted(cases) for channel in range(n_channels)]
    expected += [labels / f"{case}{ending}" for case in sorted(cases)]
    if missing := [str(path) for path in expected if path not in there]:
        shown = ", ".join(missing[:_SHOWN])
        raise InputError(f"{dataset}: expected all images and a label of each case, {len(missing)} missing: {shown}")
    return cases
