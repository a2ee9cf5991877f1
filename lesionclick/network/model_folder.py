"""An nnU-Net v2 model folder on disk: read it, check it, and build its networks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import numpy as np
from nnunetv2.preprocessing.normalization import default_normalization_schemes
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray
from torch import nn

from lesionclick.errors import ModelError
from lesionclick.network.checkpoints import Checkpoint, broken_is_an_error, find_checkpoints
from lesionclick.network.recipes import Recipe, channel_names, recognise, with_upstream_names
from lesionclick.network.resampling import find_resampling
from lesionclick.prompts.spec import PromptSpec, TaskName

logger = logging.getLogger(__name__)

PLATFORM_MODEL = Path("/opt/ml/model")
"""Where the platform unpacks a model that was uploaded apart."""

DEFAULT_PREPROCESSOR = "DefaultPreprocessor"
"""nnU-Net's name of what `lesionclick.network.preprocessing` does as well, without importing it."""

_BATCH_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""Ends of the names of what a batch norm learns besides weights; ``nnUNetTrainerBN`` builds them and plans do not."""


@dataclass(frozen=True)
class ModelFolder:
    """The content of a model folder.

    Attributes
    ----------
    networks
        One network per fold, with its weights, on the CPU.
    plans, configuration, dataset
        nnU-Net's plans, the configuration that the folds were trained with, and ``dataset.json``.
    prompt
        What becomes of its prompts.
    path
        The folder.
    """

    networks: tuple[nn.Module, ...]
    plans: PlansManager
    configuration: ConfigurationManager
    dataset: dict[str, Any]
    prompt: PromptSpec
    path: Path


def find_model_folder(given: Path | None, task: TaskName) -> Path:
    """Return the model folder to use: `given`, else the platform's where it holds a model, else the embedded one.

    The first two may be a model folder, or hold one for each task under ``task1`` and ``task2``. A folder that is given
    counts alone: a task that it has no model for is not served by another.

    Raises
    ------
    ModelError
        If one of the first two holds something else, whose weights are surely meant, or cannot be read.
    """
    try:
        for folder in (given, PLATFORM_MODEL):
            if folder is not None and (folder / task / "plans.json").is_file():
                return folder / task
            if folder is not None and (_holds_model(folder) or folder == given):
                return folder
    except OSError as error:
        raise ModelError(f"expected a model folder that user {os.getuid()} can read, found {error}") from error
    return embedded_models() / task


def _holds_model(folder: Path) -> bool:
    """Tell whether a folder is a model folder or holds one for any task; refuse one that holds something else."""
    if any((folder / part / "plans.json").is_file() for part in ("", "task1", "task2")):
        return True
    listed = os.listdir(folder) if folder.is_dir() else []
    if content := sorted(name for name in listed if name[0] != "." and name != "lost+found"):  # as a fresh disk has it
        deeper = next((f"; plans.json lies in {path.parent}" for path in sorted(folder.rglob("plans.json"))), "")
        raise ModelError(f"{folder}: expected plans.json in it or in its task1 or task2, found {content[:5]}{deeper}")
    return False


def available_models(given: Path | None, *, trust_checkpoint: bool = False) -> dict[TaskName, Path]:
    """Return the model folder of each task that there is a model for: of a folder that holds one model, its task alone.

    Parameters
    ----------
    given
        As for `find_model_folder`.
    trust_checkpoint
        As for `read_model_folder`.

    Raises
    ------
    ModelError
        If there is none, or one is broken or unknown.
    """
    tasks: tuple[TaskName, ...] = get_args(TaskName)
    found = {task: find_model_folder(given, task) for task in tasks}
    models = {
        task: path
        for task, path in found.items()
        if (path / "plans.json").is_file() and read_prompt_spec(path, trust_checkpoint=trust_checkpoint).task == task
    }
    if not models:
        where = given or "the platform's and the package's own folders"
        raise ModelError(f"{where}: expected a model folder, or folders task1 and task2 with one each, found none")
    return models


def embedded_models() -> Path:
    """Return the folder with the models that come with the package: in the wheel inside it, in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "resources"
    return inside if inside.is_dir() else package.parent / "resources"


