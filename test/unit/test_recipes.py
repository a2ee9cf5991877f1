"""What other teams' folders are recognised by, and what their networks see, worked out from the descriptions."""

import json
import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.foreign_models import PLANS, TRAINER, write_official, write_second_place
from helpers.model_folder import checkpoint_of, write_checkpoint, write_model_folder
from torch import Tensor, nn

from lesionclick.errors import ModelError
from lesionclick.images import Grid, Volume
from lesionclick.network.model_folder import read_prompt_spec
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts
from lesionclick.prompts.spec import SECOND_PLACE, Prediction, PromptSpec

CPU = torch.device("cpu")
SHALLOW: dict[str, Any] = {"deep": False, "patch_size": (16, 16, 16)}


class Watched(nn.Module):
    """Keeps the tiles that it sees, and says `lesion_logit` of each voxel."""

    def __init__(self, lesion_logit: float = 1.0) -> None:
        super().__init__()
        self.lesion_logit = lesion_logit
        self.tiles: list[Tensor] = []

    def forward(self, tile: Tensor) -> Tensor:
        self.tiles.append(tile[0].clone())
        return torch.stack([torch.zeros_like(tile[:, 0]), torch.full_like(tile[:, 0], self.lesion_logit)], dim=1)


def seen(folder: Path, ct: np.ndarray, pet: np.ndarray, clicks: Sequence[Point], **grid: Any) -> list[Tensor]:
    """Return the tiles that the network of a folder sees."""
    model = PetCtModel.load(folder, device=CPU, exact=True)
    network = Watched()
    model.networks = (network,)
    place = Grid(ct.shape[::-1], **{"spacing_xyz": (2.0, 2.0, 3.0), **grid})
    case = PetCtCase(
        Volume(ct.astype(np.float32), place), Volume(pet.astype(np.float32), place), Prompts(tuple(clicks))
    )
    PetCtSession(model, case).segment()
    return network.tiles


class TestRecognition:
    def test_each_folder_is_named_in_one_line(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO)
        folders = (
            write_official(tmp_path / "official", **SHALLOW),
            write_second_place(tmp_path / "second", folds=(0, 1), **SHALLOW),
            write_model_folder(tmp_path / "ours", prompt=PromptSpec(SECOND_PLACE.encoding)),
        )
        for folder in folders:
            PetCtModel.load(folder, device=CPU)
        assert [record.getMessage() for record in caplog.records] == [
            "recipe: the organisers' baseline, known by the channels CT, PET, FG, BG (1 folds)",
            f"recipe: the second-placed team's (LesionLocator), known by trainer {TRAINER} and plans {PLANS} (2 folds)",
            "recipe: that of prompt.json, encoding ball at stage network (1 folds)",
        ]

    def test_the_second_place_mirrors_as_its_checkpoints_allow(self, tmp_path: Path) -> None:
        folder = write_second_place(tmp_path, folds=(0,), mirror_axes=(0, 2), **SHALLOW)
        spec = read_prompt_spec(folder)
        assert (spec.encoding, spec.align, spec.stage, spec.precision) == (
            SECOND_PLACE.encoding,
            "corner",
            "network",
            "float16",
        )
        assert spec.prediction == Prediction(mirror_axes=(0, 2))

    @pytest.mark.parametrize("change", ["trainer", "plans"])
    def test_a_folder_that_looks_alike_is_refused(self, tmp_path: Path, change: str) -> None:
        folder = write_second_place(tmp_path, folds=(0,), **SHALLOW)
        if change == "trainer":  # the same plans without clicks, as of the year before
            write_checkpoint(folder / "fold_0", {**checkpoint_of(folder), "trainer_name": "autoPET3_Trainer"})
        else:
            plans = json.loads((folder / "plans.json").read_text()) | {"plans_name": "nnUNetPlans"}
            (folder / "plans.json").write_text(json.dumps(plans))
        found = "trainer autoPET3_Trainer" if change == "trainer" else "plans nnUNetPlans"
        with pytest.raises(ModelError, match=f"expected prompt.json, or channels .*; found .*{found}"):
            PetCtModel.load(folder, device=CPU)


