"""What the three sizes of each task's model change in the plans that nnU-Net makes."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from lesionclick.prompts.encodings import Fields, LesionPair
from lesionclick.prompts.spec import Prediction, PromptSpec

FIELDS = PromptSpec(Fields(radius=6.0, far_mm=30.0, cutoff_mm=40.0), rules="challenge")
"""The encoding that our own models of Task 1 are trained with."""
PAIR = PromptSpec(LesionPair(radius=10.0, mask_mm=8.0), prediction=Prediction(mirror_axes=(0, 1, 2)))
"""The encoding of Task 2; a lesion whose size is known is seen mirrored as well."""


class Recipe(NamedTuple):
    """How one size is planned and trained: nnU-Net's planner, configuration, our trainer, and the encoding.

    `sureness` is the factor on the logits of a model that training begins with.
    """

    planner: str
    configuration: str
    trainer: str
    prompt: PromptSpec
    sureness: float = 1.0


RECIPES = {
    ("task1", "small"): Recipe("ExperimentPlanner", "small", "nnUNetTrainerClicksSmall", FIELDS, sureness=0.25),
    ("task1", "standard"): Recipe("ExperimentPlanner", "3d_fullres", "nnUNetTrainerClicks", FIELDS),
    ("task1", "large"): Recipe("nnUNetPlannerResEncL", "3d_fullres", "nnUNetTrainerClicks", FIELDS),
    ("task2", "small"): Recipe("ExperimentPlanner", "small", "nnUNetTrainerLongitudinalSmall", PAIR),
    ("task2", "standard"): Recipe("ExperimentPlanner", "standard", "nnUNetTrainerLongitudinal", PAIR),
    ("task2", "large"): Recipe("ExperimentPlanner", "large", "nnUNetTrainerLongitudinal", PAIR),
}

CHANNELS = {"task1": ("CT", "PET"), "task2": ("CT",)}
"""Of the images, in their order."""

_SUV_PER_UNIT = 5.0

# Zero is air in all images, so that the zeros which nnU-Net pads with look like air and not like tissue or uptake. Task
# 2 has a window of soft tissue: lesions differ from it by a few tens of HU.
_INTENSITIES = {
    "task1": {
        "0": {"mean": -1000.0, "std": 250.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0},
        "1": {"mean": 0.0, "std": _SUV_PER_UNIT, "percentile_00_5": 0.0, "percentile_99_5": 40.0},
    },
    "task2": {"0": {"mean": -200.0, "std": 75.0, "percentile_00_5": -200.0, "percentile_99_5": 400.0}},
}


def _unet(features: list[int], strides: list[list[int]], blocks: list[int] | None = None) -> dict[str, Any]:
    """Return the plans' description of a U-Net; with `blocks` one with a residual encoder."""
    n = len(features)
    name = "PlainConvUNet" if blocks is None else "ResidualEncoderUNet"
    depth = {"n_conv_per_stage": [2] * n} if blocks is None else {"n_blocks_per_stage": blocks}
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{name}",
        "arch_kwargs": {
            "n_stages": n,
            "features_per_stage": features,
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * n,
            "strides": strides,
            **depth,
            "n_conv_per_stage_decoder": [1] * (n - 1),
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _with_log_uptake(architecture: dict[str, Any]) -> dict[str, Any]:
    """Return the description of a plain U-Net that sees the PET's logarithm as well."""
    arguments = architecture["arch_kwargs"] | {"suv_per_unit": _SUV_PER_UNIT}
    name = "lesionclick.network.architectures.LogUptakeUNet"
    return {**architecture, "network_class_name": name, "arch_kwargs": arguments}


def _configuration(
    name: str, batch: int, patch: list[int], spacing: list[float], *, architecture: dict[str, Any]
) -> dict[str, Any]:
    return {
        "inherits_from": "3d_fullres",
        "data_identifier": f"nnUNetPlans_{name}",
        "batch_size": batch,
        "patch_size": patch,
        "spacing": spacing,
        "architecture": architecture,
    }


_FINE_STRIDES = [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2], [2, 2, 2]]
_FINE = (2, [32, 80, 80], [3.0, 1.0, 1.0])
_CONFIGURATIONS = {
    "task1": {
        "small": _configuration(
            "small",
            2,
            [64, 48, 48],
            [3.27, 4.0, 4.0],
            architecture=_with_log_uptake(_unet([16, 32, 80, 160, 160], [[1, 1, 1], *[[2, 2, 2]] * 4])),
        )
    },
    "task2": {
        "small": _configuration(
            "small",
            6,
            [24, 40, 40],
            [3.0, 2.0, 2.0],
            architecture=_unet([16, 32, 96, 192], [[1, 1, 1], [1, 2, 2], [2, 2, 2], [2, 2, 2]]),
        )
        | {"batch_dice": False},  # so that the largest lesion of a batch does not decide
        "standard": _configuration("standard", *_FINE, architecture=_unet([32, 64, 128, 256, 320], _FINE_STRIDES)),
        "large": _configuration(
            "large", *_FINE, architecture=_unet([32, 64, 128, 256, 320], _FINE_STRIDES, [1, 3, 4, 6, 6])
        ),
    },
}


def adapt_plans(plans_file: Path, task: str, config: str, minutes: float) -> None:
    """Write our changes into nnU-Net's plans: fixed intensities, resampling in torch, the prompt, sizes of our own.

    Parameters
    ----------
    plans_file
        The plans that nnU-Net's planner wrote; changed in place.
    task, config
        Key of `RECIPES`; the recipe's encoding is kept under the key ``prompt``.
    minutes
        Training time of ``small``.
    """
    plans = json.loads(plans_file.read_text())
    plans["prompt"] = RECIPES[task, config].prompt.to_mapping()
    plans["minutes"] = minutes
    known = plans["foreground_intensity_properties_per_channel"]
    ours = _INTENSITIES[task]
    plans["foreground_intensity_properties_per_channel"] = {c: known[c] | ours[c] for c in ours}
    full = plans["configurations"]["3d_fullres"]
    full["normalization_schemes"] = ["CTNormalization"] * len(ours)
    for kind, options in (("data", {}), ("seg", {"is_seg": True}), ("probabilities", {})):
        full[f"resampling_fn_{kind}"] = "resample_torch_fornnunet"
        full[f"resampling_fn_{kind}_kwargs"] = {"force_separate_z": False, **options}
    if config in _CONFIGURATIONS[task]:
        plans["transpose_forward"] = plans["transpose_backward"] = [0, 1, 2]
        plans["configurations"][config] = deepcopy(_CONFIGURATIONS[task][config])
    plans_file.write_text(json.dumps(plans, indent=2))
