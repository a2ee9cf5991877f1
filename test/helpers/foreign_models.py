"""Folders as other teams publish them, at a small size and with random weights; no `prompt.json`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from dynamic_network_architectures.architectures.unet import ResidualEncoderUNet
from torch import nn

from helpers.model_folder import write_checkpoint, write_model_folder
from lesionclick.prompts.spec import SECOND_PLACE

ORGANS = 10
TRAINER = "autopetTrainerInteractiveClickGen10ptsRatio80_20EDT2"
PLANS = "nnUNetResEncUNetLPlansMultiTalent"
FORK_CLASS = "nnunetv2.architecture.ResidualEncoderUNetOrgan.ResidualEncoderUNetOrgan"
STEM_CLASS = "dynamic_network_architectures.architectures.unet.ResidualEncoderUNet"
PATCH = (32, 64, 64)


class ResidualEncoderUNetOrgan(ResidualEncoderUNet):
    """nnU-Net's network with outputs for organs and background beside those for lesions, at each stage of the decoder.

    The names in its state dict are those of the class of this name in the second-placed team's fork.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        widths = [layer.in_channels for layer in self.decoder.seg_layers]
        self.decoder.organ_seg_layers = nn.ModuleList(nn.Conv3d(width, ORGANS + 1, 1) for width in widths)


def write_official(folder: Path, **options: Any) -> Path:
    """Write the organisers' baseline: one fold of a plain network, and four channels by name."""
    return write_model_folder(folder, **{"patch_size": PATCH, "deep": True, **options})


def write_second_place(
    folder: Path,
    *,
    folds: Sequence[int] = range(10),
    network_class: str = FORK_CLASS,
    mirror_axes: tuple[int, ...] = (0, 1, 2),
    **options: Any,
) -> Path:
    """Write the second-placed team's folder.

    Parameters
    ----------
    folder
        The new folder.
    folds
        Their numbers.
    network_class
        What the plans call the network: the fork's class, or nnU-Net's own, for which its trainer puts in the other.
    mirror_axes
        What the checkpoints allow.
    options
        As for `write_model_folder`.
    """
    sizes = {"patch_size": PATCH, "deep": True, "network": "ResidualEncoderUNet", "mirror_axes": mirror_axes}
    write_model_folder(folder, prompt=SECOND_PLACE, folds=folds, **{**sizes, **options})
    (folder / "prompt.json").unlink()
    plans = json.loads((folder / "plans.json").read_text())
    plans["plans_name"] = PLANS
    configuration = plans["configurations"]["3d_fullres"]
    configuration["preprocessor_name"] = "autoPetPreprocessor"
    configuration["architecture"]["network_class_name"] = network_class
    (folder / "plans.json").write_text(json.dumps(plans))
    for fold in folds:
        path = folder / f"fold_{fold}" / "checkpoint_final.pth"
        content = torch.load(path, map_location="cpu", weights_only=False)
        content["trainer_name"] = TRAINER
        content["init_args"]["plans"] = plans
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(1000 + fold)
            weights = network_of(plans).state_dict()
        content["network_weights"] = weights | content["network_weights"]
        write_checkpoint(path.parent, content)
    return folder


def network_of(plans: dict[str, Any]) -> nn.Module:
    """Return the fork's network of these plans, with two images and two click channels, and one output per class."""
    kwargs = dict(plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"])
    kwargs |= {"conv_op": nn.Conv3d, "norm_op": nn.InstanceNorm3d, "nonlin": nn.LeakyReLU}
    return ResidualEncoderUNetOrgan(input_channels=4, num_classes=2, deep_supervision=False, **kwargs)
