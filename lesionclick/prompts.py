"""Clicks become image channels: the encodings, and the `prompt.json` that names the one a model was trained with.

All functions are pure. Points are voxel indices in (z, y, x), whole or fractional; arrays are (z, y, x).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.clicks import is_first_on_lesion
from lesionclick.errors import ModelError

Points = NDArray[np.float64]
Encoding = Literal["gaussian", "ball", "fields", "pair"]
Stage = Literal["image", "network"]
Unit = Literal["voxel", "mm"]
Align = Literal["centre", "corner"]
Readers = Literal["any", "challenge"]

_CHANNELS: dict[Encoding, int] = {"gaussian": 2, "ball": 2, "fields": 5, "pair": 4}
_CHOICES = {"encoding": Encoding, "stage": Stage, "unit": Unit, "align": Align, "readers": Readers}


@dataclass(frozen=True)
class PromptSpec:
    """How a model's click channels are made; the content of its `prompt.json`.

    Attributes
    ----------
    encoding
        ``gaussian``: the official baseline's heatmap. ``ball``: a ball with its normalised distance transform.
        ``fields``: near and far distance, the first click of each lesion apart from the further ones. ``pair``, of Task
        2: a lesion's baseline beside its follow-up, see `encode_pair`.
    stage
        ``image``: the channels are made on the PET grid, stand after CT and PET, and pass nnU-Net's preprocessing with
        them. ``network``: they are made on the network's grid and appended to the preprocessed images.
    radius
        Standard deviation of the Gaussian, radius of the ball, standard deviation of the near field, or length constant
        of the points of ``pair``.
    unit
        Unit of `radius`: ``voxel`` or ``mm``.
    reach_mm
        Length constant of the far field of ``fields``, or of the mask of ``pair``, in mm.
    cutoff_mm
        Distance at which the far field of ``fields`` reaches zero, so that a click changes nothing beyond it; None: it
        never does.
    align
        How an image index is carried to the network's grid: ``centre`` keeps voxel centres and fractions, ``corner``
        scales the index and rounds it half to even.
    mirror_axes
        Axes (of z, y, x) over whose mirrored versions a prediction is averaged.
    readers
        Whose clicks the model serves. ``challenge``: each lesion is clicked once, in its centre, before any is clicked
        again, on its rim; `lesionclick.refine` then knows more of further clicks. ``any``: in any order, anywhere.
    survey
        Whether a case without a click is predicted with more care, at three times the cost: at two sizes, of which the
        surer counts, and mirrored. Then nothing tells where a lesion is, and how large.
    """

    encoding: Encoding
    stage: Stage
    radius: float
    unit: Unit = "voxel"
    reach_mm: float = 30.0
    cutoff_mm: float | None = None
    align: Align = "centre"
    mirror_axes: tuple[int, ...] = ()
    readers: Readers = "any"
    survey: bool = False

    @property
    def n_channels(self) -> int:
        """Number of channels that the encoding adds to the images."""
        return _CHANNELS[self.encoding]

    @property
    def n_images(self) -> int:
        """Number of images that the model is given: CT and PET, or with ``pair`` the follow-up CT."""
        return 1 if self.encoding == "pair" else 2

    @property
    def task(self) -> Literal["task1", "task2"]:
        """The task that the encoding serves."""
        return "task2" if self.encoding == "pair" else "task1"

    def to_json(self) -> str:
        """Return the text of a `prompt.json`."""
        return json.dumps(asdict(self), indent=2) + "\n"

    @classmethod
    def from_mapping(cls, values: Mapping[str, object], source: str) -> PromptSpec:
        """Build a specification from the parsed content of a `prompt.json`.

        Raises
        ------
        ModelError
            If a key is unknown or missing, or a value is of the wrong type or not among the known ones.
        """
        known = {field.name for field in fields(cls)}
        if unknown := set(values) - known:
            raise ModelError(f"{source}: unknown keys {sorted(unknown)}; known are {sorted(known)}")
        for key, choices in _CHOICES.items():
            if key in values and values[key] not in get_args(choices):
                raise ModelError(f"{source}: {key} must be one of {get_args(choices)}, found {values[key]!r}")
        if values.get("encoding") == "pair" and values.get("stage") != "network":
            raise ModelError(f"{source}: encoding pair must have stage network, found {values.get('stage')!r}")
        for key in ("radius", "reach_mm"):
            value = values.get(key, 1)
            if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1000:
                raise ModelError(f"{source}: {key} must be a number between 0 and 1000, found {value!r}")
        cutoff = values.get("cutoff_mm")
        if cutoff is not None and (isinstance(cutoff, bool) or not isinstance(cutoff, int | float) or cutoff <= 0):
            raise ModelError(f"{source}: cutoff_mm must be a positive number or null, found {cutoff!r}")
        axes = values.get("mirror_axes", ())
        if not isinstance(axes, list | tuple) or any(type(axis) is not int or axis not in (0, 1, 2) for axis in axes):
            raise ModelError(f"{source}: mirror_axes must be a list of axes 0, 1, 2, found {axes!r}")
        if not isinstance(survey := values.get("survey", False), bool):
            raise ModelError(f"{source}: survey must be true or false, found {survey!r}")
        try:
            return cls(**{**values, "mirror_axes": tuple(axes)})  # type: ignore[arg-type]
        except TypeError as error:
            raise ModelError(f"{source}: {error}; needed are encoding, stage and radius") from error


OFFICIAL_BASELINE = PromptSpec(encoding="gaussian", stage="image", radius=3.0)
"""The organisers' nnU-Net baseline, which has no `prompt.json` but channels named CT, PET, FG, BG."""

