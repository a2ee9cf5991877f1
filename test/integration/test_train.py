import json
import pickle
import shutil
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from helpers.downloads import write_challenge_petct, write_longitudinal
from helpers.model_folder import write_model_folder
from nnunetv2.training.dataloading import nnunet_dataset

from lesionclick.cli import main
from lesionclick.errors import InputError, ModelError
from lesionclick.evaluation.samples import make_visits
from lesionclick.images import Volume
from lesionclick.longitudinal.lesions import Lesion
from lesionclick.longitudinal.masks import segment_lesions
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import Prompts
from lesionclick.simulation.phantoms import make_phantom
from lesionclick.simulation.readers import simulate
from lesionclick.training.export import export_model
from lesionclick.training.places import balance_lesions
from lesionclick.training.train import train


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("nnUNet_n_proc_DA", "1")
    for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results", "nnUNet_extTrainer"):
        monkeypatch.setenv(name, "")  # so that what the training sets is undone


def run(*arguments):
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture
def dataset(tmp_path):
    """The data set of a download with two cut-out phantoms."""
    download = write_challenge_petct(tmp_path / "download", ("fdg_a_1", "fdg_b_1"))
    run("dataset", download, "--output", tmp_path / "raw" / "Dataset007_Tiny")
    return tmp_path / "raw" / "Dataset007_Tiny"


def train_from(model, dataset, output):
    """Train for a step from the weights of a model, on the data that were prepared for it."""
    shutil.copytree(model.parent / "preprocessed", output / "preprocessed")
    options = {"device": "cpu", "minutes": 0.001, "resume": True, "initial": model}
    return train("task1", dataset, "small", output, **options)


