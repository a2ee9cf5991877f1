"""What a model folder's prompts become: said by its `prompt.json`, or recognised by what other teams' folders hold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lesionclick.errors import ModelError
from lesionclick.network.checkpoints import Checkpoint
from lesionclick.prompts.spec import OFFICIAL_BASELINE, SECOND_PLACE, Prediction, PromptSpec

_OFFICIAL_CHANNELS = ["CT", "PET", "FG", "BG"]
_SECOND_PLACE_TRAINER = "autopetTrainerInteractive"
"""How the names of its trainers begin."""
_SECOND_PLACE_PLANS = "nnUNetResEncUNetLPlansMultiTalent"
_SECOND_PLACE_UNUSED = "organ"
"""Part of the names of its weights that only training needs, those of the head for organs."""

_UPSTREAM = {
    "ResidualEncoderUNetOrgan": "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet",
    "autoPetPreprocessor": "DefaultPreprocessor",
}
"""nnU-Net's names of the classes that the second-placed team's fork derives from, and changes for training alone."""


@dataclass(frozen=True)
class Recipe:
    """What becomes of a folder's prompts, and how that is known.

    Attributes
    ----------
    name
        For people.
    prompt
        What becomes of the prompts.
    unused
        Part of the names of weights that are known to serve only training; empty for none.
    """

    name: str
    prompt: PromptSpec
    unused: str = ""

    def leaves_out(self, weight: str) -> bool:
        """Tell whether a weight of this name is known to serve only training."""
        return bool(self.unused) and self.unused in weight


def recognise(
    folder: Path,
    prompt: PromptSpec | None,
    *,
    plans: Mapping[str, Any],
    dataset: Mapping[str, Any],
    checkpoint: Callable[[], Checkpoint],
) -> Recipe:
    """Return the recipe of a model folder.

    Parameters
    ----------
    folder
        The model folder, for messages.
    prompt
        Its `prompt.json`, which has the last word; None where there is none.
    plans, dataset
        Its ``plans.json`` and ``dataset.json``.
    checkpoint
        Reads the first of its checkpoints, where the others do not tell.

    Raises
    ------
    ModelError
        If no recipe is known for it.
    """
    if prompt is not None:
        return Recipe(f"that of prompt.json, encoding {prompt.encoding.name} at stage {prompt.stage}", prompt)
    channels = channel_names(dataset)
    if channels == _OFFICIAL_CHANNELS:
        return Recipe("the organisers' baseline, known by the channels CT, PET, FG, BG", OFFICIAL_BASELINE)
    trainer = ""
    if plans.get("plans_name") == _SECOND_PLACE_PLANS:
        first = checkpoint()
        trainer = first.trainer
        if trainer.startswith(_SECOND_PLACE_TRAINER):
            mirrored = Prediction(mirror_axes=first.mirror_axes)  # as its own script does
            name = (
                f"the second-placed team's (LesionLocator), known by trainer {trainer} and plans {plans['plans_name']}"
            )
            return Recipe(name, replace(SECOND_PLACE, prediction=mirrored), _SECOND_PLACE_UNUSED)
    raise ModelError(
        f"{folder}: expected prompt.json, or channels {_OFFICIAL_CHANNELS} in dataset.json, or plans "
        f"{_SECOND_PLACE_PLANS} with a trainer {_SECOND_PLACE_TRAINER}...; found no prompt.json, channels {channels}, "
        f"plans {plans.get('plans_name')}" + (f" and trainer {trainer}" if trainer else "")
    )


def channel_names(dataset: Mapping[str, Any]) -> list[str]:
    """Return the names of the channels in a ``dataset.json``.

    Raises
    ------
    ModelError
        If there are none.
    """
    names = dataset.get("channel_names")
    if not isinstance(names, dict):
        raise ModelError(f"dataset.json: expected channel_names with one name per channel, found {names!r}")
    return list(names.values())


def with_upstream_names(plans: Mapping[str, Any]) -> dict[str, Any]:
    """Return plans in which classes of the second-placed team's fork go by the names of nnU-Net's own."""
    known = deepcopy(dict(plans))
    for configuration in known.get("configurations", {}).values():
        for place, key in (
            (configuration, "preprocessor_name"),
            (configuration.get("architecture"), "network_class_name"),
        ):
            if place and key in place:
                place[key] = _UPSTREAM.get(str(place[key]).rpartition(".")[-1], place[key])
    return known