SECOND_PLACE = PromptSpec(encoding="ball", stage="network", radius=2.0, align="corner")
"""The second-placed team's recipe (LesionLocator, autoPET/CT IV)."""


def encode(
    spec: PromptSpec,
    tumor_zyx: NDArray[np.number],
    background_zyx: NDArray[np.number],
    shape_zyx: Sequence[int],
    spacing_zyx: Sequence[float],
    device: torch.device | None = None,
) -> torch.Tensor:
    """Turn clicks into channels.

    Parameters
    ----------
    spec
        The encoding and its parameters.
    tumor_zyx, background_zyx
        Voxel indices of the clicks, shape (n, 3); their order matters to ``fields`` only.
    shape_zyx
        Shape (z, y, x) of the channels.
    spacing_zyx
        Voxel size in mm.
    device
        Where the channels are made.

    Returns
    -------
    torch.Tensor
        Shape (`spec.n_channels`, z, y, x), float32. Tumour before background; ``fields``: near the first clicks of
        lesions, near further ones, near background clicks, far from tumour clicks, far from background clicks.
    """
    shape = tuple(shape_zyx)
    kinds = [np.asarray(points, dtype=np.float64).reshape(-1, 3) for points in (tumor_zyx, background_zyx)]
    radius = spec.radius / np.asarray(spacing_zyx) if spec.unit == "mm" else np.full(3, spec.radius)
    if spec.encoding == "fields":
        tumor, background = kinds
        first = is_first_on_lesion(tumor, spacing_zyx)
        distances = [
            _distance_mm(points, shape, spacing_zyx, device) for points in (tumor[first], tumor[~first], background)
        ]
        sigma = float(np.mean(radius * np.asarray(spacing_zyx)))
        # cut off at 5 sigma: the tail would be denormal numbers, which slow a CPU's convolutions tenfold
        near = [torch.where(d < 5 * sigma, torch.exp(-((d / sigma) ** 2) / 2), 0.0) for d in distances]
        far = [_far(d, spec) for d in (torch.minimum(*distances[:2]), distances[2])]
        return torch.stack(near + far)
    paint = gaussian if spec.encoding == "gaussian" else ball
    return torch.from_numpy(np.stack([paint(points, shape, radius) for points in kinds])).to(device)


def _far(distance_mm: torch.Tensor, spec: PromptSpec) -> torch.Tensor:
    """Return exp(-distance / reach), lowered and stretched so that it falls from 1 to 0 at the cutoff, if any."""
    field = torch.exp(-distance_mm / spec.reach_mm)
    if spec.cutoff_mm is None:
        return field
    floor = math.exp(-spec.cutoff_mm / spec.reach_mm)
    return ((field - floor) / (1 - floor)).clamp_(min=0)


def encode_pair(
    spec: PromptSpec,
    baseline_mask: NDArray[np.bool_],
    followup_zyx: NDArray[np.number] | None,
    baseline_zyx: NDArray[np.number] | None,
    spacing_zyx: Sequence[float],
) -> NDArray[np.float32]:
    """Turn one lesion's baseline mask and its two points into channels.

    The mask becomes the hyperbolic tangent of its signed distance over `spec.reach_mm`, positive inside: where a lesion
    has grown or shrunk, the network finds its new border among the level sets of the old. A point becomes
    exp(-distance / `spec.radius`).

    Parameters
    ----------
    spec
        With encoding ``pair``.
    baseline_mask
        Shape (z, y, x), bool; empty for a lesion that is new.
    followup_zyx, baseline_zyx
        Voxel index of each point, shape (3,), which may lie outside the patch; None gives zeros.
    spacing_zyx
        Voxel size in mm.

    Returns
    -------
    NDArray
        Shape (3, z, y, x), float32: mask (-1 throughout where it is empty), follow-up point, baseline point.
    """
    shape = baseline_mask.shape
    channels = np.zeros((3, *shape), dtype=np.float32)
    channels[0] = -1.0
    if baseline_mask.any():
        inside = ndimage.distance_transform_edt(baseline_mask, sampling=spacing_zyx)
        outside = ndimage.distance_transform_edt(~baseline_mask, sampling=spacing_zyx)
        channels[0] = np.tanh((inside - outside) / spec.reach_mm)
    for channel, point in zip(channels[1:], (followup_zyx, baseline_zyx), strict=True):
        if point is not None:
            axes = ((np.arange(n) - p) * s for n, p, s in zip(shape, point, spacing_zyx, strict=True))
            z, y, x = (axis**2 for axis in axes)
            radius_mm = spec.radius if spec.unit == "mm" else spec.radius * float(np.mean(spacing_zyx))
            channel[:] = np.exp(-np.sqrt(z[:, None, None] + y[:, None] + x) / radius_mm)
    return channels


