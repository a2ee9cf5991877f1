"""nnU-Net trainers for interactive models, found by nnU-Net through the folder in `nnUNet_extTrainer`.

The plans carry the click encoding under the key ``prompt`` and, for the small trainer, the time at hand under
``minutes``; `lesionclick.training.plans` writes both. Everything else is nnU-Net's.
"""

import math
from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from batchgeneratorsv2.transforms.utils.pseudo2d import Convert2DTo3DTransform
from batchgeneratorsv2.transforms.utils.remove_label import RemoveLabelTansform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from lesionclick.prompts.spec import PromptSpec
from lesionclick.training.augmentation import (
    ZOOM_MARGIN,
    AppendClicks,
    LightAugmentation,
    MisalignCT,
    OnlyLesions,
    WeighLesions,
)
from lesionclick.training.fixed_time import InFixedTime
from lesionclick.training.losses import FIRST_ORGAN, LesionLoss
from lesionclick.training.pairs import MakePair, crop_size
from lesionclick.training.whole_checkpoints import WithWholeCheckpoints


def _encoding(plans_manager: PlansManager) -> Any:
    return PromptSpec.from_mapping(plans_manager.plans["prompt"], "plans.json, key prompt").encoding


class nnUNetTrainerClicks(WithWholeCheckpoints):  # noqa: N801  (nnU-Net's naming)
    """Adds click channels, simulated per patch after augmentation, to nnU-Net's default training."""

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the planned network with the channels of the click encoding added to its input."""
        network: nn.Module = nnUNetTrainer.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels + _encoding(plans_manager).n_channels,
            num_output_channels,
            enable_deep_supervision,
        )
        return network

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Add misalignment and clicks to nnU-Net's training transforms."""
        composed = nnUNetTrainer.get_training_transforms(*args, **kwargs)
        misalign = MisalignCT(10.0, tuple(self.configuration_manager.spacing), probability=0.3)
        # behind the spatial transform, which comes first, or for flat patches between two that make it one of planes
        planes = (n for n, one in enumerate(composed.transforms) if isinstance(one, Convert2DTo3DTransform))
        composed.transforms.insert(next(planes, 0) + 1, misalign)
        return self._with_clicks(self._without_organs(composed))

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Add clicks to nnU-Net's validation transforms."""
        return self._with_clicks(self._without_organs(nnUNetTrainer.get_validation_transforms(*args, **kwargs)))

    def _without_organs(self, composed: BasicTransform) -> BasicTransform:
        if self.dataset_json.get("organs"):
            composed.transforms.insert(0, OnlyLesions())
        return composed

    def _with_clicks(self, composed: BasicTransform) -> BasicTransform:
        """Insert the clicks before the label is downsampled for deep supervision."""
        clicks = AppendClicks(_encoding(self.plans_manager), tuple(self.configuration_manager.spacing))
        last = len(composed.transforms)
        if isinstance(composed.transforms[-1], DownsampleSegForDSTransform):
            last -= 1
        composed.transforms.insert(last, clicks)
        return composed

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Do nothing: nnU-Net's predictor gives no clicks; `lesionclick replay` measures the model step by step."""
        self.print_to_log_file(f"full validation (probabilities: {save_probabilities}) is done by lesionclick replay")


