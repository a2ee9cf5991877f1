"""Click files: the platform's "Multiple points" of version 1, read and written."""

from __future__ import annotations

import json
import math
import re
import reprlib
from collections.abc import Collection
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

MAX_BYTES = 2**20
"""Largest click file that is read: 20 clicks take 2 kB, five scribbles of a hundred points 50 kB."""

MAX_POINTS = 5000
"""Most points that are read, ten times those of five long scribbles: the rules solve for all of them at once, which
takes seconds and a gigabyte for as many.
"""

MAX_SHOWN = 300
"""Letters of what was found that an error tells."""

MAX_LESION = 2**16 - 1
"""Largest number of a lesion in Task 2: what a mask of 16 bits holds."""

_TYPE = "Multiple points"
_LESION = re.compile(r"(?:lesion )?([1-9][0-9]{0,4})", re.IGNORECASE | re.ASCII)


def read_clicks(path: Path, names: Collection[str] | None = (TUMOR, BACKGROUND)) -> Prompts:
    """Read a click file; see `parse_clicks`.

    Raises
    ------
    InputError
        If there is no such file, it is larger than `MAX_BYTES`, or it is no click file.
    """
    if not path.is_file():
        raise InputError(f"{path}: expected a click file, found {'a folder or device' if path.exists() else 'nothing'}")
    try:
        if (size := path.stat().st_size) > MAX_BYTES:
            raise InputError(f"{path}: expected a click file of at most {MAX_BYTES} bytes, found {size}")
        content = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable click file, found {error}") from error
    return parse_clicks(content, str(path), names)


def parse_clicks(text: bytes | str, source: str, names: Collection[str] | None = (TUMOR, BACKGROUND)) -> Prompts:
    """Check the content of a click file, Grand Challenge's "Multiple points" of version 1, and return its points.

    Keys that are not needed are ignored. Every point is kept in its place, repeated ones too, because the challenge's
    own files repeat points and its steps count them. No point at all is a valid file.

    Parameters
    ----------
    text
        The content.
    source
        What to call it in messages.
    names
        Names that a point may have; without them, any.

    Raises
    ------
    InputError
        If the content is anything else, such as no JSON, a key that is missing or given twice, an unknown name, a
        point that is not three finite numbers, or more than `MAX_POINTS` points.
    """
    try:
        content = json.loads(text, object_pairs_hook=_unique_keys)
    except RecursionError as error:
        raise InputError(f"{source}: expected a click file, found JSON that is nested too deeply") from error
    except ValueError as error:
        raise InputError(f"{source}: expected JSON, found {error}") from error

    version, kind, points = (_get(content, key, source) for key in ("version", "type", "points"))
    if _get(version, "major", f"{source}, version") != 1 or kind != _TYPE:
        raise InputError(f"{source}: expected {_TYPE!r} of version 1, found {_show(kind)} of version {_show(version)}")
    if not isinstance(points, list):
        raise InputError(f"{source}: expected a list of points, found {_show(points)}")
    if len(points) > MAX_POINTS:
        raise InputError(f"{source}: expected at most {MAX_POINTS} points, found {len(points)}")
    return Prompts(tuple(_parse_point(point, f"{source}, point {n}", names) for n, point in enumerate(points)))


def read_lesion_points(path: Path) -> dict[int, tuple[float, float, float]]:
    """Read a click file of Task 2, whose points are named after lesions: ``"3"`` or ``"Lesion 3"``, in any case.

    Returns
    -------
    dict
        Voxel index (x, y, z) of each lesion by its number, in the order of the numbers.

    Raises
    ------
    InputError
        As `read_clicks`; if a name is no number from 1 to `MAX_LESION`; if a number comes twice.
    """
    points: dict[int, tuple[float, float, float]] = {}
    for n, one in enumerate(read_clicks(path, names=None)):
        match = _LESION.fullmatch(one.kind)
        if not match or (number := int(match[1])) > MAX_LESION:
            expected = f"a lesion's number from 1 to {MAX_LESION}, such as '3' or 'Lesion 3'"
            raise InputError(f"{path}, point {n}: expected {expected}, found {_show(one.kind)}")
        if number in points:
            raise InputError(
                f"{path}, point {n}: expected one point for each lesion, found lesion {number} again, "
                f"at {_show(points[number])} and {_show(one.point_xyz)}"
            )
        points[number] = one.point_xyz
    return dict(sorted(points.items()))


def write_clicks(path: Path, prompts: Prompts) -> None:
    """Write a click file in the platform's form, whole coordinates as integers."""
    points = [{"name": one.kind, "point": [int(v) if v == int(v) else v for v in one.point_xyz]} for one in prompts]
    content = {"version": {"major": 1, "minor": 0}, "type": _TYPE, "points": points}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def _parse_point(point: object, source: str, names: Collection[str] | None) -> Point:
    name, values = (_get(point, key, source) for key in ("name", "point"))
    if not isinstance(name, str) or (names is not None and name not in names):
        expected = "a name" if names is None else f"a name among {sorted(names)}"
        raise InputError(f"{source}: expected {expected}, found {_show(name)}")
    if not isinstance(values, list) or len(values) != 3 or not all(_is_number(value) for value in values):
        raise InputError(f"{source}: expected three finite numbers [x, y, z], found {_show(values)}")
    x, y, z = values
    return Point(name, (float(x), float(y), float(z)))


def _is_number(value: object) -> bool:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer beyond the range of floats
        return False


def _get(mapping: object, key: str, source: str) -> object:
    if not isinstance(mapping, dict) or key not in mapping:
        raise InputError(f"{source}: expected an object with the key {key!r}, found {_show(mapping)}")
    value: object = mapping[key]
    return value


def _unique_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise ValueError(f"a key given twice among {_show([key for key, _ in pairs])}")
    return mapping


def _show(value: object) -> str:
    """Shorten whatever came to what a log can hold: its items, and all of it, as they may hold others in turn."""
    text = reprlib.repr(value)
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."
