import json
import shutil
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folder import checkpoint_of, write_checkpoint

from lesionclick.errors import ModelError
from lesionclick.network.checkpoints import find_checkpoints
from lesionclick.network.model_folder import find_model_folder
from lesionclick.petct.model import PetCtModel
from lesionclick.prompts.spec import OFFICIAL_BASELINE

CPU = torch.device("cpu")


class RunsCode:
    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return Path.touch, (Path("code-has-run"),)


class TestUntrustedCheckpoint:
    def test_code_is_refused_and_not_run(self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        write_checkpoint(folder / "fold_0", {**checkpoint_of(folder), "extra": RunsCode()})
        with pytest.raises(ModelError, match=r"checkpoint_final\.pth: expected tensors.*Path.*--trust-checkpoint"):
            PetCtModel.load(folder, device=CPU)
        assert not (tmp_path / "code-has-run").exists()
        assert len(PetCtModel.load(folder, device=CPU, trust_checkpoint=True).networks) == 1
        assert (tmp_path / "code-has-run").exists()

    @pytest.mark.parametrize("extra", [PurePosixPath("a"), np.array([object()])], ids=["path", "object array"])
    def test_other_types_are_refused(self, folder: Path, extra: object) -> None:
        write_checkpoint(folder / "fold_0", {**checkpoint_of(folder), "extra": extra})
        with pytest.raises(ModelError, match=r"checkpoint_final\.pth: expected"):
            PetCtModel.load(folder, device=CPU)


def edit_json(name: str, **changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def edit_configuration(**changes: Any) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["3d_fullres"].update(changes)
        (folder / "plans.json").write_text(json.dumps(plans))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        content = checkpoint_of(folder)
        change(content["network_weights"])
        write_checkpoint(folder / "fold_0", content)

    return edit


def second_fold_of_another_configuration(folder: Path) -> None:
    content = checkpoint_of(folder)
    content["init_args"]["configuration"] = "2d"
    write_checkpoint(folder / "fold_1", content)


def weights_with_batch_statistics(folder: Path) -> None:
    """Weights as nnUNetTrainerBN saves them; its plans still name another norm."""
    content = checkpoint_of(folder)
    norm = "encoder.stages.0.0.convs.0.norm"
    weights = OrderedDict(content["network_weights"])
    weights[f"{norm}.running_mean"] = torch.zeros(8)
    weights._metadata = {"": {"version": 1}, norm: {"version": 2}}  # type: ignore[attr-defined]
    write_checkpoint(folder / "fold_0", {**content, "network_weights": weights})


BROKEN: dict[str, tuple[Callable[[Path], object], str]] = {
    "no folder": (lambda f: shutil.rmtree(f), r"plans\.json: .*FileNotFoundError"),
    "no plans": (lambda f: (f / "plans.json").unlink(), r"expected plans\.json in it or in its task1 or task2"),
    "no dataset": (lambda f: (f / "dataset.json").unlink(), r"dataset\.json: .*FileNotFoundError"),
    "plans not JSON": (lambda f: (f / "plans.json").write_text("{"), r"plans\.json: expected a JSON object"),
    "plans a list": (lambda f: (f / "plans.json").write_text("[]"), r"plans\.json: expected a JSON object.*list"),
    "plans of another kind": (lambda f: (f / "plans.json").write_text("{}"), r"of nnU-Net v2, found KeyError"),
    "prompt of another kind": (lambda f: (f / "prompt.json").write_text('{"sigma": 3}'), r"prompt\.json: unknown keys"),
    "no prompt": (edit_json("dataset.json", channel_names={"0": "CT", "1": "PET"}), r"expected prompt\.json"),
    "no channels": (edit_json("dataset.json", channel_names=None), r"expected channel_names"),
    "click channels missing": (
        lambda f: (
            edit_json("dataset.json", channel_names={"0": "CT", "1": "PET"})(f),
            (f / "prompt.json").write_text(OFFICIAL_BASELINE.to_json()),
        ),
        r"expected 4 channels.*found 2",
    ),
    "two kinds of lesion": (
        edit_json("dataset.json", labels={"background": 0, "lesion": 1, "organ": 2}),
        r"one other label, found .*organ",
    ),
    "regions": (
        edit_json("dataset.json", labels={"background": 0, "a": [1, 2], "b": 2}, regions_class_order=[1, 2]),
        r"one other label",
    ),
    "2D": (edit_configuration(patch_size=[16, 16]), r"expected a 3D configuration"),
    "cascade": (edit_configuration(previous_stage="3d_lowres"), r"expected a 3D configuration that is no cascade"),
    "reoriented images": (edit_json("plans.json", image_reader_writer="NibabelIOWithReorient"), r"keep their axes"),
    "channels without intensities": (
        edit_json("plans.json", foreground_intensity_properties_per_channel={"0": {}}),
        r"a normalisation and intensities of each of \d channels, found .* and those of \['0'\]",
    ),
    "one normalisation too few": (
        edit_configuration(normalization_schemes=["CTNormalization"]),
        r"a normalisation and intensities of each of \d channels, found \['CTNormalization'\]",
    ),
    "unknown normalisation": (
        edit_configuration(normalization_schemes=["Nope"] * 4),
        r"expected a known normalisation, found 'Nope'",
    ),
    "no order of axes": (
        edit_json("plans.json", transpose_backward=[0, 0, 2]),
        r"an order of three axes as transpose_backward, found \[0, 0, 2\]",
    ),
    "unknown preprocessor": (edit_configuration(preprocessor_name="Nope"), r"expected a preprocessor.*Nope"),
    "unknown resampling": (edit_configuration(resampling_fn_probabilities="nope"), r"'nope'"),
    "no fold": (lambda f: shutil.rmtree(f / "fold_0"), r"expected folders fold_"),
    "empty fold": (lambda f: (f / "fold_0" / "checkpoint_final.pth").unlink(), r"fold_0: expected checkpoint_final"),
    "checkpoint no pickle": (
        lambda f: (f / "fold_0" / "checkpoint_final.pth").write_bytes(b"weights"),
        r"checkpoint_final\.pth: expected an nnU-Net v2 checkpoint",
    ),
    "checkpoint cut off": (
        lambda f: (f / "fold_0" / "checkpoint_final.pth").write_bytes(
            (f / "fold_0" / "checkpoint_final.pth").read_bytes()[:9000]
        ),
        r"checkpoint_final\.pth: expected an nnU-Net v2 checkpoint",
    ),
    "checkpoint of another program": (
        lambda f: write_checkpoint(f / "fold_0", {"state_dict": {}}),
        r"checkpoint_final\.pth: .*KeyError: 'network_weights'",
    ),
    "folds of two configurations": (second_fold_of_another_configuration, r"one configuration, found \['2d', '3d_f"),
    "weight missing": (edit_weights(lambda w: w.pop("decoder.seg_layers.1.bias")), r"1 missing.*seg_layers\.1\.bias"),
    "batch norms of another trainer": (
        weights_with_batch_statistics,
        r"statistics of batch norms, such as encoder\.stages\.0\.0\.convs\.0\.norm\.running_mean",
    ),
    "weight of another shape": (
        edit_weights(lambda w: w.update({"decoder.seg_layers.1.bias": torch.zeros(3)})),
        r"checkpoint_final\.pth: expected weights of the network.*size mismatch",
    ),
}


def test_final_weights_come_before_the_best_and_folds_in_order(tmp_path: Path) -> None:
    for fold in ("fold_2", "fold_0", "fold_1"):
        (tmp_path / fold).mkdir()
        for kind in ("best", "final"):
            (tmp_path / fold / f"checkpoint_{kind}.pth").touch()
    assert find_checkpoints(tmp_path) == [tmp_path / f"fold_{n}" / "checkpoint_final.pth" for n in range(3)]


def test_a_file_beside_the_folds_is_none(tmp_path: Path) -> None:
    (tmp_path / "fold_0").mkdir()
    (tmp_path / "fold_0" / "checkpoint_best.pth").touch()
    (tmp_path / "fold_0.zip").touch()
    assert find_checkpoints(tmp_path) == [tmp_path / "fold_0" / "checkpoint_best.pth"]


@pytest.mark.parametrize(("damage", "message"), BROKEN.values(), ids=BROKEN.keys())
def test_broken_folder_is_refused(damage: Callable[[Path], object], message: str, folder: Path) -> None:
    damage(folder)
    with pytest.raises(ModelError, match=rf"(?s){message}"):
        PetCtModel.load(folder, device=CPU)


def test_a_given_folder_with_a_folder_too_many_is_told_as_such(tmp_path):
    (tmp_path / "given" / "deeper").mkdir(parents=True)
    (tmp_path / "given" / "deeper" / "plans.json").touch()
    with pytest.raises(ModelError, match=r"expected plans\.json in it or in its task1 or task2.*lies in .*deeper"):
        find_model_folder(tmp_path / "given", "task1")
