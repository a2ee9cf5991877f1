"""The platform's sockets and interfaces as data: what lies where in `/input`, and where it goes in `/output`."""

from __future__ import annotations

import json
import reprlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal

from lesionclick.errors import InputError


@dataclass(frozen=True)
class Socket:
    """One input or output of the algorithm.

    Attributes
    ----------
    slug
        The platform's name of it, in messages only: the slug of a real socket may differ.
    relative_path
        Where it lies below `/input` or `/output`: the folder that holds an image, or the JSON file itself.
    kind
        ``image`` or ``json``.
    """

    slug: str
    relative_path: str
    kind: Literal["image", "json"]


@dataclass(frozen=True)
class Interface:
    """A set of inputs that comes together, and the outputs that it asks for."""

    name: str
    inputs: tuple[Socket, ...]
    outputs: tuple[Socket, ...]


CT = Socket("ct", "images/ct", "image")
PET = Socket("pet", "images/pet", "image")
LESION_CLICKS = Socket("lesion-clicks", "lesion-clicks.json", "json")
TUMOR_LESION_SEGMENTATION = Socket("tumor-lesion-segmentation", "images/tumor-lesion-segmentation", "image")

INTERFACES = (Interface("PET/CT", (CT, PET, LESION_CLICKS), (TUMOR_LESION_SEGMENTATION,)),)
"""All that this algorithm answers."""

LISTING = "inputs.json"
"""The file in which the platform lists the sockets of a case."""


def find_interface(input_dir: Path) -> Interface:
    """Tell which interface the case in `input_dir` belongs to.

    Where `LISTING` exists, its relative paths decide; otherwise the folders in `images` and the JSON files do.

    Raises
    ------
    InputError
        If the listing is broken, or the sockets are not exactly those of a known interface.
    """
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: expected the folder of a case, found none")
    listing = input_dir / LISTING
    found = _listed(locate(input_dir, LISTING)) if listing.exists() else _present(input_dir)
    for interface in INTERFACES:
        if sorted(found) == sorted(socket.relative_path for socket in interface.inputs):
            return interface
    known = "; or ".join(f"{', '.join(s.relative_path for s in one.inputs)} ({one.name})" for one in INTERFACES)
    source = listing if listing.exists() else input_dir
    raise InputError(f"{source}: expected {known}; found {reprlib.repr(sorted(found)) if found else 'nothing'}")


def locate(input_dir: Path, relative_path: str) -> Path:
    """Return a path in `input_dir`.

    Raises
    ------
    InputError
        If symbolic links lead from there out of `input_dir`.
    """
    path = input_dir / relative_path
    try:
        root, resolved = input_dir.resolve(), path.resolve()
    except (OSError, RuntimeError) as error:  # a link to itself is a RuntimeError
        raise InputError(f"{path}: expected a path that can be followed, found {error}") from error
    if not resolved.is_relative_to(root):
        raise InputError(f"{path}: expected a path inside {root}, found a link to {resolved}")
    return path


def _listed(listing: Path) -> list[str]:
    try:
        content = json.loads(listing.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{listing}: expected a JSON list of sockets, found {error}") from error
    try:
        return [str(PurePosixPath(entry["socket"]["relative_path"])) for entry in content]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{listing}: expected a list of objects with socket and its relative_path, found {reprlib.repr(content)}"
        ) from error


def _present(input_dir: Path) -> list[str]:
    try:
        folders = [path for path in input_dir.glob("images/*") if path.is_dir()]
        return [path.relative_to(input_dir).as_posix() for path in (*folders, *input_dir.glob("*.json"))]
    except OSError as error:
        raise InputError(f"{input_dir}: expected a readable folder, found {error}") from error
