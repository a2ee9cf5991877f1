"""The processes of a training on several GPUs, on a machine without any: each of them takes the CPU for its GPU."""

import os
from pathlib import Path
from typing import Any

import torch
from nnunetv2.run import run_training
from nnunetv2.training.nnUNetTrainer import nnUNetTrainer as nnunet
from torch import distributed, nn

from lesionclick.training import train
from lesionclick.training.distributed import run_as_rank

STEPS = 2


def run_on_cpu(rank: int, ranks: int, training: train.Training, folder: Path) -> None:
    """Train for one epoch of `STEPS` as one of the processes, and write its batch size and weights into `folder`."""
    os.environ.update(nnUNet_n_proc_DA="0")  # no processes for the data, of which there are two cases
    run_training.setup_ddp = lambda rank, size: distributed.init_process_group("gloo", rank=rank, world_size=size)
    torch.cuda.set_device = lambda _: None
    nnunet.DDP = lambda network, **_: nn.parallel.DistributedDataParallel(network)  # without a GPU's number
    make_trainer, trainers = train.make_trainer, []

    def make_short_trainer(*args: Any, **options: Any) -> Any:
        trainer = make_trainer(*args, **options)
        trainer.device, trainer.grad_scaler = torch.device("cpu"), None
        trainer.num_epochs, trainer.num_iterations_per_epoch, trainer.num_val_iterations_per_epoch = 1, STEPS, 1
        trainers.append(trainer)
        return trainer

    train.make_trainer = make_short_trainer
    run_as_rank(rank, ranks, training.run)
    (trainer,) = trainers
    weights = trainer.network.module.state_dict()
    torch.save({"batch_size": trainer.batch_size, "weights": weights}, folder / f"rank{rank}.pth")
