"""An nnU-Net v2 model folder, loaded: preprocess, predict, and for Task 1 bring the result back onto the PET's grid."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from nnunetv2.preprocessing.normalization.default_normalization_schemes import CTNormalization
from numpy.typing import NDArray
from torch import Tensor

from lesionclick.budget import SAFETY, Budget
from lesionclick.errors import ModelError
from lesionclick.grand_challenge.interfaces import Task
from lesionclick.images import Volume
from lesionclick.network import tiles
from lesionclick.network.ensemble import Placement, in_memory, predict
from lesionclick.network.model_folder import ModelFolder, read_model_folder
from lesionclick.network.preprocessing import NetworkInput, focus, shrink_mask
from lesionclick.prompts.encodings import encode, to_network_grid
from lesionclick.prompts.points import BACKGROUND, TUMOR, Click, indices_zyx

logger = logging.getLogger(__name__)

PLATFORM_MODEL = Path("/opt/ml/model")
RESOURCES = Path(__file__).resolve().parents[2] / "resources"

OUTSIDE_MARGIN = -10.0
"""Margin of voxels that are not predicted: sure background (5e-5 as a probability), yet in the range of logits, so
that interpolation and corrections around it stay mild."""

SURVEY_ZOOMS = (0.8, 1.0)
"""Sizes at which a case without a click is predicted: a lesion too large for one tile is known by a smaller copy.
Chosen on the real patients held out from the training of the embedded model.
"""
SURVEY_MIRROR_AXES = (2,)
"""Axes (of z, y, x) over which such a case is mirrored as well: left and right."""

REST_S, REST_S_PER_VOXEL = 1.0, 4e-7
"""Time that is kept for what follows the networks, in all and per voxel of the image: resampling the prediction, the
rules, writing. `docs/deadline.md` has the measurement."""

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
        self._latest: tuple[str, NetworkInput] | None = None

    @classmethod
    def load(cls, folder: Path, device: torch.device | None = None, trust_checkpoint: bool = False) -> Model:
        """Load a model folder; see `lesionclick.network.model_folder.read_model_folder`.

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

    def predict_margin(
        self, ct: Volume, pet: Volume, clicks: tuple[Click, ...], budget: Budget | None = None
    ) -> Volume:
        """Return by how much the lesion's logit exceeds the background's.

        Where the model asks for a survey and nothing is clicked, the highest margin at `SURVEY_ZOOMS` counts.

        Parameters
        ----------
        ct, pet
            CT in HU and PET in SUV on one grid.
        clicks
            Clicks in voxel indices of that grid.
        budget
            Time until the mask has to be written; `REST_S_PER_VOXEL` is kept of it. By default there is no limit.

        Returns
        -------
        Volume
            Float32 on the PET's grid; above zero where the model sees a lesion. `OUTSIDE_MARGIN` where nothing was
            predicted: outside the part that nnU-Net crops to, with stage ``network`` in tiles without body, and in
            tiles that there was no time for.

        Raises
        ------
        BudgetError
            If the memory does not suffice.
        """
        limit = (budget or Budget()).without(REST_S + REST_S_PER_VOXEL * pet.array.size)
        points = tuple(indices_zyx(clicks, name, pet.grid.shape_zyx) for name in (TUMOR, BACKGROUND))
        survey = self.prompt.survey and not any(len(kind) for kind in points)

        def work(place: Placement) -> NDArray[np.float32]:
            if survey:
                return self._survey(ct, pet, points, place, limit)
            return self._predict_once(ct, pet, points, 1.0, self.prompt.mirror_axes, place, limit)

        return Volume(in_memory(work, self.networks, self.device), pet.grid)

    def _survey(
        self, ct: Volume, pet: Volume, points: tuple[NDArray[np.int64], ...], place: Placement, budget: Budget
    ) -> NDArray[np.float32]:
        """Predict a case at all zooms, or those that there is time for, the largest first."""
        highest = None
        for zoom in sorted(SURVEY_ZOOMS, reverse=True):
            begin = budget.now()
            margin = self._predict_once(ct, pet, points, zoom, SURVEY_MIRROR_AXES, place, budget)
            highest = margin if highest is None else np.maximum(highest, margin)
            if SAFETY * (budget.now() - begin) > budget.left_s:  # a smaller copy takes less
                logger.info("plan: no time for further zooms than %g", zoom)
                break
        assert highest is not None
        return highest

    def _predict_once(
        self,
        ct: Volume,
        pet: Volume,
        points: tuple[NDArray[np.int64], ...],
        zoom: float,
        mirror_axes: Sequence[int],
        place: Placement,
        budget: Budget,
    ) -> NDArray[np.float32]:
        """Predict a case whose lengths are multiplied by `zoom`; `points` are tumour and background, (n, 3) each."""
        spacing_zyx = tuple(zoom * mm for mm in pet.grid.spacing_zyx)
        if self.prompt.stage == "image":
            prompts = encode(self.prompt, points[0], points[1], pet.grid.shape_zyx, spacing_zyx)
            channels = np.concatenate([ct.array[None], pet.array[None], prompts.numpy()])
            case = self._preprocess(channels, spacing_zyx, place.data)
            data = case.images
        else:
            case = self._prepare(ct, pet, spacing_zyx, place.data)
            moved = [self._to_network_grid(kind, case) for kind in points]
            shape, spacing = case.images.shape[1:], self.configuration.spacing
            prompts = encode(self.prompt, moved[0], moved[1], shape, spacing, place.data)
            data = torch.cat([case.images, prompts])
        first_zyx = np.concatenate([self._to_network_grid(kind, case) for kind in points])
        with _stage(f"predict {'x'.join(map(str, data.shape[1:]))} voxels"):
            logits = self._predict_logits(data, case, mirror_axes, place, budget, first_zyx.tolist())
        if logits is None:
            logger.warning("plan: no time for any tile; the clicks alone count")
            return np.full(pet.array.shape, OUTSIDE_MARGIN, dtype=np.float32)
        with _stage("resample prediction"):
            return self._to_image_grid(logits, case)

    def _prepare(self, ct: Volume, pet: Volume, spacing_zyx: tuple[float, ...], device: torch.device) -> NetworkInput:
        """Preprocess CT and PET and find the body; take them from the latest case where they are the same."""
        kind = (ct.array.dtype, pet.array.dtype, pet.grid.size_xyz, spacing_zyx, device)
        content = hashlib.blake2b(repr(kind).encode())
        for volume in (ct, pet):
            content.update(np.ascontiguousarray(volume.array).data)
        key = content.hexdigest()
        if self._latest is None or self._latest[0] != key:
            body = (ct.array > BODY_HU) | (pet.array > BODY_SUV)
            case = self._preprocess(np.stack([ct.array, pet.array]), spacing_zyx, device, body)
            self._latest = key, case
        return self._latest[1]

    def _preprocess(
        self,
        channels: NDArray[np.number],
        spacing_zyx: tuple[float, ...],
        device: torch.device,
        body: NDArray[np.bool_] | None = None,
    ) -> NetworkInput:
        """Let nnU-Net transpose, crop, normalise and resample `channels` (C, z, y, x); carry `body` along."""
        properties: dict[str, Any] = {"spacing": list(spacing_zyx)}
        with _stage("preprocess"):
            preprocessor = self.configuration.preprocessor_class(verbose=False)
            images, _, properties = preprocessor.run_case_npy(
                channels, None, properties, self.plans, self.configuration, self.dataset
            )
            case = NetworkInput(
                torch.from_numpy(np.asarray(images)).to(device),
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
            needed = shrink_mask(inside.to(device), case.images.shape[1:])
            return focus(replace(case, needed=needed), self.configuration.patch_size)

    def _to_network_grid(self, points_zyx: NDArray[np.int64], case: NetworkInput) -> NDArray[np.float64]:
        transposed = points_zyx[:, list(self.plans.transpose_forward)]
        return to_network_grid(transposed, case.bounds, case.grid_shape, self.prompt.align) - case.origin

    def _predict_logits(
        self,
        data: Tensor,
        case: NetworkInput,
        mirror_axes: Sequence[int],
        place: Placement,
        budget: Budget,
        first_zyx: Sequence[Sequence[float]],
    ) -> Tensor | None:
        """Return the mean over the folds on the network's grid, shape (2, z, y, x); NaN where nothing was predicted."""
        patch_size = self.configuration.patch_size
        with torch.autocast(place.network.type, enabled=place.network.type == "cuda"):
            mean = predict(self.networks, data, patch_size, mirror_axes, case.needed, place.network, budget, first_zyx)
        if mean is None:
            return None
        logits = mean.new_full((len(mean), *case.grid_shape), torch.nan)
        spans = [
            (max(start, 0), min(start + n, full), start)
            for start, n, full in zip(case.origin, data.shape[1:], case.grid_shape, strict=True)
        ]
        target = [slice(low, high) for low, high, _ in spans]
        logits[:, *target] = mean[:, *(slice(low - start, high - start) for low, high, start in spans)]
        return logits

    def _to_image_grid(self, logits: Tensor, case: NetworkInput) -> NDArray[np.float32]:
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
            Follow-up CT and baseline CT, normalised, then the channels of
            `lesionclick.prompts.encodings.encode_pair`, shape
            (5, z, y, x).

        Returns
        -------
        NDArray
            Mean over folds and mirrored versions, shape (z, y, x), float32.

        Raises
        ------
        BudgetError
            If the memory does not suffice.
        """

        def work(place: Placement) -> NDArray[np.float32]:
            device = place.network
            data = torch.from_numpy(np.ascontiguousarray(channels[None])).to(device)
            with torch.inference_mode(), torch.autocast(device.type, enabled=device.type == "cuda"):
                folds = [
                    tiles.average_flips(network, data, self.prompt.mirror_axes)[0].float() for network in self.networks
                ]
            mean = torch.stack(folds).mean(dim=0).cpu().numpy()
            margin: NDArray[np.float32] = mean[1] - mean[0]
            return margin

        return in_memory(work, self.networks, self.device)


def _read(folder: Path, trust_checkpoint: bool, task: Task) -> ModelFolder:
    content = read_model_folder(folder, trust_checkpoint)
    if content.prompt.task != task:
        raise ModelError(
            f"{folder}: expected a model of {task}, by the inputs of the case; found encoding "
            f"{content.prompt.encoding!r}, which is one of {content.prompt.task}"
        )
    return content


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
