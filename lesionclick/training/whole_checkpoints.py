"""Checkpoints that are whole at any moment; a base of our trainers."""

from pathlib import Path

from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from lesionclick.images import replacing


class WithWholeCheckpoints(nnUNetTrainer):  # type: ignore[misc]
    """Writes each checkpoint beside the one before: nnU-Net writes over it, and a training that ends then is lost."""

    def save_checkpoint(self, filename: str) -> None:
        """Write a checkpoint that takes the place of `filename` once it is on the disk."""
        if self.local_rank != 0 or self.disable_checkpointing:
            super().save_checkpoint(filename)  # which writes none
            return
        with replacing(Path(filename)) as temporary:
            super().save_checkpoint(str(temporary))
