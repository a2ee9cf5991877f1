import logging
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folder import write_checkpoint, write_model_folder
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor

from lesionclick.images import Grid, Volume
from lesionclick.network import ensemble
from lesionclick.petct import model as model_module
from lesionclick.petct.model import OUTSIDE_MARGIN, Model, find_model_folder
from lesionclick.prompts.encodings import OFFICIAL_BASELINE, SECOND_PLACE, PromptSpec
from lesionclick.prompts.points import BACKGROUND, TUMOR, Click

CPU = torch.device("cpu")
PATCH = (16, 16, 16)
GAUSSIAN = PromptSpec(encoding="gaussian", stage="network", radius=1.5)


def network_stage(tmp_path: Path, **options: Any) -> Model:
    options = {"prompt": GAUSSIAN, "patch_size": PATCH, "spacing_zyx": (3.0, 3.0, 3.0), **options}
    return Model.load(write_model_folder(tmp_path / "model", **options), CPU)


def show_channel(channel: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network for tests: its margin is an input channel, enlarged, and -2 where that is zero."""

    def network(tile: torch.Tensor) -> torch.Tensor:
        shown = 100 * tile[:, channel : channel + 1] - 1
        return torch.cat([-shown, shown], dim=1)

    return network


def ct_and_pet(size_xyz: tuple[int, int, int], spacing_xyz: tuple[float, float, float]) -> tuple[Volume, Volume]:
    """Soft tissue of SUV 1 with noise everywhere."""
    grid = Grid(size_xyz, spacing_xyz, (1.0, 2.0, 3.0), (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
    rng = np.random.default_rng(0)
    ct = rng.integers(1, 100, grid.shape_zyx).astype(np.int16)
    return Volume(ct, grid), Volume(rng.uniform(0.9, 1.1, grid.shape_zyx).astype(np.float32), grid)


class TestLoad:
    def test_reads_networks_and_prompt(self, tmp_path: Path) -> None:
        folder = write_model_folder(tmp_path, prompt=SECOND_PLACE, folds=(0, 1, "all"), patch_size=PATCH)
        model = Model.load(folder, CPU)
        assert model.prompt == SECOND_PLACE
        assert len(model.networks) == 3
        assert not any(network.training for network in model.networks)

    def test_channel_names_of_the_official_baseline_need_no_prompt_json(self, folder: Path) -> None:
        assert Model.load(folder, CPU).prompt == OFFICIAL_BASELINE

    def test_cpu_is_announced_by_exactly_one_warning(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        assert Model.load(folder).device == CPU
        assert [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING] == [
            "no CUDA device found: predicting on the CPU, which takes many times longer"
        ]

    def test_half_precision_weights_become_float32(self, folder: Path, tmp_path: Path) -> None:
        half = write_model_folder(tmp_path / "half", patch_size=PATCH, weights=torch.float16)
        full_weights = Model.load(folder, CPU).networks[0].state_dict()
        for name, weight in Model.load(half, CPU).networks[0].state_dict().items():
            assert torch.equal(weight, full_weights[name].half().float())

    def test_best_checkpoint_stands_in_for_the_final_one(self, folder: Path) -> None:
        (folder / "fold_0" / "checkpoint_final.pth").rename(folder / "fold_0" / "checkpoint_best.pth")
        assert len(Model.load(folder, CPU).networks) == 1

    def test_checkpoint_written_under_numpy_1(self, folder: Path) -> None:
        path = folder / "fold_0" / "checkpoint_final.pth"
        with zipfile.ZipFile(path) as archive:
            members = {name: archive.read(name) for name in archive.namelist()}
        with zipfile.ZipFile(path, "w") as archive:
            for name, content in members.items():
                if name.endswith("/data.pkl"):
                    assert content.count(b"numpy._core.multiarray") == 2
                archive.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
        assert len(Model.load(folder, CPU).networks) == 1

    def test_second_decoder_is_dropped_with_one_warning(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = write_model_folder(tmp_path, prompt=SECOND_PLACE, network="ResidualEncoderUNet", folds=(0, 1))
        plain = Model.load(folder, CPU)
        for fold in ("fold_0", "fold_1"):
            content = torch.load(folder / fold / "checkpoint_final.pth", weights_only=False)
            weights = content["network_weights"]
            organs = {k.replace("decoder", "decoder_organ"): v for k, v in weights.items() if k.startswith("decoder")}
            write_checkpoint(folder / fold, {**content, "network_weights": {**weights, **organs}})
        caplog.clear()
        both = Model.load(folder, CPU)
        (warning,) = [r.getMessage() for r in caplog.records if r.levelno >= logging.WARNING]
        assert f"dropped {len(organs)} weights" in warning
        for network, expected in zip(both.networks, plain.networks, strict=True):
            for weight, other in zip(network.parameters(), expected.parameters(), strict=True):
                assert torch.equal(weight, other)


class TestFindModelFolder:
    def test_argument_comes_first(self, tmp_path: Path) -> None:
        assert find_model_folder(tmp_path) == tmp_path

    def test_platform_folder_counts_only_with_a_model_in_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(model_module, "PLATFORM_MODEL", tmp_path)
        assert find_model_folder(None, "task1") == model_module.RESOURCES / "task1"
        (tmp_path / "plans.json").touch()
        assert find_model_folder(None, "task1") == tmp_path

    def test_a_folder_may_hold_a_model_for_each_task(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "task2").mkdir()
        (tmp_path / "task2" / "plans.json").touch()
        assert find_model_folder(tmp_path, "task2") == tmp_path / "task2"
        assert find_model_folder(tmp_path, "task1") == tmp_path
        monkeypatch.setattr(model_module, "PLATFORM_MODEL", tmp_path)
        assert find_model_folder(None, "task2") == tmp_path / "task2"
        assert find_model_folder(None, "task1") == model_module.RESOURCES / "task1"


class TestPredictMargin:
    @pytest.mark.parametrize("stage", ["image", "network"])
    @pytest.mark.parametrize(("name", "channel"), [(TUMOR, 2), (BACKGROUND, 3)])
    def test_clicks_arrive_at_their_place(self, stage: Any, name: str, channel: int, tmp_path: Path) -> None:
        prompt = replace(GAUSSIAN, stage=stage)
        model = network_stage(tmp_path, prompt=prompt, transpose=(2, 0, 1))
        model.networks = (show_channel(channel),)  # type: ignore[assignment]
        ct, pet = ct_and_pet((30, 36, 28), (2.0, 2.5, 3.5))
        for volume in (ct, pet):
            volume.array[:, :7] = 0  # cropped by nnU-Net
        clicks = (Click(name, (22.0, 16.0, 5.0)), Click(BACKGROUND if name == TUMOR else TUMOR, (4.0, 30.0, 20.0)))
        margin = model.predict_margin(ct, pet, clicks)
        peak_zyx = np.unravel_index(margin.array.argmax(), margin.array.shape)
        assert np.abs(np.array(peak_zyx) - (5, 16, 22)).max() <= 1
        assert (margin.array[:, :7] == OUTSIDE_MARGIN).all()

    def test_no_click_gives_zero_channels(self, tmp_path: Path) -> None:
        model = network_stage(tmp_path)
        model.networks = (show_channel(2),)  # type: ignore[assignment]
        margin = model.predict_margin(*ct_and_pet((20, 20, 20), (3.0, 3.0, 3.0)), ())
        np.testing.assert_allclose(margin.array, -2.0, atol=1e-2)

    def test_margin_is_foreground_minus_background_on_the_grid_of_the_pet(self, tmp_path: Path) -> None:
        model = network_stage(tmp_path)
        model.networks = (lambda tile: torch.stack([tile[:, 0] * 0 + 2, tile[:, 0] * 0 + 5], dim=1),)  # type: ignore[assignment]
        ct, pet = ct_and_pet((21, 17, 25), (2.0, 3.5, 2.5))
        margin = model.predict_margin(ct, pet, ())
        assert margin.grid == pet.grid
        assert margin.array.dtype == np.float32
        np.testing.assert_allclose(margin.array, 3.0, atol=1e-2)

    def test_folds_are_averaged(self, tmp_path: Path) -> None:
        model = network_stage(tmp_path)
        model.networks = tuple(
            lambda tile, m=m: torch.stack([tile[:, 0] * 0, tile[:, 0] * 0 + m], dim=1)  # type: ignore[misc]
            for m in (1, 4, 4)
        )
        margin = model.predict_margin(*ct_and_pet((16, 16, 16), (3.0, 3.0, 3.0)), ())
        np.testing.assert_allclose(margin.array, 3.0, atol=1e-2)

    def test_images_seen_before_are_not_preprocessed_again(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        run_case_npy = DefaultPreprocessor.run_case_npy
        monkeypatch.setattr(
            DefaultPreprocessor, "run_case_npy", lambda self, *args: calls.append(1) or run_case_npy(self, *args)
        )
        model = network_stage(tmp_path)
        fresh = Model.load(tmp_path / "model", CPU)
        clicks = (Click(TUMOR, (9.0, 9.0, 9.0)),)
        first = model.predict_margin(*ct_and_pet((20, 20, 20), (3.0, 3.0, 3.0)), ())
        ct, pet = ct_and_pet((20, 20, 20), (3.0, 3.0, 3.0))
        second = model.predict_margin(ct, pet, clicks)
        assert len(calls) == 1
        np.testing.assert_array_equal(second.array, fresh.predict_margin(ct, pet, clicks).array)
        assert not np.array_equal(first.array, second.array)

        calls.clear()
        pet.array[3, 4, 5] += 1
        model.predict_margin(ct, pet, clicks)
        spaced = replace(pet.grid, spacing_xyz=(3.0, 3.0, 3.5))
        model.predict_margin(Volume(ct.array, spaced), Volume(pet.array, spaced), clicks)
        assert len(calls) == 2


class TestSurvey:
    @staticmethod
    def model(folder: Path, survey: bool) -> Model:
        return network_stage(folder, prompt=replace(GAUSSIAN, stage="network", survey=survey))

    def test_without_a_click_the_higher_margin_of_two_sizes_counts(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        seen = []

        def predict(_network: Any, data: torch.Tensor, *args: Any) -> torch.Tensor:
            width = data.shape[-1]
            seen.append((width, args[2]))  # mirror axes
            margin = torch.where(torch.arange(width) < width / 2, 30.0 - width, width - 30.0)
            return torch.stack([torch.zeros(data.shape[1:]), margin.expand(data.shape[1:])])

        monkeypatch.setattr(ensemble.tiles, "predict", predict)
        model = self.model(tmp_path, survey=True)
        ct, pet = ct_and_pet((30, 30, 30), (4.0, 4.0, 4.0))
        margin = model.predict_margin(ct, pet, ()).array
        # 120 mm are 40 voxels of 3 mm, and 32 at eight tenths of the size, both mirrored over x
        assert seen == [(40, (2,)), (32, (2,))]
        assert margin[15, 15, 2] == pytest.approx(-2, abs=0.1)
        assert margin[15, 15, 27] == pytest.approx(10, abs=0.1)

        seen.clear()
        model.predict_margin(ct, pet, (Click(BACKGROUND, (3.0, 3.0, 3.0)),))
        self.model(tmp_path / "plain", survey=False).predict_margin(ct, pet, ())
        assert seen == [(40, ()), (40, ())]

    def test_a_click_outside_the_image_is_none(self, tmp_path: Path) -> None:
        model = self.model(tmp_path, survey=True)
        ct, pet = ct_and_pet((20, 20, 20), (3.0, 3.0, 3.0))
        outside = model.predict_margin(ct, pet, (Click(TUMOR, (20.0, 3.0, 3.0)),))
        np.testing.assert_array_equal(outside.array, model.predict_margin(ct, pet, ()).array)


class TestBody:
    @staticmethod
    def patient() -> tuple[Volume, Volume]:
        """A cube of tissue at one end of a long image of air."""
        ct, pet = ct_and_pet((20, 20, 90), (3.0, 3.0, 3.0))
        ct.array[12:] = -1000
        pet.array[12:] = 0.01
        return ct, pet

    def test_air_is_left_out(self, tmp_path: Path) -> None:
        margin = network_stage(tmp_path).predict_margin(*self.patient(), ())
        assert (margin.array[:12] != OUTSIDE_MARGIN).all()
        assert (margin.array[40:] == OUTSIDE_MARGIN).all()

    def test_only_the_box_around_the_body_is_tiled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = []
        predict = model_module.tiles.predict

        def spy(network: Any, data: torch.Tensor, *args: Any) -> torch.Tensor:
            shapes.append(tuple(data.shape[1:]))
            return predict(network, data, *args)

        monkeypatch.setattr(model_module.tiles, "predict", spy)
        network_stage(tmp_path).predict_margin(*self.patient(), ())
        # 12 slices of tissue and the neighbour that interpolation needs are 13, padded to the patch of 16
        assert shapes == [(16, 20, 20)]

    def test_click_channels_are_made_on_the_padded_grid(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        predict = model_module.tiles.predict

        def spy(network: Any, data: torch.Tensor, *args: Any) -> torch.Tensor:
            seen.append(data)
            return predict(network, data, *args)

        monkeypatch.setattr(model_module.tiles, "predict", spy)
        fields = PromptSpec(encoding="fields", stage="network", radius=6.0, unit="mm")
        folder = write_model_folder(tmp_path / "model", prompt=fields, patch_size=PATCH, spacing_zyx=(3.0, 3.0, 3.0))
        ct, pet = ct_and_pet((16, 16, 12), (3.0, 3.0, 3.0))
        Model.load(folder, CPU).predict_margin(ct, pet, (Click(TUMOR, (8.0, 8.0, 6.0)),))
        far = seen[0][5]
        # 12 slices are padded by two on either side, so that slice 6 becomes slice 8; 24 mm below it lies padding
        assert far.shape == PATCH
        assert far[8, 8, 8] == 1
        assert far[0, 8, 8].item() == pytest.approx(np.exp(-24 / 30), rel=1e-5)

    def test_uptake_outside_the_ct_field_of_view_counts_as_body(self, tmp_path: Path) -> None:
        ct, pet = self.patient()
        pet.array[85:] = 0.6
        margin = network_stage(tmp_path).predict_margin(ct, pet, ())
        assert (margin.array[85:] != OUTSIDE_MARGIN).all()
        assert (margin.array[40:60] == OUTSIDE_MARGIN).all()

    def test_an_image_of_air_alone_is_predicted_everywhere(self, tmp_path: Path) -> None:
        ct, pet = self.patient()
        ct.array[:] = -1000
        pet.array[:] = 0.01
        assert (network_stage(tmp_path).predict_margin(ct, pet, ()).array != OUTSIDE_MARGIN).all()

    def test_an_image_stage_model_predicts_everything(self, folder: Path) -> None:
        assert (Model.load(folder, CPU).predict_margin(*self.patient(), ()).array != OUTSIDE_MARGIN).all()
