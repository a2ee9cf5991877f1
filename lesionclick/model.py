"""An nnU-Net v2 model folder, loaded: preprocess, predict, and for Task 1 bring the result back onto the PET's grid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import reduce
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lesionclick import sliding_window
from lesionclick.clicks import BACKGROUND, TUMOR, Click, indices_zyx
from lesionclick.errors import ModelError
from lesionclick.images import Volume
from lesionclick.interfaces import Task
from lesionclick.model_folder import ModelFolder, read_model_folder
from lesionclick.prompts import encode, to_network_grid

logger = logging.getLogger(__name__)

PLATFORM_MODEL = Path("/opt/ml/model")
RESOURCES = Path(__file__).resolve().parents[1] / "resources"

OUTSIDE_MARGIN = -10.0
"""Margin of voxels that are not predicted: sure background (5e-5 as a probability), yet in the range of logits, so
that interpolation and corrections around it stay mild."""

SURVEY_ZOOMS = (0.8, 1.0)
"""Sizes at which a case without a click is predicted: a lesion too large for one tile is known by a smaller copy.
Chosen on the real patients held out from the training of the embedded model.
"""
SURVEY_MIRROR_AXES = (2,)
"""Axes (of z, y, x) over which such a case is mirrored as well: left and right."""

# Thresholds of the body: air and lung lie below -500 HU, and even the lungs take up more than SUV 0.3.
BODY_HU = -500.0
BODY_SUV = 0.3


def find_model_folder(argument: Path | None, task: Task = "task1") -> Path:
    """Return the model folder to use: `argument`, else the platform's where it holds a model, else the embedded one.

    The first two may be a model folder, or hold one for each task under ``task1`` and ``task2``.
    """
    for folder in (argument, PLATFORM_MODEL):
        if folder is not None and (folder / task / "plans.json").is_file():
            return folder / task
        if folder is not None and (folder == argument or (folder / "plans.json").is_file()):
            return folder
    return RESOURCES / task


@dataclass(frozen=True)
class _NetworkInput:
    """What a network sees of a case, and the way back.

    `images` (C, z, y, x) and `needed` (z, y, x), where a prediction is wanted (None: everywhere), are a part of the
    network's grid, whose shape is `grid_shape`; their first voxel lies there at `origin`, which is negative where they
    are padded. The others belong to the transposed image: its shape, the half-open bounds (low, high) of the part that
    nnU-Net cropped, and its voxel size in mm.
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
        return tuple(slice(low, high) for low, high in self.bounds)


