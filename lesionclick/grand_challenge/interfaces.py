"""The platform's sockets and interfaces as data: what lies where in `/input`, and where it goes in `/output`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
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
class Output:
    """An output of the algorithm.

    Attributes
    ----------
    socket
        Where it goes.
    named_after
        Input image whose file name, without the ending, it takes over.
    """

    socket: Socket
    named_after: Socket


@dataclass(frozen=True)
class Interface:
    """A set of inputs that comes together, and the masks that it asks for."""

    name: str
    inputs: tuple[Socket, ...]
    outputs: tuple[Output, ...]


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
    mask: Output

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
    followup_ct = _image(f"{name}-followup-ct")
    return Region(
        name,
        baseline_ct=_image(f"{name}-baseline-ct"),
        baseline_mask=_image(f"{name}-baseline-ct-tumor-lesion-seg"),
        baseline_clicks=_json(f"{name}-baseline-lesion-clicks"),
        followup_ct=followup_ct,
        followup_clicks=_json(f"{name}-followup-lesion-clicks"),
        mask=Output(_image(f"{name}-followup-ct-tumor-lesion-seg"), named_after=followup_ct),
    )


CT = _image("ct")
PET = _image("pet")
LESION_CLICKS = _json("lesion-clicks")
TUMOR_LESION_SEGMENTATION = Output(_image("tumor-lesion-segmentation"), named_after=CT)

PRIMARY, SECONDARY = REGIONS = (_region("primary"), _region("secondary"))
"""The body regions of Task 2, in the order in which all of it goes through them."""
REGION_OF = {region.name: region for region in REGIONS}
"""The same by their names."""

PET_CT = (Interface("PET/CT", (CT, PET, LESION_CLICKS), (TUMOR_LESION_SEGMENTATION,)),)
"""The interface of Task 1."""

LONGITUDINAL_CT = (
    Interface("primary", PRIMARY.baseline + PRIMARY.followup, (PRIMARY.mask,)),
    Interface(
        "primary and secondary",
        PRIMARY.baseline + PRIMARY.followup + SECONDARY.baseline + SECONDARY.followup,
        (PRIMARY.mask, SECONDARY.mask),
    ),
    Interface(
        "two baselines, one follow-up", PRIMARY.baseline + PRIMARY.followup + SECONDARY.baseline, (PRIMARY.mask,)
    ),
    Interface(
        "one baseline, two follow-ups",
        PRIMARY.baseline + PRIMARY.followup + SECONDARY.followup,
        (PRIMARY.mask, SECONDARY.mask),
    ),
)
"""The interfaces of Task 2."""

INTERFACES = (PET_CT, LONGITUDINAL_CT)
"""All that this algorithm answers, by task."""


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
