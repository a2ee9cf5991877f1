"""The platform's contract as data: sockets, interfaces, and which interface lies in an input folder.

Where the platform wrote ``inputs.json``, its ``relative_path`` entries tell what was sent (a socket's slug may differ
from its path); elsewhere the folders and files themselves do.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionclick.errors import InputError

IMAGE_SUFFIXES = (".mha", ".tif", ".tiff")
MAX_LISTING_BYTES = 16 << 20
"""Largest `inputs.json` that is read; it repeats the JSON inputs, which are far smaller."""


@dataclass(frozen=True)
class Socket:
    """One input or output: where it lies below ``/input`` or ``/output``, and whether it is an image."""

    relative_path: str
    is_image: bool


@dataclass(frozen=True)
class Interface:
    """A set of input sockets that may come together, and what is expected for it."""

    name: str
    inputs: tuple[Socket, ...]
    outputs: tuple[Socket, ...]


CT = Socket("images/ct", is_image=True)
PET = Socket("images/pet", is_image=True)
LESION_CLICKS = Socket("lesion-clicks.json", is_image=False)
TUMOR_LESION_SEGMENTATION = Socket("images/tumor-lesion-segmentation", is_image=True)

INTERFACES = (Interface("Task 1, whole-body PET/CT", (CT, PET, LESION_CLICKS), (TUMOR_LESION_SEGMENTATION,)),)


def find_interface(input_dir: Path) -> Interface:
    """Return the interface whose sockets are exactly those in the input folder.

    Raises
    ------
    InputError
        If the folder is missing, its ``inputs.json`` is broken, or the set of sockets is none of the known ones.
    """
    if not input_dir.is_dir():
        raise InputError(
            f"{input_dir}: expected the input folder, found {'a file' if input_dir.exists() else 'nothing'}"
        )
    listing = input_dir / "inputs.json"
    found = _listed(listing) if listing.is_file() else _lying(input_dir)
    for interface in INTERFACES:
        if found == {socket.relative_path for socket in interface.inputs}:
            return interface
    known = "; ".join(f"{i.name}: {sorted(socket.relative_path for socket in i.inputs)}" for i in INTERFACES)
    raise InputError(f"{input_dir}: expected the inputs of a known interface ({known}), found {sorted(found)}")


def _listed(listing: Path) -> set[str]:
    """Return the relative paths in an `inputs.json`."""
    if listing.stat().st_size > MAX_LISTING_BYTES:
        raise InputError(f"{listing}: expected at most {MAX_LISTING_BYTES} bytes, found {listing.stat().st_size}")
    try:
        entries = json.loads(listing.read_bytes())
    except (ValueError, RecursionError) as error:
        raise InputError(f"{listing}: expected JSON, found {type(error).__name__}: {error}") from error
    if not isinstance(entries, list):
        raise InputError(f"{listing}: expected a list of sockets, found {type(entries).__name__}")
    return {_relative_path(entry, f"{listing}, entry {i}") for i, entry in enumerate(entries)}


def _relative_path(entry: Any, where: str) -> str:
    socket = entry.get("socket") if isinstance(entry, dict) else None
    path = socket.get("relative_path") if isinstance(socket, dict) else None
    if not isinstance(path, str):
        raise InputError(f"{where}: expected an object with socket.relative_path, found {str(entry)[:80]}")
    return path


def _lying(input_dir: Path) -> set[str]:
    """Return the relative paths of the image folders and JSON files in the input folder."""
    images = {f"images/{path.name}" for path in input_dir.glob("images/*") if path.is_dir()}
    return images | {path.name for path in input_dir.glob("*.json")}


def find_image(input_dir: Path, socket: Socket) -> Path:
    """Return the one image file of a socket.

    Raises
    ------
    InputError
        If there is no image or more than one, or the file is a link that leads out of the input folder.
    """
    folder = input_dir / socket.relative_path
    found = sorted(path for path in folder.glob("*") if path.suffix.lower() in IMAGE_SUFFIXES)
    if len(found) != 1:
        names = [path.name for path in sorted(folder.glob("*"))] if folder.is_dir() else "no such folder"
        raise InputError(f"{folder}: expected exactly one image ({', '.join(IMAGE_SUFFIXES)}), found {names}")
    return _inside(input_dir, found[0])


def find_json(input_dir: Path, socket: Socket) -> Path:
    """Return the JSON file of a socket; a link that leads out of the input folder is refused with InputError."""
    return _inside(input_dir, input_dir / socket.relative_path)


def _inside(input_dir: Path, path: Path) -> Path:
    if not path.resolve().is_relative_to(input_dir.resolve()):
        raise InputError(f"{path}: expected a file in the input folder, found a link to {path.resolve()}")
    return path
