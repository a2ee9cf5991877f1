"""Images become what a network sees, and its logits come back to the image: nnU-Net's preprocessing, there and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.cropping.cropping import crop_to_nonzero
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.preprocessing.resampling.default_resampling import compute_new_shape, resample_data_or_seg_to_shape
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lesionclick.network.model_folder import ModelFolder
from lesionclick.network.resampling import resample
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


def preprocess(
    model: ModelFolder,
    channels: NDArray[np.number],
    spacing_zyx: Sequence[float],
    *,
    body: NDArray[np.bool_] | None = None,
    device: torch.device | None = None,
    exact: bool = False,
) -> NetworkInput:
    """Transpose, crop, normalise and resample the channels of a case as nnU-Net does.

    Parameters
    ----------
    model
        The model folder, whose plans say how.
    channels
        Shape (channel, z, y, x).
    spacing_zyx
        Voxel size in mm.
    body
        Where a prediction is wanted, shape (z, y, x). With stage ``network`` the result is cut to the box around it;
        with stage ``image`` it is not, so that the tiles stay nnU-Net's.
    device
        Where the result lies; by default the CPU.
    exact
        Let nnU-Net's own code do all of it. Otherwise its default resampling is done by
        `lesionclick.network.resampling`, whose voxels differ by rounding.
    """
    preprocessor = model.configuration.preprocessor_class(verbose=False)
    properties: dict[str, Any] = {"spacing": list(spacing_zyx)}
    if not exact and type(preprocessor) is DefaultPreprocessor and _resampling_of(model, "data") is not None:
        images = _preprocess(preprocessor, model, channels, properties, device=device)
    else:
        found, _, properties = preprocessor.run_case_npy(
            channels, None, properties, model.plans, model.configuration, model.dataset
        )
        images = torch.from_numpy(np.asarray(found)).to(device)
    case = NetworkInput(
        images,
        needed=None,
        origin=(0, 0, 0),
        grid_shape=tuple(images.shape[1:]),
        shape=tuple(properties["shape_before_cropping"]),
        bounds=tuple((int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]),
        spacing=tuple(spacing_zyx[axis] for axis in model.plans.transpose_forward),
    )
    if body is None or not body.any():
        return case
    inside = torch.from_numpy(body.transpose(model.plans.transpose_forward)[case.window])
    case = replace(case, needed=_shrink_mask(inside.to(device), case.grid_shape))
    return case if model.prompt.stage == "image" else _focus(case, model.configuration.patch_size)


def _preprocess(
    preprocessor: DefaultPreprocessor,
    model: ModelFolder,
    channels: NDArray[np.number],
    properties: dict[str, Any],
    *,
    device: torch.device | None,
) -> Tensor:
    """Do as `DefaultPreprocessor.run_case_npy` does, with a fast resampling; add to `properties` what it adds."""
    forward = model.plans.transpose_forward
    data = channels.astype(np.float32).transpose([0, *(axis + 1 for axis in forward)])
    spacing = [properties["spacing"][axis] for axis in forward]
    properties["shape_before_cropping"] = data.shape[1:]
    data, outside, properties["bbox_used_for_cropping"] = crop_to_nonzero(data)
    intensities = model.plans.foreground_intensity_properties_per_channel
    data = preprocessor._normalize(data, outside, model.configuration, intensities)
    target = model.configuration.spacing
    shape = compute_new_shape(data.shape[1:], spacing, target)
    return resample(data, shape, spacing, target, device=device, **(_resampling_of(model, "data") or {}))


def _resampling_of(model: ModelFolder, what: str) -> dict[str, Any] | None:
    """Return the options of nnU-Net's default resampling of ``data`` or ``probabilities``; None if it is another."""
    settings = model.configuration.configuration
    if settings[f"resampling_fn_{what}"] != resample_data_or_seg_to_shape.__name__:
        return None
    options = dict(settings[f"resampling_fn_{what}_kwargs"])
    known = {"order", "order_z", "force_separate_z"}
    return None if options.pop("is_seg", False) or set(options) - known else options


def index_on_network(model: ModelFolder, case: NetworkInput, indices_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
    """Carry voxel indices (z, y, x) of the image to the part of the network's grid that `case.images` is; (n, 3)."""
    transposed = indices_zyx[:, list(model.plans.transpose_forward)]
    return to_network_grid(transposed, case.bounds, case.grid_shape, model.prompt.align) - case.origin


def lesion_logit_on_image(
    model: ModelFolder, case: NetworkInput, logits: Tensor, *, exact: bool = False
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
    logits
        Of background and lesion, shape (2, z, y, x), NaN where nothing was predicted; on the grid of `case.images`.
    exact
        Do as nnU-Net does, to the voxel; then there is a prediction everywhere.

    Returns
    -------
    NDArray
        The lesion's logit minus the background's on the image's grid, shape (z, y, x), float32; `OUTSIDE_LOGIT` where
        nothing was predicted.
    """
    whole = logits.new_full((len(logits), *case.grid_shape), torch.nan)
    spans = [
        (max(start, 0), min(start + n, full), start)
        for start, n, full in zip(case.origin, logits.shape[1:], case.grid_shape, strict=True)
    ]
    target = [slice(low, high) for low, high, _ in spans]
    whole[:, *target] = logits[:, *(slice(low - start, high - start) for low, high, start in spans)]
    if not exact:
        difference = whole[1].float() - whole[0].float()
        whole = difference.nan_to_num(nan=OUTSIDE_LOGIT)[None]
    cropped_shape = [high - low for low, high in case.bounds]
    spacings = model.configuration.spacing, case.spacing
    options = None if exact else _resampling_of(model, "probabilities")
    if options is None:
        resampled = model.configuration.resampling_fn_probabilities(whole, cropped_shape, *spacings)
    else:
        resampled = resample(whole, cropped_shape, *spacings, **options)
    channels = np.asarray(resampled, dtype=np.float32)
    lesion_logit = np.full(case.shape, OUTSIDE_LOGIT, dtype=np.float32)
    lesion_logit[case.window] = channels[-1] if len(channels) == 1 else channels[1] - channels[0]
    return np.ascontiguousarray(lesion_logit.transpose(model.plans.transpose_backward))


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
    clipped: NDArray[np.float64] = np.clip(moved, 0, np.asarray(network_shape) - 1)
    return clipped


def _focus(case: NetworkInput, patch_size: Sequence[int]) -> NetworkInput:
    """Cut a case to the bounding box of what is needed, padded with air up to the patch.

    Tiles are not spent on the air around a body, and click channels are made on the padded grid, as in training; zeros
    would mean something else in them.
    """
    assert case.needed is not None
    low, high = (corner.tolist() for corner in case.needed.nonzero().aminmax(dim=0))
    box = [slice(a, b + 1) for a, b in zip(low, high, strict=True)]
    missing = [max(n - (b + 1 - a), 0) for a, b, n in zip(low, high, patch_size, strict=True)]
    padding = [side for n in reversed(missing) for side in (n // 2, n - n // 2)]
    return replace(
        case,
        images=functional.pad(case.images[:, *box], padding),
        needed=functional.pad(case.needed[*box], padding),
        origin=tuple(a - n // 2 for a, n in zip(low, missing, strict=True)),
    )


def _shrink_mask(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Bring a mask to another shape: all voxels that overlap it, and their neighbours, which interpolation needs."""
    pooled = functional.adaptive_max_pool3d(mask[None].float(), shape)
    return functional.max_pool3d(pooled, 3, stride=1, padding=1)[0].bool()
