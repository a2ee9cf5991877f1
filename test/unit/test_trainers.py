"""What our trainers change in nnU-Net's, and which checkpoint a training goes on from."""

import json
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from nnunetv2.experiment_planning import plan_and_preprocess_api
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

from lesionclick.prompts.spec import OFFICIAL_BASELINE
from lesionclick.training import train
from lesionclick.training.train import find_trainer


def bare(name: str, **attributes: Any) -> Any:
    """A trainer without data, with some attributes."""
    kind = find_trainer(name)
    trainer = kind.__new__(kind)
    for key, value in attributes.items():
        setattr(trainer, key, value)
    return trainer


@pytest.mark.parametrize("flat", [False, True])
def test_ct_is_misaligned_in_space_for_flat_patches_too(flat: bool) -> None:
    """nnU-Net turns a flat patch's slices in their plane, for which it takes the slices for channels meanwhile."""
    trainer = bare(
        "nnUNetTrainerClicks",
        configuration_manager=SimpleNamespace(spacing=(8.0, 1.0, 1.0)),
        plans_manager=SimpleNamespace(plans={"prompt": json.loads(OFFICIAL_BASELINE.to_json())}),
        dataset_json={},
    )
    patch = (6, 24, 24)
    transforms = trainer.get_training_transforms(patch, (-0.5, 0.5), [[1, 1, 1]], (0, 1, 2), flat)
    label = torch.zeros((1, patch[0], 32, 32), dtype=torch.int16)
    label[:, 2:4, 12:20, 12:20] = 1
    np.random.seed(0)
    for _ in range(12):  # three of ten are misaligned
        made = transforms(image=torch.randn(2, *label.shape[1:]), segmentation=label)
        assert made["image"].shape == (4, *patch)


def test_the_rate_that_is_logged_is_the_one_that_is_trained_with() -> None:
    trainer = bare(
        "nnUNetTrainerClicksSmall", network=torch.nn.Linear(1, 1), initial_lr=3e-3, weight_decay=0.0, share=0.525
    )
    optimizer, schedule = trainer.configure_optimizers()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(1.5e-3)
    trainer.share = 1.0
    optimizer.step()
    schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize("name", ["nnUNetTrainerLongitudinal", "nnUNetTrainerLongitudinalSmall"])
def test_each_pair_is_made_around_a_lesion(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nnUNetTrainer, "initialize", lambda _: None)
    trainer = bare(name, oversample_foreground_percent=0.33, device=torch.device("cuda"))
    trainer.initialize()
    assert trainer.oversample_foreground_percent == 1.0


@pytest.mark.parametrize(
    ("there", "resume", "left"),
    [
        (["final", "latest"], True, {"latest"}),  # an earlier training that ended, and one that was cut off
        (["latest", "final"], True, {"final"}),  # one that was cut off between its last two steps
        (["best", "final"], True, {"final", "best"}),  # one that ended and is prolonged
        (["best", "latest"], True, {"latest", "best"}),
        (["final", "best", "latest"], False, set()),  # a new one begins
    ],
)
def test_a_training_goes_on_from_its_own_checkpoint(
    tmp_path: Path, there: list[str], resume: bool, left: set[str]
) -> None:
    for second, name in enumerate(there):
        path = tmp_path / f"checkpoint_{name}.pth"
        path.touch()
        os.utime(path, (second, second))
    train._forget_other_trainings(tmp_path, resume=resume)
    assert {path.stem.removeprefix("checkpoint_") for path in tmp_path.iterdir()} == left


def test_data_that_are_prepared_anew_are_split_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net writes a split where there is none, which knows nothing of cases that came later."""
    dataset, prepared = tmp_path / "Dataset001_A", tmp_path / "out" / "preprocessed" / "Dataset001_A"
    dataset.mkdir()
    (dataset / "dataset.json").write_text('{"channel_names": {"0": "CT", "1": "PET"}}')
    prepared.mkdir(parents=True)
    (prepared / "splits_final.json").write_text("[]")
    monkeypatch.setattr(
        fingerprint_extractor, "DatasetFingerprintExtractor", lambda *_: SimpleNamespace(run=lambda **_: None)
    )
    monkeypatch.setattr(plan_and_preprocess_api, "plan_experiments", lambda *_: "plans")
    monkeypatch.setattr(plan_and_preprocess_api, "preprocess", lambda *_: None)
    for name in ("adapt_plans", "_list_places", "set_folders", "require_raw_set"):
        monkeypatch.setattr(train, name, lambda *_, **__: None)
    train.prepare("task1", dataset, "small", tmp_path / "out", minutes=1.0, processes=1)
    assert not (prepared / "splits_final.json").exists()
    (dataset / "splits_final.json").write_text('[{"train": ["a"], "val": ["b"]}]')
    train.prepare("task1", dataset, "small", tmp_path / "out", minutes=1.0, processes=1)
    assert (prepared / "splits_final.json").read_text() == (dataset / "splits_final.json").read_text()
