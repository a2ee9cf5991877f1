"""An nnU-Net v2 model folder on disk: read it, check it, and build its networks."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from numpy.typing import NDArray
from torch import nn

from lesionclick.errors import ModelError
from lesionclick.network.resampling import find_resampling
from lesionclick.prompts.spec import OFFICIAL_BASELINE, PromptSpec, TaskName

logger = logging.getLogger(__name__)

PLATFORM_MODEL = Path("/opt/ml/model")
"""Where the platform unpacks a model that was uploaded apart."""

DEFAULT_PREPROCESSOR = "DefaultPreprocessor"
"""nnU-Net's name of what `lesionclick.network.preprocessing` does as well, without importing it."""

_OFFICIAL_CHANNELS = ["CT", "PET", "FG", "BG"]

# What NumPy's scalars and arrays name in a pickle; NumPy 1 wrote numpy.core where NumPy 2 writes numpy._core.
_NUMPY_FUNCTIONS = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
_NUMPY_NAMES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
SAFE_GLOBALS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in _NUMPY_NAMES),
    *((f, f"numpy.{core}.multiarray.{name}") for name, f in _NUMPY_FUNCTIONS.items() for core in ("core", "_core")),
]
"""All that an honest nnU-Net checkpoint holds besides what `torch.load(weights_only=True)` reads by itself."""


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
        What its `prompt.json` says.
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
    """
    for folder in (given, PLATFORM_MODEL):
        if folder is not None and (folder / task / "plans.json").is_file():
            return folder / task
        if folder is not None and (folder == given or _holds_model(folder)):
            return folder
    return embedded_models() / task


def _holds_model(folder: Path) -> bool:
    """Tell whether a folder is a model folder or holds one for any task."""
    return any((folder / part / "plans.json").is_file() for part in ("", "task1", "task2"))


def embedded_models() -> Path:
    """Return the folder with the models that come with the package: in the wheel inside it, in a checkout beside it."""
    package = Path(__file__).resolve().parents[1]
    inside = package / "resources"
    return inside if inside.is_dir() else package.parent / "resources"


def read_model_folder(folder: Path, *, task: TaskName, n_images: int, trust_checkpoint: bool = False) -> ModelFolder:
    """Read ``plans.json``, ``dataset.json``, ``prompt.json`` and one checkpoint of each ``fold_*``.

    A fold without ``checkpoint_final.pth`` gives ``checkpoint_best.pth``. Without ``prompt.json``, channels named CT,
    PET, FG, BG mean the official baseline. Weights that the network of the plans does not have, as of a second decoder
    that only training needs, are dropped with one warning. Weights stored in half precision become float32.

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
    prompt = _read_prompt(folder, dataset)
    if prompt.task != task:
        raise ModelError(
            f"{folder}: expected a model of {task}, by the inputs of the case; "
            f"found encoding {prompt.encoding.name!r}, which is one of {prompt.task}"
        )
    checkpoints = read_checkpoints(folder, trust_checkpoint)
    with _broken_is_an_error(folder, "expected plans.json and dataset.json of nnU-Net v2"):
        plans = PlansManager(plans_json)
        resolved = plans.get_configuration(_configuration_name(folder, checkpoints))
        configuration = _InferenceConfiguration(resolved.configuration)
        _require_usable(folder, prompt, n_images, plans=plans, configuration=configuration, dataset=dataset)
        n_inputs = n_images + prompt.encoding.n_channels
        networks = tuple(_build_network(configuration, n_inputs) for _ in checkpoints)
    dropped: set[str] = set()
    for network, (path, checkpoint) in zip(networks, checkpoints.items(), strict=True):
        dropped |= _load_weights(network, checkpoint, path)
    if dropped:
        message = "%s: dropped %d weights that the network of plans.json does not have, such as %s"
        logger.warning(message, folder, len(dropped), min(dropped))
    return ModelFolder(networks, plans, configuration, dataset, prompt, folder)