class Model:
    """A loaded nnU-Net model: one network per fold, its plans, and the encoding of its clicks.

    The images of the case that came last are kept preprocessed, because the steps of an interactive session send the
    same CT and PET again and again. They are recognised by a hash of their content. This holds for models whose clicks
    are encoded on the network's grid (stage ``network``); with stage ``image`` the clicks go through nnU-Net's
    preprocessing together with the images, as in their training.
    """

    def __init__(self, content: ModelFolder, device: torch.device) -> None:
        if device.type == "cuda":
            torch.backends.cudnn.benchmark = True  # all tiles have one shape, so the search pays off
        self.networks = tuple(network.to(device).eval() for network in content.networks)
        self.plans = content.plans
        self.configuration = content.configuration
        self.dataset = content.dataset
        self.prompt = content.prompt
        self.device = device
        self._latest: tuple[str, _NetworkInput] | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None, trust_checkpoint: bool = False) -> Model:
        """Load a model folder; see `lesionclick.model_folder.read_model_folder`.

        Parameters
        ----------
        folder
            The model folder.
        device
            Where to predict; by default CUDA where there is one, else the CPU with a warning.
        trust_checkpoint
            Let checkpoints run any code that they hold.

        Raises
        ------
        ModelError
            If something is missing, broken, of an unknown kind, or refused.
        """
        with _stage(f"load model {folder}"):
            return cls(_read(folder, trust_checkpoint, "task1"), device or _default_device())

    def predict_margin(self, ct: Volume, pet: Volume, clicks: tuple[Click, ...]) -> Volume:
        """Return by how much the lesion's logit exceeds the background's.

        Where the model asks for a survey and nothing is clicked, the highest margin at `SURVEY_ZOOMS` counts.

        Parameters
        ----------
        ct, pet
            CT in HU and PET in SUV on one grid.
        clicks
            Clicks in voxel indices of that grid.

        Returns
        -------
        Volume
            Float32 on the PET's grid; above zero where the model sees a lesion. `OUTSIDE_MARGIN` where nothing was
            predicted: outside the part that nnU-Net crops to and, with stage ``network``, in tiles without body.
        """
        points = tuple(indices_zyx(clicks, name, pet.grid.shape_zyx) for name in (TUMOR, BACKGROUND))
        if self.prompt.survey and not any(len(kind) for kind in points):
            margins = [self._predict_once(ct, pet, points, zoom, SURVEY_MIRROR_AXES) for zoom in SURVEY_ZOOMS]
            return Volume(np.maximum.reduce(margins), pet.grid)
        return Volume(self._predict_once(ct, pet, points, 1.0, self.prompt.mirror_axes), pet.grid)

    def _predict_once(
        self,
        ct: Volume,
        pet: Volume,
        points: tuple[NDArray[np.int64], ...],
        zoom: float,
        mirror_axes: Sequence[int],
    ) -> NDArray[np.float32]:
        """Predict a case whose lengths are multiplied by `zoom`; `points` are tumour and background, (n, 3) each."""
        spacing_zyx = tuple(zoom * mm for mm in pet.grid.spacing_zyx)
        if self.prompt.stage == "image":
            prompts = encode(self.prompt, points[0], points[1], pet.grid.shape_zyx, spacing_zyx)
            channels = np.concatenate([ct.array[None], pet.array[None], prompts.numpy()])
            case = self._preprocess(channels, spacing_zyx)
            data = case.images
        else:
            case = self._prepare(ct, pet, spacing_zyx)
            moved = [self._to_network_grid(kind, case) for kind in points]
            shape, spacing = case.images.shape[1:], self.configuration.spacing
            prompts = encode(self.prompt, moved[0], moved[1], shape, spacing, self.device)
            data = torch.cat([case.images, prompts])
        with _stage(f"predict {'x'.join(map(str, data.shape[1:]))} voxels"):
            logits = self._predict_logits(data, case, mirror_axes)
        with _stage("resample prediction"):
            return self._to_image_grid(logits, case)

    def _prepare(self, ct: Volume, pet: Volume, spacing_zyx: tuple[float, ...]) -> _NetworkInput:
        """Preprocess CT and PET and find the body; take them from the latest case where they are the same."""
        content = hashlib.blake2b(repr((ct.array.dtype, pet.array.dtype, pet.grid.size_xyz, spacing_zyx)).encode())
        for volume in (ct, pet):
            content.update(np.ascontiguousarray(volume.array).data)
        key = content.hexdigest()
        if self._latest is None or self._latest[0] != key:
            body = (ct.array > BODY_HU) | (pet.array > BODY_SUV)
            case = self._preprocess(np.stack([ct.array, pet.array]), spacing_zyx, body)
            self._latest = key, case
        return self._latest[1]

    def _preprocess(
        self, channels: NDArray[np.number], spacing_zyx: tuple[float, ...], body: NDArray[np.bool_] | None = None
    ) -> _NetworkInput:
        """Let nnU-Net transpose, crop, normalise and resample `channels` (C, z, y, x); carry `body` along."""
        properties: dict[str, Any] = {"spacing": list(spacing_zyx)}
        with _stage("preprocess"):
            preprocessor = self.configuration.preprocessor_class(verbose=False)
            images, _, properties = preprocessor.run_case_npy(
                channels, None, properties, self.plans, self.configuration, self.dataset
            )
            case = _NetworkInput(
                torch.from_numpy(np.asarray(images)).to(self.device),
                needed=None,
                origin=(0, 0, 0),
                grid_shape=tuple(images.shape[1:]),
                shape=tuple(properties["shape_before_cropping"]),
                bounds=tuple((int(low), int(high)) for low, high in properties["bbox_used_for_cropping"]),
                spacing=tuple(spacing_zyx[axis] for axis in self.plans.transpose_forward),
            )
            if body is None or not body.any():
                return case
            inside = torch.from_numpy(body.transpose(self.plans.transpose_forward)[case.window])
            needed = _shrink_mask(inside.to(self.device), case.images.shape[1:])
            return _focus(replace(case, needed=needed), self.configuration.patch_size)

    def _to_network_grid(self, points_zyx: NDArray[np.int64], case: _NetworkInput) -> NDArray[np.float64]:
        transposed = points_zyx[:, list(self.plans.transpose_forward)]
        return to_network_grid(transposed, case.bounds, case.grid_shape, self.prompt.align) - case.origin

    def _predict_logits(self, data: Tensor, case: _NetworkInput, mirror_axes: Sequence[int]) -> Tensor:
        """Return the mean over the folds on the network's grid, shape (2, z, y, x); NaN where nothing was predicted.

        The mean is taken in half precision on the CPU, as in nnU-Net.
        """
        patch_size = self.configuration.patch_size
        with torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            folds = (
                sliding_window.predict(network, data, patch_size, 0.5, mirror_axes, case.needed, self.device).cpu()
                for network in self.networks
            )
            mean = reduce(torch.add, folds) / len(self.networks)
        logits = mean.new_full((len(mean), *case.grid_shape), torch.nan)
        spans = [
            (max(start, 0), min(start + n, full), start)
            for start, n, full in zip(case.origin, data.shape[1:], case.grid_shape, strict=True)
        ]
        target = [slice(low, high) for low, high, _ in spans]
        logits[:, *target] = mean[:, *(slice(low - start, high - start) for low, high, start in spans)]
        return logits

    def _to_image_grid(self, logits: Tensor, case: _NetworkInput) -> NDArray[np.float32]:
        """Resample with the plans' function, undo crop and transposition; logits (2, z, y, x) on the network's grid.

        nnU-Net rounds both resampled logits to half precision before it compares them. Stage ``image`` repeats that,
        since such a folder shall give the voxels that nnU-Net gives; otherwise the difference alone is resampled, at
        half the cost.
        """
        if self.prompt.stage == "network":
            difference = logits[1].float() - logits[0].float()
            logits = difference.nan_to_num(nan=OUTSIDE_MARGIN)[None]
        cropped_shape = [high - low for low, high in case.bounds]
        resampled = self.configuration.resampling_fn_probabilities(
            logits, cropped_shape, self.configuration.spacing, case.spacing
        )
        channels = np.asarray(resampled, dtype=np.float32)
        margin = np.full(case.shape, OUTSIDE_MARGIN, dtype=np.float32)
        margin[case.window] = channels[-1] if len(channels) == 1 else channels[1] - channels[0]
        return np.ascontiguousarray(margin.transpose(self.plans.transpose_backward))


