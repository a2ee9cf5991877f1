"""The platform's sockets and interfaces as data: what lies where in `/input`, and where it goes in `/output`."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Literal, TypeAlias

from lesionclick.errors import InputError

Task: TypeAlias = Literal["task1", "task2"]
"""PET/CT with clicks, or longitudinal CT."""
TASKS: tuple[Task, ...] = ("task1", "task2")


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
    task: Task
    inputs: tuple[Socket, ...]
    outputs: tuple[Socket, ...]


@dataclass(frozen=True)
class Region:
    """The sockets of one body region in Task 2.

    Attributes
    ----------
    name
        ``primary`` or ``secondary``.
    baseline_ct, baseline_mask, baseline_clicks
        Inputs: the earlier CT, its mask with a number for each lesion, and a point for each lesion.
    followup_ct, followup_clicks
        Inputs: the later CT and its points, none of them in the first step.
    mask
        Output: the mask of the follow-up.
    """

    name: str
    baseline_ct: Socket
    baseline_mask: Socket
    baseline_clicks: Socket
    followup_ct: Socket
    followup_clicks: Socket
    mask: Socket

    @property
    def baseline(self) -> tuple[Socket, ...]:
        """What comes with a baseline."""
        return self.baseline_ct, self.baseline_mask, self.baseline_clicks

    @property
    def followup(self) -> tuple[Socket, ...]:
        """What comes with a follow-up."""
        return self.followup_ct, self.followup_clicks


def _image(slug: str) -> Socket:
    return Socket(slug, f"images/{slug}", "image")


def _json(slug: str) -> Socket:
    return Socket(slug, f"{slug}.json", "json")


def _region(name: str) -> Region:
    return Region(
        name,
        baseline_ct=_image(f"{name}-baseline-ct"),
        baseline_mask=_image(f"{name}-baseline-ct-tumor-lesion-seg"),
        baseline_clicks=_json(f"{name}-baseline-lesion-clicks"),
        followup_ct=_image(f"{name}-followup-ct"),
        followup_clicks=_json(f"{name}-followup-lesion-clicks"),
        mask=_image(f"{name}-followup-ct-tumor-lesion-seg"),
    )


CT = _image("ct")
PET = _image("pet")
LESION_CLICKS = _json("lesion-clicks")
TUMOR_LESION_SEGMENTATION = _image("tumor-lesion-segmentation")

PRIMARY, SECONDARY = REGIONS = (_region("primary"), _region("secondary"))
"""The body regions of Task 2, in the order in which all of it goes through them."""

INTERFACES = (
    Interface("PET/CT", "task1", (CT, PET, LESION_CLICKS), (TUMOR_LESION_SEGMENTATION,)),
    Interface("primary", "task2", PRIMARY.baseline + PRIMARY.followup, (PRIMARY.mask,)),
    Interface(
        "primary and secondary",
        "task2",
        PRIMARY.baseline + PRIMARY.followup + SECONDARY.baseline + SECONDARY.followup,
        (PRIMARY.mask, SECONDARY.mask),
    ),
    Interface(
        "two baselines, one follow-up",
        "task2",
        PRIMARY.baseline + PRIMARY.followup + SECONDARY.baseline,
        (PRIMARY.mask,),
    ),
    Interface(
        "one baseline, two follow-ups",
        "task2",
        PRIMARY.baseline + PRIMARY.followup + SECONDARY.followup,
        (PRIMARY.mask, SECONDARY.mask),
    ),
)
"""All that this algorithm answers."""

LISTING = "inputs.json"
"""The file in which the platform lists the sockets of a case."""

_SHORT = reprlib.Repr()  # of what was found, which may be anything: long enough for all that Task 2 has
_SHORT.maxlist, _SHORT.maxstring = 12, 60


def find_interface(input_dir: Path, known: Sequence[Interface] = INTERFACES) -> Interface:
    """Tell which of the known interfaces the case in `input_dir` belongs to.

    Where `LISTING` exists, its relative paths decide; otherwise the folders in `images` and the JSON files do.

    Raises
    ------
    InputError
        If the listing is broken, or the sockets are not exactly those of one interface. The message tells the known
        ones of the tasks that share a socket with the case, and all where none does.
    """
    if not input_dir.is_dir():
        raise InputError(f"{input_dir}: expected the folder of a case, found none")
    listing = input_dir / LISTING
    found = _listed(locate(input_dir, LISTING)) if listing.exists() else _present(input_dir)
    for interface in known:
        if sorted(found) == sorted(_paths(interface)):
            return interface
    tasks = {interface.task for interface in known if set(found) & set(_paths(interface))}
    likely = [interface for interface in known if interface.task in tasks] or known
    expected = "; or ".join(f"{', '.join(_paths(interface))} ({interface.name})" for interface in likely)
    source = listing if listing.exists() else input_dir
    raise InputError(f"{source}: expected {expected}; found {_SHORT.repr(sorted(found)) if found else 'nothing'}")


def interfaces_of(task: Task) -> tuple[Interface, ...]:
    """Return the interfaces of one task."""
    return tuple(interface for interface in INTERFACES if interface.task == task)


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


def _paths(interface: Interface) -> list[str]:
    return [socket.relative_path for socket in interface.inputs]


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