def test_the_head_for_organs_is_left_out_without_a_word(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_second_place(tmp_path, folds=(0,), **SHALLOW)
    before = PetCtModel.load(folder, device=CPU).networks[0].state_dict()
    content = checkpoint_of(folder)
    organs = [name for name in content["network_weights"] if "organ" in name]
    assert organs == [f"decoder.organ_seg_layers.{n}.{kind}" for n in (0, 1) for kind in ("weight", "bias")]
    for name in organs:
        assert len(content["network_weights"][name]) == 11
        content["network_weights"][name] = content["network_weights"][name] + 1
    write_checkpoint(folder / "fold_0", content)
    after = PetCtModel.load(folder, device=CPU).networks[0].state_dict()
    assert before.keys() == after.keys() == content["network_weights"].keys() - set(organs)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


class TestSecondPlace:
    def test_what_its_network_sees(self, tmp_path: Path) -> None:
        folder = write_second_place(tmp_path, folds=(0,), mirror_axes=(), **SHALLOW)
        ct, pet = np.full((16, 16, 16), 123.4), np.full((16, 16, 16), 0.1)
        pet[:8] = 0.3
        ct[:, :4] = pet[:, :4] = 0  # nnU-Net crops this away
        clicks = [
            Point(TUMOR, (7.0, 10.0, 8.0)),
            Point(TUMOR, (8.0, 10.0, 8.0)),
            Point(TUMOR, (7.0, 10.0, 8.0)),
            Point(BACKGROUND, (0.0, 4.0, 15.0)),
        ]
        (tile,) = seen(folder, ct, pet, clicks)
        tile = tile[:, :, 2:14]  # 12 of 16 voxels along y are left, and padded by two on both sides

        # 123.4 is 123.375 in half precision, whose numbers are 1/16 apart there; the plans divide by 300
        assert tile[0].numpy() == pytest.approx(np.full((16, 12, 16), 0.41125), abs=1e-6)
        assert tile[1, 0, 0, 0].item() == pytest.approx(1.0, abs=1e-4)  # of two values as often each
        assert tile[1, 15, 0, 0].item() == pytest.approx(-1.0, abs=1e-4)

        # the crop begins at y = 4: the balls are at z 8, y 6, x 7 and 8, and the higher value counts
        line = [0, math.sqrt(1 / 5), math.sqrt(2 / 5), 1, 1, math.sqrt(2 / 5), math.sqrt(1 / 5), 0]
        assert tile[2, 8, 6, 4:12].numpy() == pytest.approx(line)
        assert (tile[2] > 0).sum() == 33 + 13  # two balls of 33 voxels, the second one voxel on: a disc of 13 more
        assert tile[3, 15, 0, :3].numpy() == pytest.approx([1, math.sqrt(2 / 5), math.sqrt(1 / 5)])
        assert (tile[3] > 0).sum() == 11  # an octant of a ball, with its faces

    def test_clicks_are_scaled_and_rounded_half_to_even(self, tmp_path: Path) -> None:
        folder = write_second_place(tmp_path, folds=(0,), mirror_axes=(), **SHALLOW)
        images = np.random.default_rng(0).uniform(1, 5, (2, 16, 32, 32))
        for x, expected in ((5.0, 2), (7.0, 4), (31.0, 16)):  # halves of 2.5, 3.5 and 15.5
            (tile,) = seen(folder, *images, [Point(TUMOR, (x, 16.0, 8.0))], spacing_xyz=(1.0, 1.0, 3.0))
            painted = tile[2, 8, 8].nonzero().flatten().tolist()
            assert painted == [n for n in range(expected - 2, expected + 3) if n < 16]  # the last centre lies outside

    def test_logits_are_averaged_and_not_votes(self, tmp_path: Path) -> None:
        folder = write_second_place(tmp_path, folds=(0, 1, 2), mirror_axes=(), **SHALLOW)
        model = PetCtModel.load(folder, device=CPU, exact=True)
        model.networks = tuple(Watched(logit) for logit in (5.0, -1.0, -1.0))  # whole, since tiles are added in halves
        grid = Grid((16, 16, 16), (2.0, 2.0, 3.0))
        volume = Volume(np.random.default_rng(0).uniform(1, 5, grid.shape_zyx).astype(np.float32), grid)
        found = PetCtSession(model, PetCtCase(volume, volume)).segment()
        assert found.lesion_logit.array == pytest.approx(np.full((16, 16, 16), 1.0), abs=1e-3)
        assert found.mask.array.all()


class TestOfficialBaseline:
    CLICKS = (Point(TUMOR, (7.0, 10.0, 8.0)), Point(TUMOR, (7.0, 10.0, 8.0)), Point(TUMOR, (7.0, 10.0, 40.0)))

    def test_what_its_network_sees(self, tmp_path: Path) -> None:
        folder = write_official(tmp_path, **SHALLOW)
        ct, pet = np.full((16, 16, 16), 123.4), np.full((16, 16, 16), 0.1)
        pet[:8] = 0.3
        ct[:, :4] = pet[:, :4] = 0  # not cropped away, since the heat of the click reaches there
        (tile,) = seen(folder, ct, pet, self.CLICKS)  # once: it does not mirror
        assert tile[0, :, 4:].numpy() == pytest.approx(np.full((16, 12, 16), 123.4 / 300), abs=1e-6)  # not rounded
        # a quarter is 0 and the others 0.3 and 0.1 as often: mean 0.15, variance 0.09 * 3/8 + 0.01 * 3/8 - 0.0225
        assert tile[1, 0, 15, 0].item() == pytest.approx(0.15 / math.sqrt(0.015), abs=1e-4)

        # a normal density of three voxels, mirrored at the image's borders, z-scored as a whole
        def along(centre: int) -> np.ndarray:
            offsets = np.arange(-12, 13)
            weights = np.exp(-(offsets**2) / 18) / np.exp(-(offsets**2) / 18).sum()
            line = np.zeros(16)
            for offset, weight in zip(offsets, weights, strict=True):
                place = (centre + offset) % 32
                line[min(place, 31 - place)] += weight
            return line

        bump = np.einsum("z,y,x->zyx", along(8), along(10), along(7))
        assert tile[2].numpy() == pytest.approx((bump - bump.mean()) / bump.std(), abs=1e-4)
        assert not tile[3].any()  # a channel without clicks stays zero

    def test_all_channels_are_resampled_by_cubic_splines(self, tmp_path: Path) -> None:
        # a cubic spline gives a cubic polynomial back, which a linear one does not; far from the borders
        folder = write_official(tmp_path, **SHALLOW)
        x = (np.arange(24) - 11.5) / 12
        line = 10 + x**3 + x**2
        ct, pet = np.ones((16, 16, 24)), np.broadcast_to(line, (16, 16, 24))
        (tile,) = seen(folder, ct, pet, (), spacing_xyz=(4 / 3, 2.0, 3.0))
        new = (np.arange(16) - 7.5) / 8
        expected = (10 + new**3 + new**2 - line.mean()) / line.std()
        assert tile[1, 8, 8, 4:12].numpy() == pytest.approx(expected[4:12], abs=2e-3)
