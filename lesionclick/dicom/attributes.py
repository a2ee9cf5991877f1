"""The attributes of a DICOM file; what is missing or wrong is refused with the attribute's name and tag."""

from __future__ import annotations

import math
import re
import reprlib
from collections.abc import Sequence
from typing import Any

from pydicom import Dataset
from pydicom.datadict import dictionary_description, tag_for_keyword
from pydicom.tag import Tag

from lesionclick.errors import InputError


def attribute(keyword: str) -> str:
    """Return the name and tag of an attribute, such as ``Patient's Weight (0010,1030)``."""
    tag = Tag(tag_for_keyword(keyword) or keyword)
    return f"{dictionary_description(tag)} ({tag.group:04X},{tag.element:04X})"


def source(dataset: Dataset) -> str:
    """Return what to call a data set in messages: its file."""
    return str(getattr(dataset, "filename", None) or dataset.get("SOPInstanceUID", "DICOM data"))


def text(dataset: Dataset, keyword: str) -> str:
    """Return an attribute as text, several values joined by a backslash, empty where it is missing.

    Raises
    ------
    InputError
        If it cannot be read.
    """
    try:
        value = dataset.get(keyword)
    except Exception as error:  # pydicom lets through whatever a broken value provokes
        raise InputError(f"{source(dataset)}: expected a readable {attribute(keyword)}, found {error}") from error
    if value is None:
        return ""
    return "\\".join(map(str, value)) if isinstance(value, Sequence) and not isinstance(value, str) else str(value)


def required(dataset: Dataset, keyword: str) -> Any:
    """Return an attribute's value.

    Raises
    ------
    InputError
        If it is missing or empty.
    """
    if text(dataset, keyword).strip() == "":
        raise InputError(f"{source(dataset)}: expected {attribute(keyword)}, found none")
    return dataset[keyword].value


def number(dataset: Dataset, keyword: str, *, above: float = -math.inf, upto: float = math.inf) -> float:
    """Return an attribute's value as a finite number.

    Parameters
    ----------
    dataset, keyword
        Where it stands.
    above, upto
        The number must be larger than the one, and no larger than the other.

    Raises
    ------
    InputError
        If it is missing, empty, no number, or out of bounds.
    """
    value = required(dataset, keyword)
    try:
        found = float(value)
    except (TypeError, ValueError):
        found = math.nan
    if not (math.isfinite(found) and above < found <= upto):
        bounds = "" if math.isinf(above) else f" above {above:g}" + ("" if math.isinf(upto) else f", up to {upto:g}")
        raise InputError(
            f"{source(dataset)}: expected {attribute(keyword)} to be a number{bounds}, found {reprlib.repr(str(value))}"
        )
    return found


def vector(dataset: Dataset, keyword: str, length: int) -> list[float]:
    """Return an attribute's values as finite numbers, of which there must be `length`.

    Raises
    ------
    InputError
        If they are anything else.
    """
    value = required(dataset, keyword)
    try:
        found = [float(one) for one in value]
    except (TypeError, ValueError):
        found = []
    if len(found) != length or not all(map(math.isfinite, found)):
        raise InputError(
            f"{source(dataset)}: expected {attribute(keyword)} to be {length} numbers, found {reprlib.repr(str(value))}"
        )
    return found


def private(dataset: Dataset, group: int, creator: str, element: int) -> str:
    """Return a private attribute as text, empty where it is missing.

    Parameters
    ----------
    dataset
        Where it may stand.
    group
        Number of its group, such as 0x7053.
    creator
        Pattern of the private creator, which must match from its beginning to its end.
    element
        Number of its element in the creator's block, such as 0x09 for (7053,1009).
    """
    for block in range(0x10, 0x100):
        name = dataset.get((group, block))
        tag = (group, block << 8 | element)
        if name is not None and re.fullmatch(creator, str(name.value).strip()) and tag in dataset:
            value = dataset[tag].value
            return (value.decode("ascii", "replace") if isinstance(value, bytes) else str(value)).strip(" \0")
    return ""


def radiopharmaceutical(dataset: Dataset) -> Dataset:
    """Return the one item of the Radiopharmaceutical Information Sequence; messages call it by its file.

    Raises
    ------
    InputError
        If there is none, or several tracers.
    """
    items = required(dataset, "RadiopharmaceuticalInformationSequence")
    if len(items) != 1:
        name = attribute("RadiopharmaceuticalInformationSequence")
        raise InputError(f"{source(dataset)}: expected one tracer in {name}, found {len(items)}")
    item = Dataset(items[0])
    item.filename = source(dataset)
    return item


def same_in_all(datasets: Sequence[Dataset], *keywords: str) -> None:
    """Refuse data sets that do not agree in some attributes.

    Raises
    ------
    InputError
        Naming the first attribute, its values, and a file for each.
    """
    for keyword in keywords:
        first = datasets[0]
        for other in datasets[1:]:
            if text(first, keyword) != text(other, keyword):
                raise InputError(
                    f"{source(first)} and {source(other)}: expected one {attribute(keyword)} in all slices of a "
                    f"series, found {text(first, keyword)!r} and {text(other, keyword)!r}"
                )
