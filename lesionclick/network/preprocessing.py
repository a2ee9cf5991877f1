"""Images become what a network sees, and its logits come back to the image: nnU-Net's preprocessing, there and back."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lesionclick.errors import InputError
from lesionclick.network.model_folder import DEFAULT_PREPROCESSOR, ModelFolder
from lesionclick.network.resampling import Resampling, Window, find_resampling
from lesionclick.prompts.spec import Align

OUTSIDE_LOGIT = -10.0
"""Lesion logit of voxels that are not predicted: sure background (5e-5 as a probability), yet in the range of logits,
so that interpolation and corrections around it stay mild."""


@dataclass(frozen=True)
class NetworkInput:
    """A preprocessed case.

    Attributes
    ----------
    images
        Shape (channel, z, y, x), a part of the network's grid.
    needed
        Where in that part a prediction is wanted, shape (z, y, x), bool; None for everywhere.
    origin
        Index of the part's first voxel on the network's grid along z, y, x, negative where it is padded.
    grid_shape
        Shape of the network's grid.
    shape
        Shape of the transposed image.
    bounds
        Half-open bounds (low, high) along z, y, x of the part of the transposed image that nnU-Net cropped.
    spacing
        Voxel size of the transposed image in mm.
    """

    images: Tensor
    needed: Tensor | None
    origin: tuple[int, ...]
    grid_shape: tuple[int, ...]
    shape: tuple[int, ...]
    bounds: tuple[tuple[int, int], ...]
    spacing: tuple[float, ...]

    @property
    def window(self) -> tuple[slice, ...]:
        """The part of the transposed image that nnU-Net cropped."""
        return tuple(slice(low, high) for low, high in self.bounds)

    def without_images(self) -> NetworkInput:
        """Return the same for what follows the networks, which leaves the memory of the images to it."""
        return replace(self, images=self.images.new_empty(0))


def preprocess(
    model: ModelFolder,
    channels: Sequence[NDArray[np.number]],
    spacing_zyx: Sequence[float],
    *,
    body: NDArray[np.bool_] | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    exact: bool = False,
) -> NetworkInput:
    """Transpose, crop, normalise and resample the channels of a case as nnU-Net does.

    Parameters
    ----------
    model
        The model folder, whose plans say how.
    channels
        Each of shape (z, y, x).
    spacing_zyx
        Voxel size in mm.
    body
        Where a prediction is wanted, shape (z, y, x). With stage ``network`` the result is cut to the box around it;
        with stage ``image`` it is not, so that the tiles stay nnU-Net's.
    device
        Where the result lies; by default the CPU.
    dtype
        Of the result.
    exact
        Let nnU-Net's own code do all of it. Otherwise its resamplings are done by `lesionclick.network.resampling`,
        channel by channel, so that one at a time is in memory; the voxels of the default one differ by rounding.

    Raises
    ------
    InputError
        If the image is thinner than half a voxel of the network's grid.
    """
    forward = model.plans.transpose_forward
    spacing, target = [spacing_zyx[axis] for axis in forward], model.configuration.spacing
    cropped = [channel.transpose(forward) for channel in channels]
    bounds = _bounds_of_nonzero(cropped)
    sizes = [high - low for low, high in bounds]
    grid_shape = tuple(round(old / new * n) for old, new, n in zip(spacing, target, sizes, strict=True))
    if 0 in grid_shape:
        raise InputError(
            f"expected an image of at least half a voxel of the network, which has {_show_mm(target)} mm, found one of "
            f"{sizes} voxels (without zeros at its borders) of {_show_mm(spacing)} mm, along the network's axes"
        )
    resampling = None if exact else _find_fast_way(model)
    if resampling is None:
        images, bounds = _preprocess_by_nnunet(model, channels, spacing_zyx)
        grid_shape = tuple(images.shape[1:])
    crop = tuple(slice(low, high) for low, high in bounds)
    needed, window, padding = None, tuple(slice(0, n) for n in grid_shape), [0] * 6
    if body is not None and body.any():
        needed = _shrink_mask(torch.from_numpy(body.transpose(forward)[crop]).to(device), grid_shape)
        if model.prompt.stage == "network":
            window, padding = _focus(needed, model.configuration.patch_size)
            needed = functional.pad(needed[window], padding)
    if resampling is None:
        images = images[:, *window].to(device, dtype)
    else:
        shape = [axis.stop - axis.start for axis in window]
        images = torch.empty((len(channels), *shape), device=device, dtype=dtype)
        for image, channel in zip(images, _normalised(model, [channel[crop] for channel in cropped]), strict=True):
            image[:] = resampling(channel.to(device), grid_shape, spacing, target, window=window)
    return NetworkInput(
        functional.pad(images, padding) if any(padding) else images,
        needed,
        origin=tuple(axis.start - low for axis, low in zip(window, padding[4::-2], strict=True)),
        grid_shape=grid_shape,
        shape=tuple(channels[0].shape[axis] for axis in forward),
        bounds=bounds,
        spacing=tuple(spacing),
    )


def _show_mm(spacing: Sequence[float]) -> str:
    return " x ".join(f"{mm:.4g}" for mm in spacing)


def _preprocess_by_nnunet(
    model: ModelFolder, channels: Sequence[NDArray[np.number]], spacing_zyx: Sequence[float]
) -> tuple[Tensor, tuple[tuple[int, int], ...]]:
    """Return the images and the bounds of the crop by nnU-Net's own code."""
    images, _, properties = model.configuration.preprocessor_class(verbose=False).run_case_npy(
        np.stack(channels), None, {"spacing": list(spacing_zyx)}, model.plans, model.configuration, model.dataset
    )
    bounds = tuple((int(low), int(high)) for low, high in properties["bbox_used_for_cropping"])
    return torch.from_numpy(np.asarray(images)), bounds