def replay_held_out(dataset, trained, folder):
    """Export what was trained as an archive, and replay the held-out fold with what is in it; return the masks."""
    run("export", trained, "--output", folder / "model.tar.gz")
    (folder / "model").mkdir()
    subprocess.run(["tar", "-C", folder / "model", "-xzf", folder / "model.tar.gz"], check=True)
    run("held-out", dataset, "--fold", 0, "--output", folder / "held-out")
    cases = folder / "held-out" / "cases"
    labels = folder / "held-out" / "labels"
    run(
        "replay",
        cases,
        "--labels",
        labels,
        "--model",
        folder / "model",
        "--steps",
        "0,2",
        "--output",
        folder / "replay",
    )
    assert (folder / "replay" / "report.html").is_file()
    return {path.relative_to(folder / "replay"): path for path in (folder / "replay").glob("*/*.mha")}


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_a_trained_model_folder_segments_a_case(dataset, tmp_path):
    folder = train("task1", dataset, "small", tmp_path / "out", device="cpu", minutes=0.001, processes=1)

    weights = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    assert all(tensor.dtype == torch.half for tensor in weights.values())
    assert sum(tensor.numel() for tensor in weights.values()) > 1_000_000

    model = PetCtModel.load(folder, device=torch.device("cpu"))
    phantom = make_phantom(0, "fdg", lesions=6, spacing_xyz=(6.0, 6.0, 6.0), field_of_view=(0.4, 0.6))
    points = simulate(phantom.label.array > 0, phantom.pet.array, np.random.default_rng(0))
    prompts = Prompts.from_indices(tumor_zyx=points[0], background_zyx=points[1])
    mask = PetCtSession(model, PetCtCase(phantom.ct, phantom.pet, prompts)).segment().mask
    assert mask.array[tuple(points[0].T)].all()
    assert not mask.array[tuple(points[1].T)].any()

    # one step from given weights, at the low rate of the warm-up, stays near them; the outputs at a quarter
    tuned = train_from(folder, dataset, tmp_path / "tuned")
    moved = torch.load(tuned / "fold_0" / "checkpoint_final.pth", weights_only=True)["network_weights"]
    factor = {name: 0.25 if "seg_layers" in name else 1.0 for name in weights}
    change = [(moved[name].float() - factor[name] * weights[name].float()).abs().max().item() for name in weights]
    assert 0 < max(change) < 0.01

    (held_out,) = json.loads((dataset / "splits_final.json").read_text())[0]["val"]
    masks = replay_held_out(dataset, tmp_path / "out", tmp_path)
    assert {str(path) for path in masks} == {f"{held_out}/step_{step:02}.mha" for step in (0, 2)}
    assert Volume.read(masks[Path(held_out, "step_02.mha")]).array.any()  # a clicked voxel is a lesion


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_organs_are_learnt_and_left_out_of_the_model(dataset, tmp_path):
    for path in dataset.glob("labelsTr/*.nii.gz"):
        image = sitk.ReadImage(str(path))
        array = sitk.GetArrayFromImage(image)
        labelled = sitk.GetImageFromArray(np.where(array == 0, 2, array))
        labelled.CopyInformation(image)
        sitk.WriteImage(labelled, str(path))
    description = json.loads((dataset / "dataset.json").read_text())
    (dataset / "dataset.json").write_text(json.dumps({**description, "organs": ["all", "none"]}))
    folder = train("task1", dataset, "small", tmp_path / "out", device="cpu", minutes=0.001, processes=1)
    (checkpoint,) = (tmp_path / "out" / "results").glob("*/*/fold_0/checkpoint_final.pth")
    name = "decoder.seg_layers.2.weight"
    trained, exported = (
        torch.load(path, map_location="cpu", weights_only=False)["network_weights"][name]
        for path in (checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    )
    assert (len(trained), len(exported)) == (4, 2)
    torch.testing.assert_close(exported, trained[:2].half())
    assert "organs" not in json.loads((folder / "dataset.json").read_text())
    model = PetCtModel.load(folder, device=torch.device("cpu"))
    assert model.content.plans.plans["plans_name"] == "nnUNetPlans"

    # a training that was cut off is taken up again, and the weights fit a network with organs
    (log,) = checkpoint.parent.glob("training_log*.txt")
    assert "waiting for data" in log.read_text()
    assert "logit in lesions without a click" in log.read_text()
    checkpoint.rename(checkpoint.with_name("checkpoint_latest.pth"))
    train("task1", dataset, "small", tmp_path / "out", device="cpu", minutes=0.001, processes=1, resume=True)
    assert torch.load(checkpoint, map_location="cpu", weights_only=False)["current_epoch"] == 1
    train_from(folder, dataset, tmp_path / "on")


@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.filterwarnings("ignore::RuntimeWarning", "ignore::ResourceWarning")
def test_a_trained_model_of_task2_segments_a_followup(tmp_path):
    dataset, output = tmp_path / "raw" / "Dataset300_Tiny", tmp_path / "out"
    run("dataset", write_longitudinal(tmp_path / "download"), "--output", dataset)
    options = ["--dataset", dataset, "--config", "small", "--output", output, "--device", "cpu", "--minutes", 0.001]
    run("train", "task2", *options, "--prepare-only")
    prepared = {path: path.stat().st_mtime_ns for path in (output / "preprocessed").rglob("*.pkl")}
    assert len(prepared) == 4
    run("train", "task2", *options, "--resume")  # there is no checkpoint to continue from
    assert {path: path.stat().st_mtime_ns for path in (output / "preprocessed").rglob("*.pkl")} == prepared
    folder = output / "model"
    model = LongitudinalModel.load(folder, device=torch.device("cpu"))
    assert model.patch_size == (24, 40, 40)
    with pytest.raises(ModelError, match="expected a model of task1, by the inputs of the case; found encoding 'pair'"):
        PetCtModel.load(folder, device=torch.device("cpu"))

    phantom = make_phantom(0, "fdg", lesions=3, spacing_xyz=(6.0, 6.0, 6.0), field_of_view=(0.4, 0.6))
    visits = make_visits(phantom.ct, phantom.label, 1)
    place = Lesion(5, phantom.ct.grid.to_physical([(20, 20, 10)])[0], True, visits.baseline, None, new=True)
    mask = segment_lesions(visits.followup, [place], model).mask
    assert set(np.unique(mask.array)) == {0, 5}  # a clicked lesion is never empty

    masks = replay_held_out(dataset, output, tmp_path)
    assert len(masks) == 2  # the steps of the one patient held out
    assert any(Volume.read(path).array.any() for path in masks.values())


def test_lesions_are_listed_equally_often_whatever_their_size(tmp_path, monkeypatch):
    label = np.zeros((1, 12, 12, 12), dtype=np.int8)
    label[0, 1:3, 1:3, 1:3], label[0, 5:11, 5:11, 5:11] = 1, 1  # 8 and 216 voxels

    class Cases:
        identifiers = ("a",)

        def load_case(self, _):
            return None, label, None, {"spacing": [1, 1, 1], "class_locations": {1: np.argwhere(label)}}

    monkeypatch.setattr(nnunet_dataset, "infer_dataset_class", lambda _: lambda _: Cases())
    balance_lesions(tmp_path)
    with (tmp_path / "a.pkl").open("rb") as file:
        properties = pickle.load(file)
    places = properties["class_locations"][1]
    assert label[tuple(places.T)].all()
    assert properties["spacing"] == [1, 1, 1]
    small = (places[:, 1:] < 4).all(axis=1)
    assert small.sum() == (~small).sum()


def test_a_folder_that_is_no_data_set_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"Dataset<NNN>"):
        train("task1", tmp_path, "small", tmp_path / "out")


