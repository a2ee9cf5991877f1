"""Model folders of Task 1, loaded, and which folder is taken."""

import logging
import zipfile
from pathlib import Path

import pytest
import torch
from helpers.model_folder import write_checkpoint, write_model_folder

from lesionclick.errors import ModelError
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.network import model_folder
from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.model_folder import embedded_models, find_model_folder
from lesionclick.petct.model import PetCtModel
from lesionclick.prompts.encodings import LesionPair
from lesionclick.prompts.spec import OFFICIAL_BASELINE, SECOND_PLACE, PromptSpec

CPU = torch.device("cpu")
PATCH = (16, 16, 16)


class TestLoad:
    def test_reads_networks_and_prompt(self, tmp_path: Path) -> None:
        folder = write_model_folder(tmp_path, prompt=SECOND_PLACE, folds=(0, 1, "all"), patch_size=PATCH)
        model = PetCtModel.load(folder, device=CPU)
        assert model.content.prompt == SECOND_PLACE
        assert len(model.networks) == 3
        assert not any(network.training for network in model.networks)

    def test_channel_names_of_the_official_baseline_need_no_prompt_json(self, folder: Path) -> None:
        assert PetCtModel.load(folder, device=CPU).content.prompt == OFFICIAL_BASELINE

    @pytest.mark.parametrize("kind", ["PlainConvUNet", "ResidualEncoderUNet"])
    def test_images_are_kept_as_its_first_convolution_rounds_them(self, tmp_path: Path, kind: str) -> None:
        model = PetCtModel.load(write_model_folder(tmp_path, network=kind, patch_size=PATCH), device=CPU)
        model.arithmetic = Arithmetic(torch.bfloat16, exact=False)
        tile = torch.randn(1, 4, *PATCH, generator=torch.Generator().manual_seed(0))
        assert model.images_dtype(CPU) == torch.bfloat16
        with torch.inference_mode(), model.arithmetic.autocast(CPU):
            (network,) = model.networks
            assert torch.equal(network(tile), network(tile.to(model.images_dtype(CPU))))

    @pytest.mark.parametrize(
        ("arithmetic", "embedded"),
        [
            (Arithmetic(torch.bfloat16, exact=False), True),  # whose network takes a logarithm first
            (Arithmetic(torch.float16, exact=False), False),  # a GPU's, whose memory did not suffice
            (Arithmetic(torch.float32, exact=True), False),
        ],
    )
    def test_other_images_are_kept_as_they_are(self, folder: Path, arithmetic: Arithmetic, embedded: bool) -> None:
        model = PetCtModel.load(embedded_models() / "task1" if embedded else folder, device=CPU)
        model.arithmetic = arithmetic
        assert model.images_dtype(CPU) == torch.float32

    def test_cpu_is_announced_by_exactly_one_warning(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert PetCtModel.load(folder).device == CPU
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
            "no CUDA device found: predicting on the CPU, which takes many times longer"
        ]

    def test_half_precision_weights_become_float32(self, folder: Path, tmp_path: Path) -> None:
        half = write_model_folder(tmp_path / "half", patch_size=PATCH, weights=torch.float16)
        full_weights = PetCtModel.load(folder, device=CPU).networks[0].state_dict()
        for name, weight in PetCtModel.load(half, device=CPU).networks[0].state_dict().items():
            assert torch.equal(weight, full_weights[name].half().float())

    def test_best_checkpoint_stands_in_for_the_final_one(self, folder: Path) -> None:
        (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
        assert len(PetCtModel.load(folder, device=CPU).networks) == 1

    def test_checkpoint_written_under_numpy_1(self, folder: Path) -> None:
        path = folder / "fold_0" / "checkpoint_final.pth"
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                if name.endswith("/data.pkl"):
                    assert content.count(b"numpy._core.multiarray") == 2
                archive.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        assert len(PetCtModel.load(folder, device=CPU).networks) == 1

    def test_second_decoder_is_dropped_with_one_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = write_model_folder(tmp_path, prompt=SECOND_PLACE, network="ResidualEncoderUNet", folds=(0, 1))
        plain = PetCtModel.load(folder, device=CPU)
        for fold in ("fold_0", "fold_1"):
            content = torch.load(folder / fold / "checkpoint_final.pth", weights_only=False)
            weights = content["network_weights"]
            organs = {k.replace("decoder", "decoder_organ"): v for k, v in weights.items() if k.startswith("decoder")}
            write_checkpoint(folder / fold, {**content, "network_weights": {**weights, **organs}})
        caplog.clear()
        both = PetCtModel.load(folder, device=CPU)
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert f"dropped {len(organs)} weights" in warning
        for network, expected in zip(both.networks, plain.networks, strict=True):
            for weight, other in zip(network.parameters(), expected.parameters(), strict=True):
                assert torch.equal(weight, other)


class TestFindModelFolder:
    def test_argument_comes_first(self, tmp_path: Path) -> None:
        assert find_model_folder(tmp_path, "task1") == tmp_path

    def test_platform_folder_counts_only_with_a_model_in_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_folder, "PLATFORM_MODEL", tmp_path)
        assert find_model_folder(None, "task1") == embedded_models() / "task1"
        (tmp_path / "plans.json").touch()
        assert find_model_folder(None, "task1") == tmp_path

    def test_a_platform_folder_with_something_else_is_no_reason_for_another_model(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Such as the results of nnU-Net, one level too high: other weights than the uploaded ones would be scored."""
        monkeypatch.setattr(model_folder, "PLATFORM_MODEL", tmp_path)
        (tmp_path / ".keep").touch()
        (tmp_path / "lost+found").mkdir()
        assert find_model_folder(None, "task1") == embedded_models() / "task1"
        (tmp_path / "Dataset221" / "trainer").mkdir(parents=True)
        with pytest.raises(ModelError, match=r"expected plans\.json .*found \['Dataset221'\]$"):
            find_model_folder(None, "task1")
        (tmp_path / "Dataset221" / "trainer" / "plans.json").touch()
        with pytest.raises(ModelError, match=r"found \['Dataset221'\]; plans\.json lies in .*/Dataset221/trainer"):
            find_model_folder(None, "task1")

    def test_a_folder_that_may_not_be_read_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def refuse(path: Path) -> bool:
            raise PermissionError(13, "Permission denied", str(path))

        monkeypatch.setattr(Path, "is_file", refuse)
        with pytest.raises(ModelError, match=rf"that user \d+ can read, found .*{tmp_path.name}"):
            find_model_folder(tmp_path, "task1")

    def test_a_folder_may_hold_a_model_for_each_task(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "task2").mkdir()
        (tmp_path / "task2" / "plans.json").touch()
        assert find_model_folder(tmp_path, "task2") == tmp_path / "task2"
        assert find_model_folder(tmp_path, "task1") == tmp_path
        monkeypatch.setattr(model_folder, "PLATFORM_MODEL", tmp_path)
        assert find_model_folder(None, "task2") == tmp_path / "task2"
        assert find_model_folder(None, "task1") == tmp_path  # and no other model is taken in its stead


@pytest.mark.parametrize("task", ["task1", "task2"])
def test_embedded_models_are_there(task: str) -> None:
    assert (embedded_models() / task / "plans.json").is_file()


def test_a_model_of_the_other_task_is_refused_by_its_folder(tmp_path: Path) -> None:
    pair = PromptSpec(LesionPair(radius=10.0))
    folders = [write_model_folder(tmp_path / "1", patch_size=PATCH), write_model_folder(tmp_path / "2", prompt=pair)]
    with pytest.raises(ModelError, match=r"1: expected a model of task2.*'gaussian', which is one of task1"):
        LongitudinalModel.load(folders[0], device=CPU)
    with pytest.raises(ModelError, match=r"2: expected a model of task1.*'pair', which is one of task2"):
        PetCtModel.load(folders[1], device=CPU)
