"""Training that ends well within a fixed time, even on a CPU; a base of our small trainers."""

import math
from time import time
from typing import Any

import torch
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from lesionclick.network.acceleration import multiplies_bfloat16, put_channels_last
from lesionclick.network.device import keep_memory


class InFixedTime(nnUNetTrainer):  # type: ignore[misc]
    """Training that ends well within a fixed time, even on a CPU: AdamW, warm-up, then a cosine down to zero.

    The learning rate follows the share of the time that has passed, not the number of steps, so that a busy machine
    shortens the training and does not cut it off half-way down. Where the plans hold ``steps``, it ends after these
    instead, so that recipes can be compared at equal steps.
    """

    PEAK_LR = 3e-3
    WARM_UP = 0.05
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
        keep_memory()
        self.bfloat16 = device.type == "cpu" and multiplies_bfloat16()
        self.share = 0.0
        self.minutes = float(self.plans_manager.plans["minutes"])
        self.steps: int | None = self.plans_manager.plans.get("steps")
        self.initial_lr = self.PEAK_LR
        self.weight_decay = 1e-2
        self.num_iterations_per_epoch = 200
        self.num_val_iterations_per_epoch = 10
        self.num_epochs = 100_000
        self.save_every = 1
        self.oversample_foreground_percent = 1.0  # the prepared cases list where patches lie, on lesions or not
        self.probabilistic_oversampling = True

    def initialize(self) -> None:
        """Keep the channels last in memory, with norms for that, which take a quarter off a step on a CPU."""
        super().initialize()
        if self.device.type == "cpu":
            put_channels_last(self.network)

    def _build_loss(self) -> Any:
        loss: Any = super()._build_loss()
        dice = (loss.loss if self.enable_deep_supervision else loss).dc
        getattr(dice, "_orig_mod", dice).smooth = self.SMOOTH  # compiled where nnU-Net compiles
        return loss

    def configure_optimizers(self) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
        """Return AdamW and its schedule, which nnU-Net steps once an epoch, and `run_training` before each step."""
        optimizer = torch.optim.AdamW(self.network.parameters(), self.initial_lr, weight_decay=self.weight_decay)

        def part_of_peak(_epoch: int) -> float:
            return self.learning_rate(min(self.share, 1.0)) / self.PEAK_LR

        return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, part_of_peak)

    def learning_rate(self, share: float) -> float:
        """Return the rate after `share` (0 to 1) of the training time."""
        if share < self.WARM_UP:
            return self.PEAK_LR * max(share / self.WARM_UP, 0.02)
        return self.PEAK_LR * 0.5 * (1 + math.cos(math.pi * (share - self.WARM_UP) / (1 - self.WARM_UP)))

    def train_step(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Make a step, in bfloat16 where the CPU has it; the loss stays float32."""
        if not self.bfloat16:
            result: dict[str, Any] = super().train_step(batch)
            return result
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            outputs = self.network(batch["data"].to(memory_format=torch.channels_last_3d))
        loss = self.loss([output.float() for output in outputs], batch["target"])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), 12)
        self.optimizer.step()
        return {"loss": loss.detach().numpy()}

    def _share(self, seconds: float, steps: int) -> float:
        """Return how much of the training is done, after `seconds` in all and `steps` in this epoch."""
        if self.steps is not None:
            return float(self.current_epoch * self.num_iterations_per_epoch + steps) / self.steps
        return seconds / (60 * self.minutes)

    def run_training(self) -> None:
        """Run epochs until the time is used up; a checkpoint carries the time that went before it."""
        self.on_train_start()
        self.print_to_log_file(f"bfloat16: {self.bfloat16}, threads: {torch.get_num_threads()}")
        starts, ends = (self.logger.get_value(f"epoch_{end}_timestamps", step=None) for end in ("start", "end"))
        used = sum(end - start for start, end in zip(starts, ends, strict=False))
        begin = time() - used
        self.share = self._share(used, 0)
        while self.share < 1:
            self.on_epoch_start()
            self.on_train_epoch_start()
            outputs, waited, start = [], 0.0, time()
            for _ in range(self.num_iterations_per_epoch):
                for group in self.optimizer.param_groups:
                    group["lr"] = self.learning_rate(min(self.share, 1.0))
                asked = time()
                batch = next(self.dataloader_train)
                waited += time() - asked
                outputs.append(self.train_step(batch))
                self.share = self._share(time() - begin, len(outputs))
                if self.share >= 1:
                    break
            lasted = time() - start
            each, waiting = lasted / len(outputs), waited / lasted
            self.print_to_log_file(f"{len(outputs)} steps, {each:.3f} s each, {waiting:.1%} of it waiting for data")
            self.on_train_epoch_end(outputs)
            with torch.no_grad():
                self.on_validation_epoch_start()
                checks = [
                    self.validation_step(next(self.dataloader_val)) for _ in range(self.num_val_iterations_per_epoch)
                ]
                self.on_validation_epoch_end(checks)
            self.on_epoch_end()
        self.on_train_end()