@pytest.mark.parametrize(("task", "channels"), [("task1", ("CT",)), ("task2", ("CT", "PET"))])
def test_the_data_set_of_another_task_is_refused(tmp_path, task, channels):
    dataset = tmp_path / "Dataset001_A"
    dataset.mkdir()
    (dataset / "dataset.json").write_text(json.dumps({"channel_names": dict(enumerate(channels))}))
    with pytest.raises(InputError, match=f"expected the channels .* for {task}, found {', '.join(channels)}"):
        train(task, dataset, "small", tmp_path / "out")


def test_a_folder_without_initial_weights_is_refused_before_anything_is_prepared(tmp_path, monkeypatch):
    monkeypatch.setattr("lesionclick.training.train.prepare", lambda *_, **__: pytest.fail("prepared"))
    with pytest.raises(ModelError, match="expected folders fold_"):
        train("task1", tmp_path / "Dataset001_A", "small", tmp_path / "out", initial=tmp_path / "misspelt")


@pytest.mark.parametrize(("folds", "last"), [(3, 2), (None, 4)])
def test_a_fold_that_no_split_has_is_refused(tmp_path, folds, last):
    """nnU-Net would part the cases at random, those of one patient too."""
    dataset, prepared = tmp_path / "Dataset001_A", tmp_path / "out" / "preprocessed" / "Dataset001_A"
    prepared.mkdir(parents=True)
    (prepared / "prepared.json").write_text('["task1", "small"]')
    if folds:
        (prepared / "splits_final.json").write_text(json.dumps([{"train": [], "val": []}] * folds))
    with pytest.raises(InputError, match=f"expected a fold from 0 to {last}, or all, found 9"):
        train("task1", dataset, "small", tmp_path / "out", fold="9", resume=True)