def _find_fast_way(model: ModelFolder) -> Resampling | None:
    """Return the resampling of images if all that the plans ask for before the network is known here."""
    configuration = model.configuration
    known = (
        configuration.preprocessor_name == DEFAULT_PREPROCESSOR
        and not any(configuration.use_mask_for_norm)
        and all(hasattr(default_normalization_schemes, name) for name in configuration.normalization_schemes)
    )
    return _resampling_of(model, "data") if known else None


def _resampling_of(model: ModelFolder, what: str) -> Resampling | None:
    settings = model.configuration.configuration
    return find_resampling(settings[f"resampling_fn_{what}"], settings[f"resampling_fn_{what}_kwargs"])


def _bounds_of_nonzero(channels: Sequence[NDArray[np.number]]) -> tuple[tuple[int, int], ...]:
    """Return half-open bounds along z, y, x of where any channel is not zero, as nnU-Net crops; of all if none is."""
    bounds = []
    for axis, size in enumerate(channels[0].shape):
        others = tuple(other for other in range(3) if other != axis)
        inside = np.flatnonzero(np.any([channel.any(axis=others) for channel in channels], axis=0))
        bounds.append((int(inside[0]), int(inside[-1]) + 1) if len(inside) else (0, size))
    return tuple(bounds)


def _normalised(model: ModelFolder, channels: Sequence[NDArray[np.number]]) -> Iterator[Tensor]:
    """Yield the channels, each normalised by nnU-Net as the plans say, in memory that one leaves to the next."""
    intensities = model.plans.foreground_intensity_properties_per_channel
    memory = torch.empty(channels[0].shape)
    for number, (channel, name) in enumerate(zip(channels, model.configuration.normalization_schemes, strict=True)):
        scheme = getattr(default_normalization_schemes, name)
        normalisation = scheme(use_mask_for_norm=False, intensityproperties=intensities[str(number)])
        memory.copy_(torch.from_numpy(channel))  # by all threads
        yield torch.from_numpy(normalisation.run(memory.numpy()))


def index_on_network(
    model: ModelFolder, case: NetworkInput, indices_zyx: NDArray[np.float64], align: Align = "centre"
) -> NDArray[np.float64]:
    """Carry voxel indices (z, y, x) of the image to the part of the network's grid that `case.images` is; (n, 3).

    Where voxels lie, only ``centre`` tells; a model's own `align` is for the prompts that it was trained with.
    """
    transposed = indices_zyx[:, list(model.plans.transpose_forward)]
    return to_network_grid(transposed, case.bounds, case.grid_shape, align) - case.origin


def on_whole_grid(case: NetworkInput, logits: Tensor, *, exact: bool = False) -> Tensor:
    """Return logits on all of the network's grid, or unless `exact` the lesion's minus the background's.

    Parameters
    ----------
    case
        What the logits were predicted from.
    logits
        Of background and lesion, shape (2, z, y, x), NaN where nothing was predicted; on the grid of `case.images`.
    exact
        Leave both as they are.

    Returns
    -------
    Tensor
        Shape (2, z, y, x) where `exact`; else (1, z, y, x), float32. Where nothing was predicted, the lesion's logit is
        `OUTSIDE_LOGIT` more than the background's.
    """
    spans = [
        (max(start, 0), min(start + n, full), start)
        for start, n, full in zip(case.origin, logits.shape[1:], case.grid_shape, strict=True)
    ]
    part = logits[:, *(slice(low - start, high - start) for low, high, start in spans)]
    if exact and part[0].isnan().any():  # there was no time for some tiles, and a spline would spread it
        part = torch.stack([part[0].nan_to_num(nan=0.0), part[1].nan_to_num(nan=OUTSIDE_LOGIT)])
    elif not exact:  # one copy, as a whole body is large
        part = part[1].to(torch.float32, copy=True).sub_(part[0]).nan_to_num_(nan=OUTSIDE_LOGIT)[None]
    if part.shape[1:] == case.grid_shape:
        return part
    whole = part.new_full((len(part), *case.grid_shape), OUTSIDE_LOGIT)
    if exact:
        whole[0] = 0
    whole[:, *(slice(low, high) for low, high, _ in spans)] = part
    return whole


