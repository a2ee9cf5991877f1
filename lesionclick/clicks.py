"""Clicks: read, check and write the platform's click file, and cut it to a step.

Points are voxel indices (x, y, z) as the platform gives them; `indices_zyx` and `clicks_from_indices` alone convert
between them and array indices (z, y, x).

Rules for what is odd but harmless: repeated points are kept, since the challenge's own files hold them and a step
counts them; a point outside the image is ignored with a warning; a fractional point is rounded half to even.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lesionclick.errors import InputError

logger = logging.getLogger(__name__)

TUMOR = "tumor"
BACKGROUND = "background"
MAX_BYTES = 1 << 20
"""Largest click file that is read; the challenge's are about 1 kB."""


@dataclass(frozen=True)
class Click:
    """A named point, in voxel indices (x, y, z)."""

    name: str
    point_xyz: tuple[float, float, float]


def parse_clicks(text: bytes | str, source: str, names: Collection[str] = (TUMOR, BACKGROUND)) -> tuple[Click, ...]:
    """Read the content of a click file.

    Parameters
    ----------
    text
        JSON as in the challenge: an object with ``points``, a list of objects with ``name`` and ``point``.
    source
        What to call the content in messages, such as its path.
    names
        The names that a point may have.

    Returns
    -------
    tuple of Click
        In the order of the file; possibly none.

    Raises
    ------
    InputError
        If the text is no JSON of that form, or holds an unknown name or a point that is not three finite numbers.
    """
    try:
        content = json.loads(text, object_pairs_hook=_object_without_duplicates)
    except (ValueError, RecursionError) as error:  # bad UTF-8, bad JSON and endless digits are ValueErrors
        raise InputError(f"{source}: expected a click file in JSON, found {type(error).__name__}: {error}") from error
    if not isinstance(content, dict) or not isinstance(content.get("points"), list):
        raise InputError(f"{source}: expected an object with a list 'points', found {_shown(content)}")
    return tuple(_parse_point(entry, f"{source}, point {i}", names) for i, entry in enumerate(content["points"]))


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    content = dict(pairs)
    if len(content) != len(pairs):
        raise ValueError(f"a key stands twice in one object: {sorted(key for key, _ in pairs)}")
    return content


def _parse_point(entry: object, where: str, names: Collection[str]) -> Click:
    if not isinstance(entry, dict) or not {"name", "point"} <= set(entry):
        raise InputError(f"{where}: expected an object with 'name' and 'point', found {_shown(entry)}")
    name, point = entry["name"], entry["point"]
    if not isinstance(name, str) or name not in names:
        raise InputError(f"{where}: expected a name among {sorted(names)}, found {_shown(name)}")
    if not isinstance(point, list) or len(point) != 3 or not all(_is_coordinate(value) for value in point):
        raise InputError(f"{where}: expected three finite numbers [x, y, z], found {_shown(point)}")
    x, y, z = (float(value) for value in point)
    return Click(name, (x, y, z))


def _is_coordinate(value: object) -> bool:
    # The bound keeps integers convertible to float and indices within int64; no image is that large.
    return type(value) in (int, float) and abs(value) < 1e9 and math.isfinite(value)  # type: ignore[arg-type]


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def read_clicks(path: Path, names: Collection[str] = (TUMOR, BACKGROUND)) -> tuple[Click, ...]:
    """Read a click file; see `parse_clicks`.

    Raises
    ------
    InputError
        Also if the file is missing, unreadable, or larger than `MAX_BYTES`.
    """
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise InputError(f"{path}: expected a click file of at most {MAX_BYTES} bytes, found {size}")
        text = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path}: expected a readable click file, found {error.strerror or error}") from error
    return parse_clicks(text, str(path), names)


def write_clicks(path: Path, clicks: Iterable[Click]) -> None:
    """Write clicks in the platform's form; whole coordinates become integers."""
    path.write_text(json.dumps(clicks_to_json(clicks), indent=2) + "\n")


def clicks_to_json(clicks: Iterable[Click]) -> dict[str, Any]:
    """Return the content of a click file."""
    points = [
        {"name": click.name, "point": [int(v) if float(v).is_integer() else v for v in click.point_xyz]}
        for click in clicks
    ]
    return {"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points}


def at_step(clicks: Iterable[Click], step: int) -> tuple[Click, ...]:
    """Return the clicks of a step: the first `step` of each name, in their order."""
    seen: dict[str, int] = {}
    kept = []
    for click in clicks:
        seen[click.name] = seen.get(click.name, 0) + 1
        if seen[click.name] <= step:
            kept.append(click)
    return tuple(kept)


def indices_zyx(clicks: Iterable[Click], name: str, shape_zyx: Sequence[int]) -> NDArray[np.int64]:
    """Return the clicks of one name as array indices.

    Parameters
    ----------
    clicks
        Clicks of any name.
    name
        The name to keep.
    shape_zyx
        Shape of the image. Points outside it are ignored, with one warning.

    Returns
    -------
    NDArray
        Shape (n, 3), in (z, y, x), rounded half to even.
    """
    points = np.array([click.point_xyz[::-1] for click in clicks if click.name == name], dtype=np.float64)
    indices = np.rint(points.reshape(-1, 3)).astype(np.int64)
    inside = ((indices >= 0) & (indices < np.asarray(shape_zyx))).all(axis=1)
    if not inside.all():
        logger.warning(
            "ignored %d %s clicks outside the image of %s voxels (x, y, z): %s",
            (~inside).sum(),
            name,
            tuple(shape_zyx)[::-1],
            points[~inside][:, ::-1].tolist(),
        )
    kept: NDArray[np.int64] = indices[inside]
    return kept


def clicks_from_indices(tumor_zyx: NDArray[np.integer], background_zyx: NDArray[np.integer]) -> tuple[Click, ...]:
    """Return array indices (n, 3) of both kinds as clicks, tumour first."""
    return tuple(
        Click(name, (float(x), float(y), float(z)))
        for name, points in ((TUMOR, tumor_zyx), (BACKGROUND, background_zyx))
        for z, y, x in np.asarray(points).reshape(-1, 3).tolist()
    )
