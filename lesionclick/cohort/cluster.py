"""The Dask clusters that a cohort runs on: on this machine, on a running scheduler, or through SLURM."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import dask
from dask.system import CPU_COUNT
from distributed import Client, Nanny, Scheduler, SpecCluster, Worker, WorkerPlugin

from lesionclick.errors import LesionClickError

CORES_PER_WORKER = 2
"""Of a worker without a GPU."""
TRIES_AGAIN = 3
"""How often a case is tried again whose worker died over it."""
CONNECT_S = 30.0
"""How long a scheduler may take to answer."""
SETTINGS = {
    "distributed.scheduler.allowed-failures": TRIES_AGAIN,
    "distributed.scheduler.worker-saturation": 1.0,
    "distributed.worker.profile.enabled": False,
}
"""Of Dask. A worker holds no case but the one it does, so that its death harms no other; and nobody looks at the
profiles that it would make of its threads a hundred times a second."""


class ClusterError(LesionClickError):
    """There is no scheduler, or it is gone."""


@dataclass(frozen=True)
class Slurm:
    """Jobs that SLURM is asked for, with one worker each.

    Attributes
    ----------
    jobs
        How many.
    cores, memory, walltime
        Of each, as SLURM writes them.
    directives
        Further options of ``sbatch``, such as ``--gres=gpu:1``.
    """

    jobs: int
    cores: int = CORES_PER_WORKER
    memory: str = "16GB"
    walltime: str = "24:00:00"
    directives: Sequence[str] = ()


@contextmanager
def local_cluster(workers: int | None = None, threads: int | None = None) -> Iterator[Client]:
    """Start workers on this machine, and stop them in the end.

    Parameters
    ----------
    workers
        How many; by default one for each GPU, else one for every two cores. GPUs are dealt out in turn.
    threads
        That each computes with; by default its share of the cores.
    """
    gpus = _list_gpus()
    count = workers or len(gpus) or max(1, CPU_COUNT // CORES_PER_WORKER)
    each = threads or max(1, CPU_COUNT // count)
    environment = [{"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {} for number in range(count)]
    # memory_limit: results are small, so that Dask's pausing and killing would only hit the cases themselves
    specs = {
        number: {
            "cls": Nanny,
            "options": {"nthreads": 1, "memory_limit": 0, "env": variables, "silence_logs": "ERROR"},
        }
        for number, variables in enumerate(environment)
    }
    scheduler = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    with (
        dask.config.set({**SETTINGS, **_numbers_of_threads(each)}),
        SpecCluster(specs, scheduler=scheduler, worker={"cls": Worker}) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_DeafToInterrupts())
        yield client


@contextmanager
def running_cluster(address: str) -> Iterator[Client]:
    """Use a scheduler that runs already, such as ``tcp://node1:8786``, and leave it running.

    Raises
    ------
    ClusterError
        If it does not answer.
    """
    try:
        client = Client(address, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        raise ClusterError(
            f"scheduler {address}: expected an answer within {CONNECT_S:.0f} s, found {error}"
        ) from error
    with client:
        yield client


@contextmanager
def slurm_cluster(slurm: Slurm) -> Iterator[Client]:
    """Ask SLURM for jobs through dask-jobqueue, and give them back in the end.

    What a site needs besides, such as its queue, is read from ``jobqueue.slurm`` of Dask's configuration.
    """
    from dask_jobqueue import SLURMCluster

    with (
        dask.config.set(SETTINGS),
        SLURMCluster(
            cores=slurm.cores,
            processes=1,
            memory=slurm.memory,
            walltime=slurm.walltime,
            worker_extra_args=["--nthreads", "1", "--memory-limit", "0"],
            job_script_prologue=[f"export {name}={slurm.cores}" for name in _THREAD_VARIABLES],
            job_extra_directives=list(slurm.directives),
        ) as cluster,
        Client(cluster) as client,
    ):
        cluster.scale(jobs=slurm.jobs)
        yield client


class _DeafToInterrupts(WorkerPlugin):  # type: ignore[misc]
    """Leaves Ctrl+C, which a terminal sends to the workers too, to the process that stops them."""

    def setup(self, worker: Worker) -> None:  # noqa: ARG002
        signal.signal(signal.SIGINT, signal.SIG_IGN)


_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def _numbers_of_threads(count: int) -> dict[str, object]:
    return {f"distributed.nanny.pre-spawn-environ.{name}": count for name in _THREAD_VARIABLES}


def _list_gpus() -> list[str]:
    """Return what the GPUs of this machine are called in CUDA_VISIBLE_DEVICES."""
    import torch

    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    count = torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
