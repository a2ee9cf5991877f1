"""nnU-Net trainers for interactive models, found by nnU-Net through the folder in `nnUNet_extTrainer`.

The plans carry the click encoding under the key ``prompt`` and, for the small trainer, the time at hand under
``minutes``; `lesionclick.training.plans` writes both. Everything else is nnU-Net's.
"""

import math
from time import time
from typing import Any

import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from batchgeneratorsv2.transforms.utils.compose import ComposeTransforms
from batchgeneratorsv2.transforms.utils.deep_supervision_downsampling import DownsampleSegForDSTransform
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
from nnunetv2.utilities.plans_handling.plans_handler import ConfigurationManager, PlansManager
from torch import nn

from lesionclick.prompts.spec import PromptSpec
from lesionclick.training.augmentation import AppendClicks, MisalignCT
from lesionclick.training.pairs import MakePair, crop_size


def _encoding(plans_manager: PlansManager) -> Any:
    return PromptSpec.from_mapping(plans_manager.plans["prompt"], "plans.json, key prompt").encoding


class nnUNetTrainerClicks(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801  (nnU-Net's naming)
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
        composed.transforms.insert(1, misalign)
        return self._with_clicks(composed)

    def get_validation_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Add clicks to nnU-Net's validation transforms."""
        return self._with_clicks(nnUNetTrainer.get_validation_transforms(*args, **kwargs))

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


class _InFixedTime(nnUNetTrainer):  # type: ignore[misc]
    """Training that ends well within a fixed time, even on a CPU: AdamW, warm-up, then a cosine down to zero.

    The learning rate follows the share of the time that has passed, not the number of steps, so that a busy machine
    shortens the training and does not cut it off half-way down.
    """

    PEAK_LR = 3e-3
    WARM_UP = 0.05
    FOREGROUND_SHARE: float
    """Share of the patches that are centred on a lesion."""
    SMOOTH: float
    """Added to both sides of the Dice fraction, in voxels. With nnU-Net's 1e-5, a patch without a lesion has no
    gradient but that of the cross-entropy, and such patches teach next to nothing.
    """

    def __init__(
        self,
        plans: dict[str, Any],
        configuration: str,
        fold: int | str,
        dataset_json: dict[str, Any],
        device: torch.device,
    ) -> None:
        super().__init__(plans, configuration, fold, dataset_json, device)
        torch.set_flush_denormal(True)  # denormal gradients make a step on a CPU ten times slower
        self.minutes = float(self.plans_manager.plans["minutes"])
        self.initial_lr = self.PEAK_LR
        self.weight_decay = 1e-2
        self.num_iterations_per_epoch = 50
        self.num_val_iterations_per_epoch = 5
        self.num_epochs = 100_000
        self.save_every = 4
        self.oversample_foreground_percent = self.FOREGROUND_SHARE
        self.probabilistic_oversampling = True

    def initialize(self) -> None:
        """Keep the channels last in memory, which makes a step on a CPU a sixth faster."""
        super().initialize()
        self.network.to(memory_format=torch.channels_last_3d)

    def _build_loss(self) -> Any:
        loss: Any = super()._build_loss()
        dice = (loss.loss if self.enable_deep_supervision else loss).dc
        getattr(dice, "_orig_mod", dice).smooth = self.SMOOTH  # compiled where nnU-Net compiles
        return loss

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return AdamW, and a schedule that nnU-Net steps once an epoch and `train_step` overrules."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)
        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, lambda _: 1.0)

    def learning_rate(self, share: float) -> float:
        """Return the rate after `share` (0 to 1) of the training time."""
        if share < self.WARM_UP:
            return self.PEAK_LR * max(share / self.WARM_UP, 0.02)
        return self.PEAK_LR * 0.5 * (1 + math.cos(math.pi * (share - self.WARM_UP) / (1 - self.WARM_UP)))

    def run_training(self) -> None:
        """Run epochs until the time is used up; a checkpoint carries the time that went before it."""
        self.on_train_start()
        starts, ends = (self.logger.get_value(f"epoch_{end}_timestamps", step=None) for end in ("start", "end"))
        used = sum(end - start for start, end in zip(starts, ends, strict=False))
        begin = time() - used
        share = used / (60 * self.minutes)
        while share < 1:
            self.on_epoch_start()
            self.on_train_epoch_start()
            outputs = []
            for _ in range(self.num_iterations_per_epoch):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate(min(share, 1.0))
                outputs.append(self.train_step(next(self.dataloader_train)))
                share = (time() - begin) / (60 * self.minutes)
                if share >= 1:
                    break
            self.on_train_epoch_end(outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                checks = [
                    self.validation_step(next(self.dataloader_val)) for _ in range(self.num_val_iterations_per_epoch)
                ]
                self.on_validation_epoch_end(checks)
            self.on_epoch_end()
        self.on_train_end()


class nnUNetTrainerClicksSmall(_InFixedTime, nnUNetTrainerClicks):  # noqa: N801
    """Trains the small model of Task 1."""

    FOREGROUND_SHARE = 0.5
    SMOOTH = 50.0

    def get_training_transforms(self, *args: Any, **kwargs: Any) -> BasicTransform:
        """Rotate and scale more often than nnU-Net does, since a small data set has few shapes."""
        composed = super().get_training_transforms(*args, **kwargs)
        composed.transforms[0].p_rotation = 0.5
        composed.transforms[0].p_scaling = 0.5
        return composed


class nnUNetTrainerLongitudinal(nnUNetTrainer):  # type: ignore[misc]  # noqa: N801
    """Trains on pairs of baseline and follow-up that are made of single CTs, one lesion to a patch."""

    @staticmethod
    def build_network_architecture(
        plans_manager: PlansManager,
        configuration_manager: ConfigurationManager,
        num_input_channels: int,
        num_output_channels: int,
        enable_deep_supervision: bool = True,
    ) -> nn.Module:
        """Build the planned network with the channels of the baseline and of the points added to its input."""
        return nnUNetTrainerClicks.build_network_architecture(
            plans_manager,
            configuration_manager,
            num_input_channels,
            num_output_channels,
            enable_deep_supervision,
        )

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
        """Do nothing: nnU-Net's predictor knows no baseline; `benchmarks/followup.py` measures the model."""
        self.print_to_log_file(
            f"full validation (probabilities: {save_probabilities}) is done by benchmarks/followup.py"
        )


class nnUNetTrainerLongitudinalSmall(_InFixedTime, nnUNetTrainerLongitudinal):  # noqa: N801
    """Trains the small model of Task 2."""

    FOREGROUND_SHARE = 1.0
    SMOOTH = 10.0

    def _build_loss(self) -> Any:
        """Take the Dice of each patch for itself, so that the largest lesion of a batch does not decide."""
        loss = super()._build_loss()
        dice = (loss.loss if self.enable_deep_supervision else loss).dc
        getattr(dice, "_orig_mod", dice).batch_dice = False
        return loss