class TestExport:
    def test_a_training_without_a_final_checkpoint_is_refused(self, tmp_path):
        (tmp_path / "plans.json").write_text("{}")
        with pytest.raises(ModelError, match="expected plans of lesionclick train with a prompt"):
            export_model(tmp_path, tmp_path / "model")
        (tmp_path / "plans.json").write_text('{"prompt": {}}')
        with pytest.raises(ModelError, match="checkpoint_final"):
            export_model(tmp_path, tmp_path / "model")

    def test_which_of_several_trainings_is_asked_for(self, tmp_path):
        with pytest.raises(ModelError, match=r"expected one training in .*, found none"):
            export_model(tmp_path, tmp_path / "model")
        for trainer in "ab":
            (tmp_path / "results" / "Dataset001_A" / trainer).mkdir(parents=True)
            (tmp_path / "results" / "Dataset001_A" / trainer / "plans.json").write_text("{}")
        with pytest.raises(ModelError, match=r"expected one training in .*/a, .*/b"):
            export_model(tmp_path, tmp_path / "model")

    @pytest.fixture
    def trained(self, tmp_path):
        """Results of a training, by their layout."""
        folder = write_model_folder(tmp_path / "trained", folds=(0, 1), patch_size=(16, 16, 16))
        plans = json.loads((folder / "plans.json").read_text()) | {"prompt": {"version": 2}, "minutes": 3}
        (folder / "plans.json").write_text(json.dumps(plans))
        return folder

    def test_a_model_is_replaced_and_nothing_else(self, trained, tmp_path):
        target = write_model_folder(tmp_path / "model", folds=(7,), patch_size=(16, 16, 16))
        export_model(trained, target)
        names = {str(path.relative_to(target)) for path in target.rglob("*") if path.is_file()}
        described = {"plans.json", "dataset.json", "prompt.json"}
        assert names == described | {f"fold_{n}/checkpoint_final.pth" for n in (0, 1)}
        assert "minutes" not in json.loads((target / "plans.json").read_text())
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "thesis.txt").touch()
        with pytest.raises(InputError, match="mine: expected a new folder or a model folder to replace"):
            export_model(trained, tmp_path / "mine")
        assert (tmp_path / "mine" / "thesis.txt").is_file()

    def test_what_fails_leaves_the_model_that_was_there(self, trained, tmp_path):
        target = write_model_folder(tmp_path / "model", patch_size=(16, 16, 16))
        before = (target / "plans.json").read_bytes()
        (trained / "fold_1" / "checkpoint_final.pth").write_bytes(b"broken")
        with pytest.raises(ModelError, match="expected a whole checkpoint"):
            export_model(trained, target)
        assert (target / "plans.json").read_bytes() == before
        assert {path.name for path in tmp_path.iterdir()} == {"model", "trained"}

    def test_a_full_disk_is_told_in_a_line(self, trained, tmp_path, monkeypatch):
        def fail(*_):
            raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 123264 vs 123152")

        monkeypatch.setattr(torch, "save", fail)
        with pytest.raises(InputError, match=r"expected room for checkpoint_final\.pth"):
            export_model(trained, tmp_path / "model")
        assert {path.name for path in tmp_path.iterdir()} == {"trained"}

    def test_a_checkpoint_that_is_cut_off_is_named(self, trained, tmp_path):
        path = trained / "fold_1" / "checkpoint_final.pth"
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ModelError, match=f"{path.name}: expected a whole checkpoint"):
            export_model(trained, tmp_path / "model")

    def test_neither_the_training_nor_another_archive_is_a_target(self, trained, tmp_path):
        before = sorted(trained.rglob("*"))
        for target in (trained, trained.parent):
            with pytest.raises(InputError, match="found the training's results"):
                export_model(trained, target)
        assert sorted(trained.rglob("*")) == before
        with pytest.raises(InputError, match=r"an archive \.tar\.gz, found \.zip"):
            export_model(trained, tmp_path / "model.zip")

    def test_a_file_is_no_target(self, trained, tmp_path):
        (tmp_path / "model").write_text("mine")
        with pytest.raises(InputError, match="expected a new folder or a model folder to replace"):
            export_model(trained, tmp_path / "model")
        assert (tmp_path / "model").read_text() == "mine"

    def test_a_link_to_a_model_leads_to_the_new_one(self, trained, tmp_path):
        export_model(trained, tmp_path / "one")
        (tmp_path / "link").symlink_to(tmp_path / "one")
        (tmp_path / "one" / "note").touch()
        export_model(trained, tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert not (tmp_path / "one" / "note").exists()

    def test_an_archive_can_be_read_by_the_platforms_user(self, trained, tmp_path):
        (trained / "plans.json").chmod(0o600)
        archive = export_model(trained, tmp_path / "model.tar.gz")
        with tarfile.open(archive) as file:
            members = file.getmembers()
        assert {member.name for member in members if member.isfile()} >= {"plans.json", "fold_1/checkpoint_final.pth"}
        for member in members:
            assert (member.uid, member.mode) == (0, 0o755 if member.isdir() else 0o644)
        assert {path.name for path in tmp_path.iterdir()} == {"model.tar.gz", "trained"}