class LesionModel:
    """A loaded model of Task 2, which sees one lesion at a time: a patch of its follow-up and of its baseline."""

    def __init__(self, content: ModelFolder, device: torch.device) -> None:
        self.networks = tuple(network.to(device).eval() for network in content.networks)
        self.prompt = content.prompt
        self.device = device
        self.patch_size = tuple(int(n) for n in content.configuration.patch_size)
        self.spacing_zyx = tuple(float(mm) for mm in content.configuration.spacing)
        for name, expected, found in (
            ("normalization_schemes", ["CTNormalization"], content.configuration.normalization_schemes),
            ("transpose_forward", [0, 1, 2], list(content.plans.transpose_forward)),
        ):
            if found != expected:
                raise ModelError(f"plans.json: expected {name} {expected} in a model of task2, found {found}")
        properties = content.plans.foreground_intensity_properties_per_channel["0"]
        self._normalization = CTNormalization(use_mask_for_norm=False, intensityproperties=properties)

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None, trust_checkpoint: bool = False) -> LesionModel:
        """Load a model folder; parameters and errors are those of `Model.load`."""
        with _stage(f"load model {folder}"):
            return cls(_read(folder, trust_checkpoint, "task2"), device or _default_device())

    def normalise(self, ct: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a CT patch in HU as the network wants it, by the plans' scheme."""
        normalised: NDArray[np.float32] = self._normalization.run(ct.copy())
        return normalised

    def predict_margin(self, channels: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return by how much the lesion's logit exceeds the background's.

        Parameters
        ----------
        channels
            Follow-up CT and baseline CT, normalised, then the channels of `lesionclick.prompts.encode_pair`, shape
            (5, z, y, x).

        Returns
        -------
        NDArray
            Mean over folds and mirrored versions, shape (z, y, x), float32.
        """
        data = torch.from_numpy(np.ascontiguousarray(channels[None])).to(self.device)
        with torch.inference_mode(), torch.autocast(self.device.type, enabled=self.device.type == "cuda"):
            folds = [
                sliding_window.average_flips(network, data, self.prompt.mirror_axes)[0].float()
                for network in self.networks
            ]
        mean = torch.stack(folds).mean(dim=0).cpu().numpy()
        margin: NDArray[np.float32] = mean[1] - mean[0]
        return margin


def _read(folder: Path, trust_checkpoint: bool, task: Task) -> ModelFolder:
    content = read_model_folder(folder, trust_checkpoint)
    if content.prompt.task != task:
        raise ModelError(
            f"{folder}: expected a model of {task}, by the inputs of the case; found encoding "
            f"{content.prompt.encoding!r}, which is one of {content.prompt.task}"
        )
    return content


def _focus(case: _NetworkInput, patch_size: Sequence[int]) -> _NetworkInput:
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


@contextmanager
def _stage(name: str) -> Iterator[None]:
    begin = perf_counter()
    yield
    logger.info("%s: %.1f s", name, perf_counter() - begin)


def _default_device() -> torch.device:
    if torch.cuda.is_available():
        return torch.device("cuda")
    logger.warning("no CUDA device found: predicting on the CPU, which takes many times longer")
    return torch.device("cpu")