class _InferenceConfiguration(ConfigurationManager):  # type: ignore[misc]
    """A configuration that does not resample the label, which only training has but which costs as much as an image."""

    @property
    def resampling_fn_seg(self) -> Callable[..., NDArray[np.number]]:
        return lambda seg, *_: seg


def _read_json(path: Path) -> dict[str, Any]:
    with _broken_is_an_error(path, "expected a JSON object"):
        content = json.loads(path.read_text())
    if not isinstance(content, dict):
        raise ModelError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def read_prompt_spec(folder: Path) -> PromptSpec:
    """Return what a model folder says of its prompts, without reading its weights.

    Raises
    ------
    ModelError
        If there is no such folder, or what it says is missing, broken or unknown.
    """
    return _read_prompt(folder, _read_json(folder / "dataset.json"))


def _read_prompt(folder: Path, dataset: Mapping[str, Any]) -> PromptSpec:
    path = folder / "prompt.json"
    channel_names = _channel_names(dataset)
    if path.exists():
        return PromptSpec.from_mapping(_read_json(path), str(path))
    if channel_names == _OFFICIAL_CHANNELS:
        return OFFICIAL_BASELINE
    raise ModelError(
        f"{folder}: expected prompt.json, or channels {_OFFICIAL_CHANNELS} in dataset.json; found no prompt.json and "
        f"channels {channel_names}"
    )


def _channel_names(dataset: Mapping[str, Any]) -> list[str]:
    names = dataset.get("channel_names")
    if not isinstance(names, dict):
        raise ModelError(f"dataset.json: expected channel_names with one name per channel, found {names!r}")
    return list(names.values())


def read_checkpoints(folder: Path, trust: bool = False) -> dict[Path, dict[str, Any]]:
    """Read one checkpoint of each fold, in the order of the folders' names."""
    folds = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    if not folds:
        raise ModelError(f"{folder}: expected folders fold_<n> or fold_all, found none")
    checkpoints = {}
    for fold in folds:
        paths = [fold / f"checkpoint_{kind}.pth" for kind in ("final", "best")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ModelError(f"{fold}: expected checkpoint_final.pth or checkpoint_best.pth, found neither")
        with (
            _broken_is_an_error(path, "expected an nnU-Net v2 checkpoint"),
            torch.serialization.safe_globals(SAFE_GLOBALS),
        ):
            unsafe = [] if trust else torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            if unsafe:
                raise ModelError(
                    f"{path}: expected tensors, plain Python values and NumPy numbers, found {unsafe}, which may run "
                    "code; --trust-checkpoint loads it all the same, if you trust its source"
                )
            checkpoint = torch.load(path, map_location="cpu", weights_only=not trust)
            checkpoints[path] = {key: checkpoint[key] for key in ("network_weights", "init_args")}
    return checkpoints


def _configuration_name(folder: Path, checkpoints: Mapping[Path, dict[str, Any]]) -> str:
    names = {checkpoint["init_args"]["configuration"] for checkpoint in checkpoints.values()}
    if len(names) != 1:
        raise ModelError(f"{folder}: expected folds of one configuration, found {sorted(names)}")
    name: str = names.pop()
    return name


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
    if (found := len(_channel_names(dataset))) != expected:
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


def _load_weights(network: nn.Module, checkpoint: dict[str, Any], path: Path) -> set[str]:
    """Copy the weights into `network` and return the names of those that it does not have."""
    with _broken_is_an_error(path, "expected weights of the network in plans.json"):
        missing, unexpected = network.load_state_dict(checkpoint["network_weights"], strict=False)
    if missing:
        raise ModelError(
            f"{path}: expected all weights of the network in plans.json, found {len(missing)} missing, such as "
            f"{missing[0]}"
        )
    return set(unexpected)


@contextmanager
def _broken_is_an_error(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a foreign file makes its reader raise into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: {expected}, found {type(error).__name__}: {error}") from error
