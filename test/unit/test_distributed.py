"""Training on several GPUs, as far as a machine without any can tell: who is called with what, and what is refused."""

import pickle
from pathlib import Path

import pytest
import torch
from nnunetv2.run import run_training

from lesionclick.errors import InputError
from lesionclick.training.distributed import run_as_rank, run_on_gpus
from lesionclick.training.train import Training, train


def test_a_process_for_each_gpu_gets_the_same_training(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.delenv("MASTER_PORT", raising=False)
    monkeypatch.setattr(torch.multiprocessing, "spawn", lambda *args, **kwargs: calls.append((args, kwargs)))
    training = Training("task1", Path("Dataset001_A"), "large", Path("out"), fold="3", resume=True)
    run_on_gpus(training.run, 4)
    ((function, *_), options) = calls[0]
    assert function is run_as_rank
    assert options["nprocs"] == options["args"][0] == 4
    assert pickle.loads(pickle.dumps(options["args"][1])).__self__ == training  # as spawned processes get it


@pytest.mark.parametrize("fails", [False, True])
def test_a_rank_joins_nnunets_group_and_leaves_it(monkeypatch: pytest.MonkeyPatch, fails: bool) -> None:
    seen: list[object] = []

    def run() -> None:
        seen.append("run")
        if fails:
            raise RuntimeError("broken")

    monkeypatch.setattr(run_training, "setup_ddp", lambda rank, size: seen.append((rank, size)))
    monkeypatch.setattr(run_training, "cleanup_ddp", lambda: seen.append("left"))
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: seen.append(device))
    if fails:
        with pytest.raises(RuntimeError, match="broken"):
            run_as_rank(1, 2, run)
    else:
        run_as_rank(1, 2, run)
    assert seen == [(1, 2), 1, "run", "left"]


@pytest.mark.parametrize(
    ("config", "device", "message"),
    [
        ("small", "auto", "expected one GPU, or none, for configuration small"),
        ("large", "cpu", "on device cpu, found 2 GPUs"),
        ("large", "auto", "expected 2 GPUs, found 1"),
    ],
)
def test_gpus_that_do_not_fit_are_refused_before_any_work(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, config: str, device: str, message: str
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match=message):
        train("task1", tmp_path / "Dataset001_A", config, tmp_path / "out", device=device, gpus=2)
    assert not list(tmp_path.iterdir())
