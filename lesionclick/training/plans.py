"""What the three sizes of a Task 1 model change in the plans that nnU-Net makes."""

import json
from copy import deepcopy
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from lesionclick.prompts import PromptSpec

FIELDS = PromptSpec(
    encoding="fields", stage="network", radius=6.0, unit="mm", reach_mm=30.0, readers="challenge", survey=True
)
"""The encoding that our own models are trained with."""


class Recipe(NamedTuple):
    """How one size is planned and trained: nnU-Net's planner, configuration and our trainer."""

    planner: str
    configuration: str
    trainer: str


RECIPES = {
    "small": Recipe("ExperimentPlanner", "small", "nnUNetTrainerClicksSmall"),
    "standard": Recipe("ExperimentPlanner", "3d_fullres", "nnUNetTrainerClicks"),
    "large": Recipe("nnUNetPlannerResEncL", "3d_fullres", "nnUNetTrainerClicks"),
}

# Zero is air in both images, so that the zeros which nnU-Net pads with look like air and not like tissue or uptake.
_INTENSITIES = {
    "0": {"mean": -1000.0, "std": 250.0, "percentile_00_5": -1000.0, "percentile_99_5": 1000.0},
    "1": {"mean": 0.0, "std": 5.0, "percentile_00_5": 0.0, "percentile_99_5": 40.0},
}

_SMALL: dict[str, Any] = {
    "inherits_from": "3d_fullres",
    "data_identifier": "nnUNetPlans_small",
    "batch_size": 2,
    "patch_size": [64, 48, 48],
    "spacing": [3.27, 4.0, 4.0],
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 4,
            "features_per_stage": [16, 32, 64, 128],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[3, 3, 3]] * 4,
            "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 2, 2, 2],
            "n_conv_per_stage_decoder": [1, 1, 1],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    },
}


def adapt_plans(plans_file: Path, config: str, spec: PromptSpec, minutes: float) -> None:
    """Write our changes into nnU-Net's plans: fixed intensities, resampling in torch, the prompt, the small size.

    Parameters
    ----------
    plans_file
        The plans that nnU-Net's planner wrote; changed in place.
    config
        ``small``, ``standard`` or ``large``.
    spec
        The click encoding, kept under the key ``prompt``.
    minutes
        Training time of ``small``.
    """
    plans = json.loads(plans_file.read_text())
    plans["prompt"] = asdict(spec)
    plans["minutes"] = minutes
    known = plans["foreground_intensity_properties_per_channel"]
    plans["foreground_intensity_properties_per_channel"] = {c: known[c] | _INTENSITIES[c] for c in ("0", "1")}
    full = plans["configurations"]["3d_fullres"]
    full["normalization_schemes"] = ["CTNormalization", "CTNormalization"]
    for kind, options in (("data", {}), ("seg", {"is_seg": True}), ("probabilities", {})):
        full[f"resampling_fn_{kind}"] = "resample_torch_fornnunet"
        full[f"resampling_fn_{kind}_kwargs"] = {"force_separate_z": False, **options}
    if config == "small":
        plans["transpose_forward"] = plans["transpose_backward"] = [0, 1, 2]
        plans["configurations"]["small"] = deepcopy(_SMALL)
    plans_file.write_text(json.dumps(plans, indent=2))