def gaussian(points_zyx: Points, shape_zyx: tuple[int, ...], sigma_zyx: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the official heatmap: ones at the clicked voxels, smoothed by one Gaussian filter.

    Points outside the grid are ignored and repeated points count once, as in the organisers' script. `sigma_zyx` is
    in voxels.
    """
    heatmap = np.zeros(shape_zyx, dtype=np.float32)
    heatmap[tuple(_inside(points_zyx, shape_zyx).T)] = 1.0
    return ndimage.gaussian_filter(heatmap, sigma=sigma_zyx) if heatmap.any() else heatmap


def ball(points_zyx: Points, shape_zyx: tuple[int, ...], radius_zyx: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return balls around the points, each its own distance transform scaled to 1 at the centre, joined by maximum.

    `radius_zyx` is in voxels; the distance is measured in units of the radius along each axis, so that a ball given in
    millimetres is round in millimetres. Balls are cut at the border of the grid.
    """
    half = np.floor(radius_zyx).astype(int)
    offsets = np.stack(np.meshgrid(*(np.arange(-h - 1, h + 2) for h in half), indexing="ij"), axis=-1)
    inside = ((offsets / radius_zyx) ** 2).sum(axis=-1) <= 1.0
    stamp = ndimage.distance_transform_edt(inside, sampling=radius_zyx.max() / radius_zyx)
    stamp = (stamp / stamp.max()).astype(np.float32)
    canvas = np.zeros([n + 2 * (h + 1) for n, h in zip(shape_zyx, half, strict=True)], dtype=np.float32)
    for point in _inside(points_zyx, shape_zyx):
        window = canvas[tuple(slice(p, p + n) for p, n in zip(point, stamp.shape, strict=True))]
        np.maximum(window, stamp, out=window)
    return canvas[tuple(slice(h + 1, h + 1 + n) for n, h in zip(shape_zyx, half, strict=True))]


def _distance_mm(
    points_zyx: Points, shape: tuple[int, ...], spacing_zyx: Sequence[float], device: torch.device | None
) -> torch.Tensor:
    """Return the distance to the nearest point in mm, shape (z, y, x); infinite without a point."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    nearest = torch.full(shape, torch.inf, device=device)
    for point in points_zyx.tolist():
        z, y, x = (((axis - p) * s) ** 2 for axis, p, s in zip(axes, point, spacing_zyx, strict=True))
        torch.minimum(nearest, z[:, None, None] + y[:, None] + x, out=nearest)
    return nearest.sqrt_()


def _inside(points_zyx: Points, shape_zyx: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the points as whole indices, without those that lie outside the grid."""
    indices = np.rint(points_zyx).astype(np.int64)
    kept: NDArray[np.int64] = indices[((indices >= 0) & (indices < np.asarray(shape_zyx))).all(axis=1)]
    return kept


def to_network_grid(
    points_zyx: NDArray[np.number],
    crop_bounds: Sequence[Sequence[int]],
    network_shape: Sequence[int],
    align: Align,
) -> Points:
    """Carry voxel indices of the image to the network's grid.

    Parameters
    ----------
    points_zyx
        Indices on the image, shape (n, 3).
    crop_bounds
        Half-open bounds (low, high) along z, y, x of the part that nnU-Net cropped and resampled.
    network_shape
        Shape (z, y, x) after resampling.
    align
        ``centre`` maps voxel centres to each other; ``corner`` multiplies the index and rounds half to even.

    Returns
    -------
    NDArray
        Indices on the network's grid, shape (n, 3), float64, inside that grid.
    """
    low, high = np.asarray(crop_bounds, dtype=np.float64).T
    points = np.clip(np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3) - low, 0, high - low - 1)
    scale = np.asarray(network_shape) / (high - low)
    moved = np.rint(points * scale) if align == "corner" else (points + 0.5) * scale - 0.5
    clipped: Points = np.clip(moved, 0, np.asarray(network_shape) - 1)
    return clipped
