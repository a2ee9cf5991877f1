"""One training on several GPUs of a machine, by nnU-Net's distributed data parallel: a process for each."""

import os
from collections.abc import Callable

import torch


def run_on_gpus(run: Callable[[], None], gpus: int) -> None:
    """Run a training in as many processes, each with a GPU of its own and a part of every batch.

    Parameters
    ----------
    run
        Makes a trainer of nnU-Net and runs it; nnU-Net's trainers see by themselves that they are several. It is sent
        to the processes.
    gpus
        How many.

    Raises
    ------
    torch.multiprocessing.ProcessRaisedException
        If it fails in one of them; the others are stopped.
    """
    from nnunetv2.run.run_training import find_free_network_port

    os.environ["MASTER_ADDR"] = "localhost"
    os.environ.setdefault("MASTER_PORT", str(find_free_network_port()))
    torch.multiprocessing.spawn(run_as_rank, args=(gpus, run), nprocs=gpus)  # type: ignore[attr-defined,no-untyped-call]


def run_as_rank(rank: int, gpus: int, run: Callable[[], None]) -> None:
    """Run one of the processes, that of GPU `rank`."""
    from nnunetv2.run.run_training import cleanup_ddp, setup_ddp

    setup_ddp(rank, gpus)
    try:
        torch.cuda.set_device(rank)
        run()
    finally:
        cleanup_ddp()
