"""Write small nnU-Net model folders with random weights, for tests that need a model but not a good one."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

from lesionclick.prompts.spec import PromptSpec

STEM = "dynamic_network_architectures.architectures.unet"
SHALLOW: dict[str, Any] = {
    "n_stages": 3,
    "features_per_stage": [8, 16, 32],
    "kernel_sizes": [[3, 3, 3]] * 3,
    "strides": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
    "n_conv_per_stage_decoder": [1, 1],
}
DEEP: dict[str, Any] = {
    "n_stages": 6,
    "features_per_stage": [2, 4, 4, 4, 4, 4],
    "kernel_sizes": [[3, 3, 3]] * 6,
    "strides": [[1, 1, 1], *[[2, 2, 2]] * 4, [1, 2, 2]],
    "n_conv_per_stage_decoder": [1] * 5,
}
"""As deep as the networks that teams train, for a patch of at least 32 x 64 x 64 voxels, but with few features."""
DEEP_BLOCKS = {"PlainConvUNet": [2] * 6, "ResidualEncoderUNet": [1, 3, 4, 6, 6, 6]}
RESAMPLING = {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None}


def write_model_folder(
    folder: Path,
    *,
    prompt: PromptSpec | None = None,
    folds: Sequence[int | str] = (0,),
    seed: int = 0,
    patch_size: tuple[int, int, int] = (32, 32, 32),
    spacing_zyx: tuple[float, float, float] = (3.0, 2.0, 2.0),
    transpose: tuple[int, int, int] = (0, 1, 2),
    mirror_axes: tuple[int, ...] = (0, 1, 2),
    torch_resampling: bool = False,
    network: str = "PlainConvUNet",
    deep: bool = False,
    network_options: Mapping[str, Any] | None = None,
    weights: torch.dtype = torch.float32,
) -> Path:
    """Write plans.json, dataset.json, checkpoints as nnU-Net writes them, and prompt.json where a prompt is given.

    Without `prompt`, the channels are those of the official baseline: CT, PET, FG, BG. `network_options` replace some
    of the small network's.
    """
    n_images = 1 if prompt and prompt.task == "task2" else 2
    click_channels = prompt.encoding.n_channels if prompt else 2
    names = ["CT", "PET"][:n_images]
    if prompt is None or prompt.stage == "image":
        names += ["FG", "BG", *(f"click{n}" for n in range(2, click_channels))]
    dataset = {
        "channel_names": {str(n): name for n, name in enumerate(names)},
        "labels": {"background": 0, "lesion": 1},
        "numTraining": 1,
        "file_ending": ".nii.gz",
    }
    architecture = _architecture(network, deep)
    plans = _plans(
        len(names), patch_size, spacing_zyx, transpose, torch_resampling=torch_resampling, architecture=architecture
    )
    plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= network_options or {}
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    if prompt is not None:
        (folder / "prompt.json").write_text(prompt.to_json())
    for n, fold in enumerate(folds):
        state = _random_weights(plans, n_images + click_channels, seed + n)
        write_checkpoint(
            folder / f"fold_{fold}",
            {
                "network_weights": {key: value.to(weights) for key, value in state.items()},
                "optimizer_state": None,
                "grad_scaler_state": None,
                "logging": {
                    "mean_fg_dice": [np.float64(0.5)],
                    "ema_fg_dice": [np.float64(0.5)],
                    "train_losses": [np.float32(0.1)],
                    "dice_per_class_or_region": [np.array([0.5, 0.25])],
                },
                "_best_ema": np.float64(0.5),
                "current_epoch": 1,
                "init_args": {
                    "plans": plans,
                    "configuration": "3d_fullres",
                    "fold": fold,
                    "dataset_json": dataset,
                    "device": torch.device("cpu"),
                    "dtype": np.dtype("float32"),
                },
                "trainer_name": "nnUNetTrainer",
                "inference_allowed_mirroring_axes": mirror_axes,
            },
        )
    return folder


def write_checkpoint(fold: Path, content: dict[str, Any], kind: str = "final") -> Path:
    fold.mkdir(exist_ok=True)
    path = fold / f"checkpoint_{kind}.pth"
    torch.save(content, path)
    return path


def _random_weights(plans: dict[str, Any], n_inputs: int, seed: int) -> dict[str, torch.Tensor]:
    architecture = plans["configurations"]["3d_fullres"]["architecture"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = get_network_from_plans(
            architecture["network_class_name"],
            architecture["arch_kwargs"],
            architecture["_kw_requires_import"],
            n_inputs,
            2,
            allow_init=True,
            deep_supervision=True,
        )
    weights: dict[str, torch.Tensor] = network.state_dict()
    return weights


def _architecture(network: str, deep: bool) -> dict[str, Any]:
    blocks = "n_blocks_per_stage" if network == "ResidualEncoderUNet" else "n_conv_per_stage"
    return {
        "network_class_name": f"{STEM}.{network}",
        "arch_kwargs": {
            **(DEEP if deep else SHALLOW),
            blocks: DEEP_BLOCKS[network] if deep else [1, 1, 1],
            "conv_op": "torch.nn.modules.conv.Conv3d",
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


def _plans(
    n_channels: int,
    patch_size: Sequence[int],
    spacing_zyx: Sequence[float],
    transpose: Sequence[int],
    *,
    torch_resampling: bool,
    architecture: dict[str, Any],
) -> dict[str, Any]:
    kind = "resample_torch_fornnunet" if torch_resampling else "resample_data_or_seg_to_shape"
    data, linear = ({"force_separate_z": False},) * 2 if torch_resampling else (RESAMPLING, {**RESAMPLING, "order": 1})
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(patch_size),
        "median_image_size_in_voxels": list(patch_size),
        "spacing": [spacing_zyx[axis] for axis in transpose],
        "normalization_schemes": ["CTNormalization"] + ["ZScoreNormalization"] * (n_channels - 1),
        "use_mask_for_norm": [False] * n_channels,
        "resampling_fn_data": kind,
        "resampling_fn_seg": kind,
        "resampling_fn_probabilities": kind,
        "resampling_fn_data_kwargs": data,
        "resampling_fn_seg_kwargs": {**linear, "is_seg": True},
        "resampling_fn_probabilities_kwargs": linear,
        "batch_dice": False,
        "architecture": architecture,
    }
    intensities = {"mean": 0.0, "std": 300.0, "percentile_00_5": -900.0, "percentile_99_5": 900.0}
    return {
        "dataset_name": "Dataset001_Random",
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing_zyx[axis] for axis in transpose],
        "original_median_shape_after_transp": list(patch_size),
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": list(transpose),
        "transpose_backward": [list(transpose).index(axis) for axis in range(3)],
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {str(n): intensities for n in range(n_channels)},
        "configurations": {"3d_fullres": configuration},
    }


def checkpoint_of(folder: Path) -> dict[str, Any]:
    """Return what the checkpoint of fold 0 holds."""
    path = folder / "fold_0" / "checkpoint_final.pth"
    content: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=False)
    return content
