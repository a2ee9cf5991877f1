"""MetaImage files (``.mha``): what ITK reads from a broken one without a word is refused before ITK sees it."""

from __future__ import annotations

import math
import re
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import BinaryIO

from lesionclick.errors import InputError

MAX_HEADER_BYTES = 2**20
"""Longest header, which is some hundred bytes, or some thousand with all that a DICOM header says."""

_GEOMETRY = {
    **dict.fromkeys(("Offset", "Position", "Origin", "ElementSpacing"), 3),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 9),
}
"""Fields that tell where a 3-D image lies, by all of their names, and how many numbers each has."""


def read_fields(path: Path) -> dict[str, str]:
    """Return the fields of a header by their names, and refuse one that ITK would not survive.

    ITK crashes at a number of dimensions that is negative or large. Each line has to be a field, so that ITK sees the
    same fields: it skips line breaks where a sign or a value is missing.

    Raises
    ------
    InputError
        If the file cannot be read, or its header is no list of fields, or longer than `MAX_HEADER_BYTES`.
    """
    try:
        with path.open("rb") as file:
            return _read_fields(file, path)
    except OSError as error:
        raise InputError(f"{path}: expected a readable file, found {error}") from error


def require_numbers(fields: Mapping[str, str], path: Path) -> None:
    """Refuse a 3-D image whose place in space is not told by as many finite numbers; ITK reads zeros for others.

    Parameters
    ----------
    fields
        As `read_fields` returns them.
    path
        Of the image, for the message.

    Raises
    ------
    InputError
        If a field of the place has another number of values, or one that is no finite number.
    """
    for key, count in _GEOMETRY.items():
        text = fields.get(key, "0 " * count)
        try:
            numbers = [] if "_" in text else [float(number) for number in text.split()]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise InputError(f"{path}: expected {count} finite numbers as {key}, found {fields[key][:60]!r}")


def require_complete(path: Path, n_bytes: int) -> None:
    """Refuse voxels in another file, voxels that are too few, and compressed ones that are damaged or too many.

    ITK would read the first from wherever the header says, and make an image with arbitrary voxels of damaged ones,
    also where the header has another ``CompressedDataSize`` than the voxels have.

    Parameters
    ----------
    path
        Of the image.
    n_bytes
        Number of bytes that all of its voxels take without compression.

    Raises
    ------
    InputError
        If the voxels are not all there.
    """
    length = consumed = 0
    inflate = zlib.decompressobj(wbits=47)  # zlib or gzip, as ITK takes them
    with path.open("rb") as file:
        fields = _read_fields(file, path)
        data_file = fields["ElementDataFile"]
        if data_file not in ("LOCAL", "Local", "local"):
            raise InputError(f"{path}: expected voxels in the file itself (LOCAL), found {data_file!r}")
        if not _is_true(fields.get("CompressedData", "")):
            there = path.stat().st_size - file.tell()
            if _is_true(fields.get("BinaryData", "")) and there < n_bytes:
                raise InputError(f"{path}: expected {n_bytes} bytes of voxels, found {there}")
            return
        try:
            while not inflate.eof and (chunk := file.read(2**16)):
                length += len(inflate.decompress(chunk))
                consumed += len(chunk)
        except zlib.error as error:
            raise InputError(f"{path}: expected a complete image, found {error}") from error
    if not inflate.eof or length != n_bytes:
        raise InputError(f"{path}: expected {n_bytes} bytes of voxels, found {length}")
    consumed -= len(inflate.unused_data)
    if (said := fields.get("CompressedDataSize")) != str(consumed):
        raise InputError(f"{path}: expected CompressedDataSize = {consumed}, found {said or 'none'}")


def _read_fields(file: BinaryIO, path: Path) -> dict[str, str]:
    """Return the fields of a header, with the file at its first voxel; see `read_fields`."""
    fields: dict[str, str] = {}
    value = "-"
    while "ElementDataFile" not in fields:
        before, line = value, file.readline(MAX_HEADER_BYTES)
        key, sign, value = (part.strip() for part in line.decode("ascii", "replace").partition("="))
        complete = sign and line.endswith(b"\n") and file.tell() <= MAX_HEADER_BYTES
        if not complete or (key == "ElementDataFile" and not (before and value)):
            raise InputError(f"{path}: expected an image with a MetaImage header, found {line[:40]!r} in it")
        if "NDims" in line.decode("ascii", "replace") and (
            key != "NDims" or key in fields or not re.fullmatch("[1-9]|10", value)
        ):
            raise InputError(f"{path}: expected NDims = 3, once, found {line[:40]!r}")
        fields[key] = value
    return fields


def _is_true(value: str) -> bool:
    return value.startswith(("T", "t", "1"))
