"""Encodings: how prompts become channels beside the images. One class each, in a registry by name. Pure.

A prompt's index need not be whole. Arrays are (z, y, x), tensors (channel, z, y, x) in float32.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.prompts.painting import Unit, box_around, distance_mm, in_mm, in_voxels, inside_grid, paint_balls
from lesionclick.prompts.points import (
    BACKGROUND,
    SAME_LESION_MM,
    STROKE_LINK_MM,
    STROKE_POINTS,
    TUMOR,
    Prompts,
    is_first_on_lesion,
)

GAUSSIAN_TRUNCATE = 4.0
"""Standard deviations at which SciPy's Gaussian filter ends, by its default."""
NEAR_TRUNCATE = 5.0
"""Standard deviations at which the near fields end: the tail would be denormal numbers, which slow a CPU's convolutions
tenfold."""
FIRST, FURTHER = "first", "further"
"""Marks of `Fields`: the first click on a lesion, or a stroke, and further clicks."""


class Mark(NamedTuple):
    """A place that is painted, and how.

    Attributes
    ----------
    how
        Tells marks apart that are painted differently.
    index_zyx
        Voxel index.
    """

    how: str
    index_zyx: tuple[float, ...]


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

    @abstractmethod
    def marks(self, prompts: Prompts, spacing_zyx: Sequence[float]) -> list[Mark]:
        """Return all that the channels are painted from, in any order: with the same marks they are the same."""

    @abstractmethod
    def mark_reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return the distance in mm beyond which a mark changes no voxel, which is `reach_mm` or less.

        A prompt may reach farther, where it decides how another one is marked.
        """


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
        sigma = in_voxels(self.radius, self.unit, spacing_zyx)
        channels = np.zeros((2, *shape_zyx), dtype=np.float32)
        for channel, kind in zip(channels, (TUMOR, BACKGROUND), strict=True):
            channel[tuple(inside_grid(prompts.indices_zyx(kind), channel.shape).T)] = 1.0
            if channel.any():
                channel[:] = ndimage.gaussian_filter(channel, sigma=sigma, truncate=GAUSSIAN_TRUNCATE)
        return torch.from_numpy(channels).to(device)

    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return the distance to the corner of the filter's box."""
        sigma = in_voxels(self.radius, self.unit, spacing_zyx)
        box = np.floor(GAUSSIAN_TRUNCATE * sigma + 0.5) + 0.5  # a point is rounded to a voxel first
        return float(np.linalg.norm(box * np.asarray(spacing_zyx)))

    def marks(self, prompts: Prompts, spacing_zyx: Sequence[float]) -> list[Mark]:
        """Return the points by their kinds."""
        del spacing_zyx
        return _marks_by_kind(prompts)

    def mark_reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return `reach_mm`."""
        return self.reach_mm(spacing_zyx)


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
        radius = in_voxels(self.radius, self.unit, spacing_zyx)
        kinds = (paint_balls(prompts.indices_zyx(kind), tuple(shape_zyx), radius) for kind in (TUMOR, BACKGROUND))
        return torch.from_numpy(np.stack(list(kinds))).to(device)

    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return the radius, and half a voxel by which a point is rounded."""
        radius = in_voxels(self.radius, self.unit, spacing_zyx)
        return float(np.linalg.norm(np.asarray(spacing_zyx) / 2) + (radius * np.asarray(spacing_zyx)).max())

    def marks(self, prompts: Prompts, spacing_zyx: Sequence[float]) -> list[Mark]:
        """Return the points by their kinds."""
        del spacing_zyx
        return _marks_by_kind(prompts)

    def mark_reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return `reach_mm`."""
        return self.reach_mm(spacing_zyx)


@dataclass(frozen=True)
class Fields(PointEncoding):
    """Near and far distance fields, the first click of each lesion apart from the further ones.

    The channels are: near the first clicks of lesions, near further ones, near background points, far from tumour
    points, far from background points; strokes of tumour count as first clicks. Near is exp(-(d / radius)^2 / 2) of the
    distance d to the nearest point, far is exp(-d / `far_mm`), which with a cut-off is lowered and scaled so that it
    falls from 1 to 0 at `cutoff_mm`.

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
        return self.paint(self.marks(prompts, spacing_zyx), shape_zyx, spacing_zyx, device)

    def paint(
        self,
        marks: Iterable[Mark],
        shape_zyx: Sequence[int],
        spacing_zyx: Sequence[float],
        device: torch.device | None = None,
    ) -> torch.Tensor:
        """Return the channels of marks, in any order; the other arguments and the result are those of `encode`."""
        places: dict[str, list[tuple[float, ...]]] = {FIRST: [], FURTHER: [], BACKGROUND: []}
        for mark in marks:
            places[mark.how].append(mark.index_zyx)
        by_kind = [np.array(of_kind, dtype=np.float64).reshape(-1, 3) for of_kind in places.values()]
        reach_mm = self.mark_reach_mm(spacing_zyx)
        box = box_around(np.concatenate(by_kind), shape_zyx, spacing_zyx, reach_mm=reach_mm)
        distances = [distance_mm(points, box, spacing_zyx, reach_mm=reach_mm, device=device) for points in by_kind]
        sigma = in_mm(self.radius, self.unit, spacing_zyx)
        near = [torch.where(d < NEAR_TRUNCATE * sigma, torch.exp(-((d / sigma) ** 2) / 2), 0.0) for d in distances]
        far = [self._far(d) for d in (torch.minimum(*distances[:2]), distances[2])]
        channels = torch.zeros((self.n_channels, *shape_zyx), device=device)
        channels[:, *box] = torch.stack(near + far)
        return channels

    def reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return where the last of the fields ends, its own or that of a point that is marked otherwise because of it.

        That is a click that is not the first on its lesion, or the end of a chain that is too short for a stroke
        without this point.
        """
        if self.cutoff_mm is None:
            return math.inf
        decides_mm = max(SAME_LESION_MM, (STROKE_POINTS - 1) * STROKE_LINK_MM)
        return max(self.cutoff_mm, decides_mm + NEAR_TRUNCATE * in_mm(self.radius, self.unit, spacing_zyx))

    def marks(self, prompts: Prompts, spacing_zyx: Sequence[float]) -> list[Mark]:
        """Return the first clicks on lesions with the strokes, further clicks, and background points."""
        tumor, background = (prompts.indices_zyx(kind) for kind in (TUMOR, BACKGROUND))
        first = is_first_on_lesion(tumor, spacing_zyx)
        kinds = ((FIRST, tumor[first]), (FURTHER, tumor[~first]), (BACKGROUND, background))
        return [Mark(how, tuple(place)) for how, places in kinds for place in places.tolist()]

    def mark_reach_mm(self, spacing_zyx: Sequence[float]) -> float:
        """Return where the last of the fields ends."""
        if self.cutoff_mm is None:
            return math.inf
        return max(self.cutoff_mm, NEAR_TRUNCATE * in_mm(self.radius, self.unit, spacing_zyx))

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
                radius_mm = in_mm(self.radius, self.unit, spacing_zyx)
                channel[:] = np.exp(-np.sqrt(z[:, None, None] + y[:, None] + x) / radius_mm)
        return channels


ENCODINGS: dict[str, type[Encoding]] = {kind.name: kind for kind in (Gaussian, Ball, Fields, LesionPair)}
"""All encodings that a `prompt.json` may name."""


def _marks_by_kind(prompts: Prompts) -> list[Mark]:
    return [Mark(kind, tuple(place)) for kind in (TUMOR, BACKGROUND) for place in prompts.indices_zyx(kind).tolist()]
