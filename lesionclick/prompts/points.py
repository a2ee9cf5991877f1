"""The clicks of a case: the platform's click file, the clicks of a step, and the one conversion of axes.

Points are voxel indices in (x, y, z), as the platform gives them; array indices are (z, y, x). `indices_zyx`,
`clicks_from_indices` and `points_from_indices` turn one into the other, and nothing else does.
"""

from __future__ import annotations

import json
import logging
import math
import re
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from lesionclick.errors import InputError

logger = logging.getLogger(__name__)

TUMOR = "tumor"
BACKGROUND = "background"

MAX_BYTES = 2**20
"""Largest click file that is read: 20 clicks take 2 kB, and nobody sets ten thousand by hand."""

SAME_LESION_MM = 50.0
"""Distance below which two tumour clicks are taken for clicks on one lesion; most lesions are smaller."""

MAX_LESION = 2**16 - 1
"""Largest number of a lesion in Task 2: what a mask of 16 bits holds."""

_TYPE = "Multiple points"
_LESION = re.compile(r"(?:lesion )?([1-9][0-9]{0,4})", re.IGNORECASE | re.ASCII)


@dataclass(frozen=True)
class Click:
    """A named point.

    Attributes
    ----------
    name
        What was clicked: in Task 1 `TUMOR` or `BACKGROUND`, in Task 2 the number of a lesion.
    point_xyz
        Voxel index along x, y, z; need not be whole.
    """

    name: str
    point_xyz: tuple[float, float, float]


def read_clicks(path: Path, names: Collection[str] | None = (TUMOR, BACKGROUND)) -> tuple[Click, ...]:
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


def parse_clicks(
    text: bytes | str, source: str, names: Collection[str] | None = (TUMOR, BACKGROUND)
) -> tuple[Click, ...]:
    """Check the content of a click file, Grand Challenge's "Multiple points" of version 1, and return its clicks.

    Keys that are not needed are ignored. Every click is kept in its place, repeated ones too, because the challenge's
    own files repeat points and its steps count them. No click at all is a valid file.

    Parameters
    ----------
    text
        The content.
    source
        What to call it in messages.
    names
        Names that a click may have; without them, any.

    Raises
    ------
    InputError
        If the content is anything else, such as no JSON, a key that is missing or given twice, an unknown name, or a
        point that is not three finite numbers.
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
    return tuple(_parse_click(point, f"{source}, point {n}", names) for n, point in enumerate(points))


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
    for n, click in enumerate(read_clicks(path, names=None)):
        match = _LESION.fullmatch(click.name)
        if not match or (number := int(match[1])) > MAX_LESION:
            expected = f"a lesion's number from 1 to {MAX_LESION}, such as '3' or 'Lesion 3'"
            raise InputError(f"{path}, point {n}: expected {expected}, found {_show(click.name)}")
        if number in points:
            raise InputError(
                f"{path}, point {n}: expected one point for each lesion, found lesion {number} again, "
                f"at {_show(points[number])} and {_show(click.point_xyz)}"
            )
        points[number] = click.point_xyz
    return dict(sorted(points.items()))


def write_clicks(path: Path, clicks: Iterable[Click]) -> None:
    """Write a click file in the platform's form, whole coordinates as integers."""
    points = [{"name": c.name, "point": [int(v) if v == int(v) else v for v in c.point_xyz]} for c in clicks]
    content = {"version": {"major": 1, "minor": 0}, "type": _TYPE, "points": points}
    path.write_text(json.dumps(content) + "\n", encoding="utf-8")


def at_step(clicks: Iterable[Click], step: int) -> tuple[Click, ...]:
    """Return the clicks that step `step` of the challenge shows: the first so many of each name, in their order."""
    seen: Counter[str] = Counter()
    kept = []
    for click in clicks:
        seen[click.name] += 1
        if seen[click.name] <= step:
            kept.append(click)
    return tuple(kept)


def indices_zyx(clicks: Iterable[Click], name: str, shape_zyx: Sequence[int]) -> NDArray[np.int64]:
    """Return the voxels that were clicked as `name`.

    Coordinates that are not whole are rounded half to even. Clicks outside the image are left out; `warn_about_clicks`
    tells of them.

    Returns
    -------
    NDArray
        Array indices (z, y, x) in the order of the clicks, shape (n, 3).
    """
    rounded = _rounded_zyx([click for click in clicks if click.name == name])
    return rounded[_is_inside(rounded, shape_zyx)].astype(np.int64)