def lesion_logit_on_image(
    model: ModelFolder, case: NetworkInput, whole: Tensor, *, exact: bool = False
) -> NDArray[np.float32]:
    """Resample logits with the plans' function, undo crop and transposition, and return the lesion's logit.

    nnU-Net rounds both resampled logits to half precision before it compares them; otherwise the difference alone is
    resampled, at half the cost.

    Parameters
    ----------
    model
        The model folder.
    case
        What the logits were predicted from.
    whole
        What `on_whole_grid` returns.
    exact
        Do as nnU-Net does, to the voxel.

    Returns
    -------
    NDArray
        The lesion's logit minus the background's on the image's grid, shape (z, y, x), float32; `OUTSIDE_LOGIT` where
        nothing was predicted.
    """
    cropped_shape = [high - low for low, high in case.bounds]
    spacings = model.configuration.spacing, case.spacing
    resampling = None if exact else _resampling_of(model, "probabilities")
    if resampling is None:
        resampled = model.configuration.resampling_fn_probabilities(whole, cropped_shape, *spacings)
        channels: NDArray[np.float32] = np.asarray(resampled, dtype=np.float32)
        difference = channels[-1] if len(channels) == 1 else channels[1] - channels[0]
    else:
        difference = resampling(whole[0], cropped_shape, *spacings).numpy()
    if difference.shape != case.shape:
        inside = difference
        difference = np.full(case.shape, OUTSIDE_LOGIT, dtype=np.float32)
        difference[case.window] = inside
    return np.ascontiguousarray(difference.transpose(model.plans.transpose_backward))


def to_network_grid(
    points_zyx: NDArray[np.float64],
    crop_bounds: Sequence[Sequence[int]],
    network_shape: Sequence[int],
    align: Align,
) -> NDArray[np.float64]:
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
        ``centre`` maps voxel centres to each other and keeps to the voxels of both grids. ``corner`` is the recipe of
        the second-placed team of autoPET/CT IV: shift by the crop's lower bounds, clamp to 0 and the cropped shape,
        multiply, round half to even.

    Returns
    -------
    NDArray
        Indices on the network's grid, shape (n, 3), float64; inside that grid, with ``corner`` up to its shape.
    """
    low, high = np.asarray(crop_bounds, dtype=np.float64).T
    shifted = np.asarray(points_zyx, dtype=np.float64).reshape(-1, 3) - low
    scale = np.asarray(network_shape) / (high - low)
    if align == "corner":
        rounded: NDArray[np.float64] = np.rint(np.clip(shifted, 0, high - low) * scale)
        return rounded
    moved = (np.clip(shifted, 0, high - low - 1) + 0.5) * scale - 0.5
    inside: NDArray[np.float64] = np.clip(moved, 0, np.asarray(network_shape) - 1)
    return inside


def _focus(needed: Tensor, patch_size: Sequence[int]) -> tuple[Window, list[int]]:
    """Return the bounding box of what is needed, and the padding with air up to the patch, as `pad` takes it.

    Tiles are not spent on the air around a body, and click channels are made on the padded grid, as in training; zeros
    would mean something else in them.
    """
    low, high = (corner.tolist() for corner in needed.nonzero().aminmax(dim=0))
    missing = [max(n - (b + 1 - a), 0) for a, b, n in zip(low, high, patch_size, strict=True)]
    padding = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
    return tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True)), padding


def _shrink_mask(mask: Tensor, shape: Sequence[int]) -> Tensor:
    """Bring a mask to another shape: all voxels that overlap it, and their neighbours, which interpolation needs."""
    for axis, new in enumerate(shape):  # a box is hit where each of its axes is, one after the other
        old = mask.shape[axis]
        first = torch.arange(new, device=mask.device) * old // new
        last = ((torch.arange(new, device=mask.device) + 1) * old - 1) // new
        hit = mask.index_select(axis, first)
        for further in range(1, int((last - first).max()) + 1):
            hit |= mask.index_select(axis, torch.minimum(first + further, last))
        mask = hit.clone()  # and the voxels beside
        mask.narrow(axis, 1, new - 1).logical_or_(hit.narrow(axis, 0, new - 1))
        mask.narrow(axis, 0, new - 1).logical_or_(hit.narrow(axis, 1, new - 1))
    return mask