def read_model_folder(folder: Path, *, task: TaskName, n_images: int, trust_checkpoint: bool = False) -> ModelFolder:
    """Read ``plans.json``, ``dataset.json``, ``prompt.json`` and one checkpoint of each ``fold_*``.

    Without ``prompt.json``, the recipe is one of those that `lesionclick.network.recipes` recognises; one log line says
    which. Weights that the network of the plans does not have, as of a second decoder that only training needs, are
    dropped, with one warning where the recipe does not know them. Weights stored in half precision become float32.

    Parameters
    ----------
    folder
        The model folder.
    task
        What it has to be a model of.
    n_images
        Number of images in the cases of that task.
    trust_checkpoint
        Let checkpoints run any code that they hold. Otherwise those that hold more than tensors, plain Python values
        and NumPy numbers are refused.

    Raises
    ------
    ModelError
        If something is missing, broken, of an unknown kind, or refused.
    """
    plans_json, dataset = (_read_json(folder / name) for name in ("plans.json", "dataset.json"))
    recipe = _recognise(folder, plans_json, dataset, trust_checkpoint)
    prompt = recipe.prompt
    if prompt.task != task:
        raise ModelError(
            f"{folder}: expected a model of {task}, by the inputs of the case; "
            f"found encoding {prompt.encoding.name!r}, which is one of {prompt.task}"
        )
    checkpoints = [Checkpoint.read(path, trust=trust_checkpoint) for path in find_checkpoints(folder)]
    with broken_is_an_error(folder, "expected plans.json and dataset.json of nnU-Net v2"):
        plans = PlansManager(with_upstream_names(plans_json))
        resolved = plans.get_configuration(_configuration_name(folder, checkpoints))
        configuration = _InferenceConfiguration(resolved.configuration)
        _require_usable(folder, prompt, n_images, plans=plans, configuration=configuration, dataset=dataset)
        _require_preprocessing(folder, len(channel_names(dataset)), plans=plans, configuration=configuration)
        n_inputs = n_images + prompt.encoding.n_channels
        networks = tuple(_build_network(configuration, n_inputs) for _ in checkpoints)
    dropped: set[str] = set()
    for network, checkpoint in zip(networks, checkpoints, strict=True):
        dropped |= _load_weights(network, checkpoint)
    logger.info("recipe: %s (%d folds)", recipe.name, len(networks))
    if unknown := {name for name in dropped if not recipe.leaves_out(name)}:
        message = "%s: dropped %d weights that the network of plans.json does not have, such as %s"
        logger.warning(message, folder, len(unknown), min(unknown))
    return ModelFolder(networks, plans, configuration, dataset, prompt, folder)


class _InferenceConfiguration(ConfigurationManager):  # type: ignore[misc]
    """A configuration that does not resample the label, which only training has but which costs as much as an image."""

    @property
    def resampling_fn_seg(self) -> Callable[..., NDArray[np.number]]:
        return lambda seg, *_: seg


def _read_json(path: Path) -> dict[str, Any]:
    with broken_is_an_error(path, "expected a JSON object"):
        content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_prompt_spec(folder: Path, *, trust_checkpoint: bool = False) -> PromptSpec:
    """Return what becomes of a model folder's prompts, without reading its weights.

    Parameters
    ----------
    folder
        The model folder.
    trust_checkpoint
        As for `read_model_folder`.

    Raises
    ------
    ModelError
        If there is no such folder, or what it says is missing, broken or unknown.
    """
    plans, dataset = (_read_json(folder / name) for name in ("plans.json", "dataset.json"))
    return _recognise(folder, plans, dataset, trust_checkpoint).prompt


def _recognise(folder: Path, plans: Mapping[str, Any], dataset: Mapping[str, Any], trust: bool) -> Recipe:
    path = folder / "prompt.json"
    prompt = PromptSpec.from_mapping(_read_json(path), str(path)) if path.exists() else None
    return recognise(
        folder,
        prompt,
        plans=plans,
        dataset=dataset,
        checkpoint=lambda: Checkpoint.read(find_checkpoints(folder)[0], trust=trust),
    )


