"""Encodings: how prompts become channels beside the images. One class each, in a registry by name. Pure.

A prompt's index need not be whole. Arrays are (z, y, x), tensors (channel, z, y, x) in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.prompts.points import BACKGROUND, SAME_LESION_MM, TUMOR, Prompts, is_first_on_lesion

Unit = Literal["voxel", "mm"]

GAUSSIAN_TRUNCATE = 4.0
"""Standard deviations at which SciPy's Gaussian filter ends, by its default."""
NEAR_TRUNCATE = 5.0
"""Standard deviations at which the near fields end: the tail would be denormal numbers, which slow a CPU's convolutions
tenfold."""


class Encoding(ABC):
    """How what a person says becomes channels.

    Attributes
    ----------
    name
        Its name in a `prompt.json`.
    n_channels
        Number of channels that it adds to those of the images in ``dataset.json``.
    """

    name: ClassVar[str]
    n_channels: ClassVar[int]


class PointEncoding(Encoding):
    """An encoding of points of the kinds tumour and background, for Task 1."""

    @abstractmethod
    def encode(
        self,
        prompts: Prompts,
        shape_zyx: Sequence[int],
        spacing_zyx: Sequence[float],
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Turn prompts into channels.

        Parameters
        ----------
        prompts
            Points on the grid of the channels.
        shape_zyx
            Shape (z, y, x) of the channels.
        spacing_zyx
            Voxel size in mm.
        device
            Where the channels are made; by default the CPU.

        Returns
        -------
        torch.Tensor
            Shape (`n_channels`, z, y, x), float32; tumour before background.
        """

    @abstractmethod
    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return the distance in mm beyond which a prompt changes no voxel; infinite where it changes all."""


@dataclass(frozen=True)
class Gaussian(PointEncoding):
    """The official baseline's heatmaps: ones at the clicked voxels of each kind, smoothed by one Gaussian filter.

    Points outside the grid are ignored and repeated points count once, as in the organisers' script.

    Attributes
    ----------
    radius
        Standard deviation.
    unit
        Unit of `radius`.
    """

    name: ClassVar[str] = "gaussian"
    n_channels: ClassVar[int] = 2

    radius: float
    unit: Unit = "voxel"

    def encode(
        self,
        prompts: Prompts,
        shape_zyx: Sequence[int],
        spacing_zyx: Sequence[float],
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Turn prompts into channels; see `PointEncoding.encode`."""
        sigma = _in_voxels(self.radius, self.unit, spacing_zyx)
        channels = np.zeros((2, *shape_zyx), dtype=np.float32)
        for channel, kind in zip(channels, (TUMOR, BACKGROUND), strict=True):
            channel[tuple(_inside(prompts.indices_zyx(kind), channel.shape).T)] = 1.0
            if channel.any():
                channel[:] = ndimage.gaussian_filter(channel, sigma=sigma, truncate=GAUSSIAN_TRUNCATE)
        return torch.from_numpy(channels).to(device)

    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return the distance to the corner of the filter's box."""
        sigma = _in_voxels(self.radius, self.unit, spacing_zyx)
        box = np.floor(GAUSSIAN_TRUNCATE * sigma + 0.5) + 0.5  # a point is rounded to a voxel first
        return float(np.linalg.norm(box * np.asarray(spacing_zyx)))


@dataclass(frozen=True)
class Ball(PointEncoding):
    """Balls around the points of each kind, each its own distance transform scaled to 1 at the centre.

    Balls are joined by maximum and cut at the border of the grid. The recipe of the second-placed team of autoPET/CT IV
    (LesionLocator).

    Attributes
    ----------
    radius
        Of the ball.
    unit
        Unit of `radius`; a ball in mm is round in mm.
    """

    name: ClassVar[str] = "ball"
    n_channels: ClassVar[int] = 2

    radius: float
    unit: Unit = "voxel"

    def encode(
        self,
        prompts: Prompts,
        shape_zyx: Sequence[int],
        spacing_zyx: Sequence[float],
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Turn prompts into channels; see `PointEncoding.encode`."""
        radius = _in_voxels(self.radius, self.unit, spacing_zyx)
        kinds = (_paint_balls(prompts.indices_zyx(kind), tuple(shape_zyx), radius) for kind in (TUMOR, BACKGROUND))
        return torch.from_numpy(np.stack(list(kinds))).to(device)

    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return the radius, and half a voxel by which a point is rounded."""
        radius = _in_voxels(self.radius, self.unit, spacing_zyx)
        return float(np.linalg.norm(np.asarray(spacing_zyx) / 2) + (radius * np.asarray(spacing_zyx)).max())


@dataclass(frozen=True)
class Fields(PointEncoding):
    """Near and far distance fields, the first click of each lesion apart from the further ones.

    The channels are: near the first clicks of lesions, near further ones, near background clicks, far from tumour
    clicks, far from background clicks. Near is exp(-(d / radius)^2 / 2) of the distance d to the nearest point, far is
    exp(-d / `far_mm`), which with a cut-off is lowered and scaled so that it falls from 1 to 0 at `cutoff_mm`.

    Attributes
    ----------
    radius
        Standard deviation of the near fields.
    unit
        Unit of `radius`.
    far_mm
        Length constant of the far fields in mm.
    cutoff_mm
        Distance at which the far fields end, in mm; None for never.
    """

    name: ClassVar[str] = "fields"
    n_channels: ClassVar[int] = 5

    radius: float
    unit: Unit = "mm"
    far_mm: float = 30.0
    cutoff_mm: float | None = None

    def encode(
        self,
        prompts: Prompts,
        shape_zyx: Sequence[int],
        spacing_zyx: Sequence[float],
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Turn prompts into channels; see `PointEncoding.encode`. The order of tumour points matters."""
        tumor, background = (prompts.indices_zyx(kind) for kind in (TUMOR, BACKGROUND))
        first = is_first_on_lesion(tumor, spacing_zyx)
        distances = [
            _distance_mm(points, tuple(shape_zyx), spacing_zyx, device)
            for points in (tumor[first], tumor[~first], background)
        ]
        sigma = self._sigma_mm(spacing_zyx)
        near = [torch.where(d < NEAR_TRUNCATE * sigma, torch.exp(-((d / sigma) ** 2) / 2), 0.0) for d in distances]
        far = [self._far(d) for d in (torch.minimum(*distances[:2]), distances[2])]
        return torch.stack(near + far)

    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return where the last of the fields ends, its own or that of a click that is not the first because of it."""
        if self.cutoff_mm is None:
            return math.inf
        return max(self.cutoff_mm, SAME_LESION_MM + NEAR_TRUNCATE * self._sigma_mm(spacing_zyx))

    def _sigma_mm(self, spacing_zyx: Sequence[float]) -> float:
        return self.radius if self.unit == "mm" else self.radius * float(np.mean(spacing_zyx))

    def _far(self, distance_mm: torch.Tensor) -> torch.Tensor:
        field = torch.exp(-distance_mm / self.far_mm)
        if self.cutoff_mm is None:
            return field
        end = math.exp(-self.cutoff_mm / self.far_mm)
        return ((field - end) / (1 - end)).clamp_(min=0.0)


@dataclass(frozen=True)
class LesionPair(Encoding):
    """One lesion's baseline beside its follow-up, for Task 2: baseline CT, baseline mask, and a point in each scan.

    Attributes
    ----------
    radius
        Length constant of the points.
    unit
        Unit of `radius`.
    mask_mm
        Length constant of the mask in mm.
    """

    name: ClassVar[str] = "pair"
    n_channels: ClassVar[int] = 4

    radius: float
    unit: Unit = "mm"
    mask_mm: float = 8.0

    def encode(
        self,
        baseline_ct: NDArray[np.float32],
        baseline_mask: NDArray[np.bool_],
        *,
        followup_zyx: NDArray[np.number] | None,
        baseline_zyx: NDArray[np.number] | None,
        spacing_zyx: Sequence[float],
    ) -> NDArray[np.float32]:
        """Turn one lesion's baseline and its two points into channels.

        The mask becomes the hyperbolic tangent of its signed distance over `mask_mm`, positive inside: where a lesion
        has grown or shrunk, the network finds its new border among the level sets of the old. A point becomes
        exp(-distance / `radius`).

        Parameters
        ----------
        baseline_ct
            Patch of the baseline, normalised, shape (z, y, x).
        baseline_mask
            The lesion in it, shape (z, y, x); empty for a lesion that is new.
        followup_zyx, baseline_zyx
            Voxel index of each point, shape (3,), which may lie outside the patch; None gives zeros.
        spacing_zyx
            Voxel size in mm.

        Returns
        -------
        NDArray
            Shape (4, z, y, x), float32: baseline CT, mask (-1 throughout where it is empty), follow-up point, baseline
            point.
        """
        shape = baseline_mask.shape
        channels = np.zeros((self.n_channels, *shape), dtype=np.float32)
        channels[0] = baseline_ct
        channels[1] = -1.0
        if baseline_mask.any():
            inside = ndimage.distance_transform_edt(baseline_mask, sampling=spacing_zyx)
            outside = ndimage.distance_transform_edt(~baseline_mask, sampling=spacing_zyx)
            channels[1] = np.tanh((inside - outside) / self.mask_mm)
        for channel, point in zip(channels[2:], (followup_zyx, baseline_zyx), strict=True):
            if point is not None:
                axes = ((np.arange(n) - p) * s for n, p, s in zip(shape, point, spacing_zyx, strict=True))
                z, y, x = (axis**2 for axis in axes)
                radius_mm = self.radius if self.unit == "mm" else self.radius * float(np.mean(spacing_zyx))
                channel[:] = np.exp(-np.sqrt(z[:, None, None] + y[:, None] + x) / radius_mm)
        return channels


ENCODINGS: dict[str, type[Encoding]] = {kind.name: kind for kind in (Gaussian, Ball, Fields, LesionPair)}
"""All encodings that a `prompt.json` may name."""


def _in_voxels(radius: float, unit: Unit, spacing_zyx: Sequence[float]) -> NDArray[np.float64]:
    """Return a radius in voxels along z, y, x."""
    return radius / np.asarray(spacing_zyx, dtype=np.float64) if unit == "mm" else np.full(3, radius)


def _paint_balls(
    points_zyx: NDArray[np.float64], shape_zyx: tuple[int, ...], radius_zyx: NDArray[np.float64]
) -> NDArray[np.float32]:
    """Return balls of `radius_zyx` voxels, shape (z, y, x); along each axis distances are in units of the radius."""
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
    points_zyx: NDArray[np.float64], shape: tuple[int, ...], spacing_zyx: Sequence[float], device: torch.device | None
) -> torch.Tensor:
    """Return the distance to the nearest point in mm, shape (z, y, x); infinite without a point."""
    axes = [torch.arange(n, device=device, dtype=torch.float32) for n in shape]
    nearest = torch.full(shape, torch.inf, device=device)
    for point in points_zyx.tolist():
        z, y, x = (((axis - p) * s) ** 2 for axis, p, s in zip(axes, point, spacing_zyx, strict=True))
        torch.minimum(nearest, z[:, None, None] + y[:, None] + x, out=nearest)
    return nearest.sqrt_()


def _inside(points_zyx: NDArray[np.float64], shape_zyx: tuple[int, ...]) -> NDArray[np.int64]:
    """Return the points as whole indices, without those that lie outside the grid."""
    indices = np.rint(points_zyx).astype(np.int64)
    kept: NDArray[np.int64] = indices[((indices >= 0) & (indices < np.asarray(shape_zyx))).all(axis=1)]
    return kept