class nnUNetTrainerClicksSmall(InFixedTime, nnUNetTrainerClicks):  # noqa: N801
    """Trains the small model of Task 1: first without clicks, so that it learns to see lesions, then with them.

    Where ``dataset.json`` names ``organs``, the second-finest output has one more channel for each of them.
    """

    SMOOTH = 3.0
    CLICKS_FROM = 0.4
    """Share of the training time after which the network gets clicks."""
    UNCLICKED_SHARE = 0.4
    """Share of the samples that get none afterwards, beside those that `AppendClicks` leaves without."""
    STRICT_FROM = 0.7
    """Share of the training time after which the loss is as strict as it gets."""
    STRICTEST = 0.85
    """How strict that is: what is left of the weights keeps small lesions from being forgotten."""

    def initialize(self) -> None:
        """Give the network its outputs for organs."""
        super().initialize()
        if organs := len(self.dataset_json.get("organs", ())):
            outputs = self.network.decoder.seg_layers
            outputs[-2] = nn.Conv3d(outputs[-2].in_channels, FIRST_ORGAN + organs, 1).to(self.device)
            self.optimizer, self.lr_scheduler = self.configure_optimizers()

    def _build_loss(self) -> Any:
        return LesionLoss(self.SMOOTH)

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
        """Ask for crops that hold a patch at any zoom; `LightAugmentation` turns and mirrors by itself."""
        self.inference_allowed_mirroring_axes = (0, 1, 2)
        patch_size = self.configuration_manager.patch_size
        return (0.0, 0.0), False, [math.ceil(n * ZOOM_MARGIN) for n in patch_size], None

    def get_training_transforms(self, *args: Any, **_: Any) -> BasicTransform:
        """Take light augmentation in place of nnU-Net's, which a CPU cannot keep up with."""
        configuration = self.configuration_manager
        light = LightAugmentation(configuration.patch_size, configuration.spacing)
        misalign = MisalignCT(10.0, tuple(configuration.spacing), probability=0.3)
        return self._patches([light, misalign], deep_supervision_scales=args[2])

    def get_validation_transforms(self, *args: Any, **_: Any) -> BasicTransform:
        """Take patches as they are."""
        return self._patches([RemoveLabelTansform(-1, 0)], deep_supervision_scales=args[0])

    def _patches(self, transforms: list[BasicTransform], deep_supervision_scales: Any) -> BasicTransform:
        downsample = DownsampleSegForDSTransform(ds_scales=deep_supervision_scales)
        return self._with_clicks(ComposeTransforms([*transforms, WeighLesions(), downsample]))

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Withhold the clicks of all samples in the first part of the training, then of some."""
        self.loss.strictness = self.STRICTEST * min(self.share / self.STRICT_FROM, 1.0)
        share = 1.0 if self.share < self.CLICKS_FROM else self.UNCLICKED_SHARE
        without = torch.rand(len(batch["data"])) < share
        batch["data"][without, self.num_input_channels :] = 0
        result: dict[str, Any] = super().train_step(batch)
        return result

    def validation_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Measure a batch without clicks; ``unclicked`` holds the margins in its lesions."""
        batch["data"][:, self.num_input_channels :] = 0
        outputs = self.network(batch["data"].to(self.device))
        targets = [target.to(self.device) for target in batch["target"]]
        lesion_logit = outputs[0][:, 1] - outputs[0][:, 0]
        lesion, found = targets[0][:, 0] == 1, lesion_logit > 0
        counts = {"tp_hard": lesion & found, "fp_hard": found & ~lesion, "fn_hard": lesion & ~found}
        return {
            "loss": self.loss(outputs, targets).cpu().numpy(),
            "unclicked": lesion_logit[lesion].cpu().numpy(),
            **{name: np.array([voxels.sum().item()]) for name, voxels in counts.items()},
        }

    def on_validation_epoch_end(self, val_outputs: list[dict[str, Any]]) -> None:
        """Log how sure the network is inside lesions without a click: where it is saturated, it learns no more."""
        unclicked = np.concatenate([output.pop("unclicked") for output in val_outputs])
        levels = np.quantile(unclicked, (0.1, 0.5, 0.9)).round(2) if len(unclicked) else ()
        self.print_to_log_file("logit in lesions without a click (10th percentile, median, 90th):", *levels)
        super().on_validation_epoch_end(val_outputs)


class nnUNetTrainerLongitudinal(WithWholeCheckpoints):  # noqa: N801
    """Trains on pairs of baseline and follow-up that are made of single CTs, one lesion to a patch."""

    build_network_architecture = staticmethod(nnUNetTrainerClicks.build_network_architecture)

    def initialize(self) -> None:
        """Centre each patch on a lesion: one without a lesion shows nothing that a pair could be made of."""
        self.oversample_foreground_percent = 1.0
        super().initialize()

    def configure_rotation_dummyDA_mirroring_and_inital_patch_size(self) -> Any:  # noqa: N802
        """Ask for crops that hold a patch at any zoom; `MakePair` turns and mirrors by itself."""
        self.inference_allowed_mirroring_axes = (0, 1, 2)
        return (0.0, 0.0), False, crop_size(self.configuration_manager.patch_size), None

    def get_training_transforms(self, *args: Any, **_: Any) -> BasicTransform:
        """Make pairs; they bring noise, turns, mirroring and another calibration with them."""
        return self._pairs(deep_supervision_scales=args[2])

    def get_validation_transforms(self, *args: Any, **_: Any) -> BasicTransform:
        """Make pairs, as in training."""
        return self._pairs(deep_supervision_scales=args[0])

    def _pairs(self, deep_supervision_scales: Any) -> BasicTransform:
        configuration, plans = self.configuration_manager, self.plans_manager
        transforms: list[BasicTransform] = [
            MakePair(
                _encoding(plans),
                tuple(configuration.patch_size),
                tuple(configuration.spacing),
                plans.foreground_intensity_properties_per_channel["0"],
            )
        ]
        if deep_supervision_scales is not None:
            transforms.append(DownsampleSegForDSTransform(ds_scales=deep_supervision_scales))
        return ComposeTransforms(transforms)

    def perform_actual_validation(self, save_probabilities: bool = False) -> None:
        """Do nothing: nnU-Net's predictor knows no baseline; `benchmarks/longitudinal.py` measures the model."""
        self.print_to_log_file(
            f"full validation (probabilities: {save_probabilities}) is done by benchmarks/longitudinal.py"
        )


class nnUNetTrainerLongitudinalSmall(InFixedTime, nnUNetTrainerLongitudinal):  # noqa: N801
    """Trains the small model of Task 2."""

    SMOOTH = 10.0