def _configuration_name(folder: Path, checkpoints: Sequence[Checkpoint]) -> str:
    names = {checkpoint.configuration for checkpoint in checkpoints}
    if len(names) != 1:
        raise ModelError(f"{folder}: expected folds of one configuration, found {sorted(names)}")
    return names.pop()


def _require_usable(
    folder: Path,
    prompt: PromptSpec,
    n_images: int,
    *,
    plans: PlansManager,
    configuration: ConfigurationManager,
    dataset: Mapping[str, Any],
) -> None:
    """Refuse kinds of models that do not fit the images of a case, its clicks, and one kind of lesion."""
    labels = plans.get_label_manager(dataset)
    if labels.has_regions or len(labels.foreground_labels) != 1:
        raise ModelError(f"{folder}: expected background and one other label, found {dataset['labels']}")
    expected = n_images + (prompt.encoding.n_channels if prompt.stage == "image" else 0)
    if (found := len(channel_names(dataset))) != expected:
        raise ModelError(
            f"{folder}: expected {expected} channels in dataset.json (the images, and those of the clicks where they "
            f"are encoded at stage image), found {found}"
        )
    if len(configuration.patch_size) != 3 or configuration.previous_stage_name is not None:
        raise ModelError(f"{folder}: expected a 3D configuration that is no cascade, found {configuration}")
    if "Reorient" in plans.plans.get("image_reader_writer", ""):
        raise ModelError(
            f"{folder}: expected a model whose images keep their axes, found {plans.plans['image_reader_writer']}"
        )
    # nnU-Net finds what plans name by importing all of its preprocessing, so that it is asked for what is unknown alone
    name = configuration.preprocessor_name
    if name != DEFAULT_PREPROCESSOR and configuration.preprocessor_class is None:
        raise ModelError(f"{folder}: expected a preprocessor of nnU-Net, found {name}")
    settings = configuration.configuration
    for kind in ("resampling_fn_data", "resampling_fn_probabilities"):
        if find_resampling(settings[kind], settings[f"{kind}_kwargs"]) is None:
            getattr(configuration, kind)  # raises where it is unknown


def _require_preprocessing(
    folder: Path, n_channels: int, *, plans: PlansManager, configuration: ConfigurationManager
) -> None:
    """Refuse plans that do not say how images become what the network sees, and its logits come back."""
    for key in ("transpose_forward", "transpose_backward"):
        if sorted(order := getattr(plans, key)) != [0, 1, 2]:
            raise ModelError(f"{folder}: expected an order of three axes as {key}, found {order}")
    schemes, known = configuration.normalization_schemes, plans.foreground_intensity_properties_per_channel
    if len(schemes) != n_channels or not {str(n) for n in range(n_channels)} <= known.keys():
        expected = f"a normalisation and intensities of each of {n_channels} channels"
        raise ModelError(f"{folder}: expected {expected}, found {schemes} and those of {sorted(known)}")
    for scheme in schemes:
        if not hasattr(default_normalization_schemes, scheme):
            raise ModelError(f"{folder}: expected a known normalisation, found {scheme!r}")


def _build_network(configuration: ConfigurationManager, n_inputs: int) -> nn.Module:
    network: nn.Module = get_network_from_plans(
        configuration.network_arch_class_name,
        configuration.network_arch_init_kwargs,
        configuration.network_arch_init_kwargs_req_import,
        n_inputs,
        2,
        allow_init=False,
        deep_supervision=False,
    )
    return network


def _load_weights(network: nn.Module, checkpoint: Checkpoint) -> set[str]:
    """Copy the weights into `network` and return the names of those that it does not have."""
    with broken_is_an_error(checkpoint.path, "expected weights of the network in plans.json"):
        missing, unexpected = network.load_state_dict(checkpoint.weights, strict=False)
    if statistics := [name for name in unexpected if name.endswith(_BATCH_STATISTICS)]:
        found = f"statistics of batch norms, such as {statistics[0]}, that the network of plans.json does not have"
        raise ModelError(f"{checkpoint.path}: expected a trainer that builds the network of plans.json, found {found}")
    if missing:
        raise ModelError(
            f"{checkpoint.path}: expected all weights of the network in plans.json, found {len(missing)} missing, such "
            f"as {missing[0]}"
        )
    return set(unexpected)
