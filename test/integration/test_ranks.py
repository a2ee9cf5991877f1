"""A training by two processes, which nnU-Net's distributed data parallel keeps together."""

import json
from pathlib import Path

import pytest
import torch
from helpers.cpu_ranks import run_on_cpu
from helpers.downloads import write_challenge_petct
from nnunetv2.run.run_training import find_free_network_port

from lesionclick.cli import main
from lesionclick.training.export import export_model
from lesionclick.training.train import Training, prepare


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Training:
    """A training whose data are prepared, of a network with four features a stage."""
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    monkeypatch.setenv("MASTER_PORT", str(find_free_network_port()))
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, "")  # so that what the training sets is undone
    dataset, output = tmp_path / "raw" / "Dataset007_Tiny", tmp_path / "out"
    download = write_challenge_petct(tmp_path / "download", ("fdg_a_1", "fdg_b_1"))
    assert main(["dataset", str(download), "--output", str(dataset)]) == 0
    (plans_file,) = prepare("task1", dataset, "standard", output, processes=1).glob("*Plans.json")
    plans = json.loads(plans_file.read_text())
    planned = plans["configurations"]["3d_fullres"]
    planned["batch_size"], planned["patch_size"] = 3, [32, 32, 32]
    arguments = planned["architecture"]["arch_kwargs"]
    stages = 3
    arguments |= {name: values[:stages] for name, values in arguments.items() if isinstance(values, list)}
    arguments |= {"n_stages": stages, "features_per_stage": [4] * stages}
    arguments["n_conv_per_stage_decoder"] = arguments["n_conv_per_stage_decoder"][: stages - 1]
    plans_file.write_text(json.dumps(plans))
    return Training("task1", dataset, "standard", output)


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_two_ranks_share_each_batch_and_end_with_the_same_weights(training: Training, tmp_path: Path) -> None:
    torch.multiprocessing.spawn(run_on_cpu, args=(2, training, tmp_path), nprocs=2)
    first, second = (torch.load(tmp_path / f"rank{rank}.pth", weights_only=True) for rank in (0, 1))
    assert sorted((first["batch_size"], second["batch_size"])) == [1, 2]
    assert first["weights"].keys() == second["weights"].keys()
    for name, weight in first["weights"].items():
        assert torch.equal(weight, second["weights"][name]), name
    exported = export_model(training.output, training.output / "model")
    (checkpoint,) = exported.rglob("checkpoint_final.pth")
    weights = torch.load(checkpoint, weights_only=True)["network_weights"]
    for name, weight in weights.items():
        torch.testing.assert_close(weight, first["weights"][name].half())