def clicks_from_indices(tumor_zyx: NDArray[np.integer], background_zyx: NDArray[np.integer]) -> tuple[Click, ...]:
    """Return clicks at array indices (z, y, x), each of shape (n, 3), tumour first; the inverse of `indices_zyx`."""
    kinds = ((TUMOR, tumor_zyx), (BACKGROUND, background_zyx))
    return tuple(Click(name, (float(x), float(y), float(z))) for name, points in kinds for z, y, x in points.tolist())


def points_from_indices(indices_zyx: ArrayLike) -> NDArray[np.float64]:
    """Return points (x, y, z) of array indices (z, y, x), which need not be whole, each of shape (..., 3)."""
    points: NDArray[np.float64] = np.asarray(indices_zyx, dtype=np.float64)[..., ::-1]
    return points


def indices_from_points(points_xyz: ArrayLike) -> NDArray[np.float64]:
    """Return array indices (z, y, x) of points (x, y, z), each of shape (..., 3)."""
    return np.asarray(points_xyz, dtype=np.float64)[..., ::-1]


def is_inside(point_xyz: tuple[float, float, float], shape_zyx: Sequence[int]) -> bool:
    """Tell whether the voxel that a point is rounded to, half to even, lies in an image."""
    return bool(_is_inside(_rounded_zyx([Click("", point_xyz)]), shape_zyx)[0])


def is_first_on_lesion(points_zyx: NDArray[np.number], spacing_zyx: Sequence[float]) -> NDArray[np.bool_]:
    """Tell the first click on each lesion from the further ones, which have an earlier one within `SAME_LESION_MM`.

    The challenge's first click on a lesion is its centre, and further ones lie on its rim: the one says where the mask
    has to grow, the others where it has to end.

    Parameters
    ----------
    points_zyx
        Voxel indices of tumour clicks in the order in which they were made, shape (n, 3).
    spacing_zyx
        Voxel size in mm.

    Returns
    -------
    NDArray
        Shape (n,), bool.
    """
    places = np.asarray(points_zyx) * np.asarray(spacing_zyx)
    distance = np.linalg.norm(places[:, None] - places[None], axis=-1)
    further: NDArray[np.bool_] = np.tril(distance < SAME_LESION_MM, k=-1).any(axis=1)
    return ~further


def warn_about_clicks(clicks: Sequence[Click], shape_zyx: Sequence[int], source: str) -> None:
    """Log one warning for each kind of oddity that is tolerated.

    These are: coordinates that are not whole (rounded half to even), clicks outside the image (ignored), and clicks on
    a voxel that was clicked before (kept).
    """
    fractional = [c for c in clicks if any(v != int(v) for v in c.point_xyz)]
    rounded = _rounded_zyx(clicks)
    outside = [c for c, inside in zip(clicks, _is_inside(rounded, shape_zyx), strict=True) if not inside]
    firsts = set(np.unique(rounded, axis=0, return_index=True)[1].tolist())
    repeated = [c for n, c in enumerate(clicks) if n not in firsts]
    size_xyz = tuple(shape_zyx[::-1])
    for odd, what in (
        (fractional, "have coordinates that are not whole, which are rounded half to even"),
        (outside, f"lie outside the image of {size_xyz} voxels (x, y, z) and are ignored"),
        (repeated, "are on a voxel that was clicked before, and are kept"),
    ):
        if odd:
            example = f"{odd[0].name} {odd[0].point_xyz}"
            logger.warning("%s: %d of %d clicks %s, such as %s", source, len(odd), len(clicks), what, example)


def _rounded_zyx(clicks: Sequence[Click]) -> NDArray[np.float64]:
    points_xyz = np.array([click.point_xyz for click in clicks], dtype=np.float64).reshape(-1, 3)
    return np.rint(points_xyz[:, ::-1])


def _is_inside(index_zyx: NDArray[np.float64], shape_zyx: Sequence[int]) -> NDArray[np.bool_]:
    inside: NDArray[np.bool_] = np.all((index_zyx >= 0) & (index_zyx < shape_zyx), axis=1)
    return inside


def _parse_click(point: object, source: str, names: Collection[str] | None) -> Click:
    name, values = (_get(point, key, source) for key in ("name", "point"))
    if not isinstance(name, str) or (names is not None and name not in names):
        expected = "a name" if names is None else f"a name among {sorted(names)}"
        raise InputError(f"{source}: expected {expected}, found {_show(name)}")
    if not isinstance(values, list) or len(values) != 3 or not all(_is_number(value) for value in values):
        raise InputError(f"{source}: expected three finite numbers [x, y, z], found {_show(values)}")
    x, y, z = values
    return Click(name, (float(x), float(y), float(z)))


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
    """Shorten whatever came to what a log can hold."""
    return reprlib.repr(value)
