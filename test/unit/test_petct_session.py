"""Sessions of Task 1: images and prompts become a lesion logit and a mask, with networks that are easy to follow."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder

from lesionclick.budget import Budget, Plan, Stopwatch
from lesionclick.errors import OutOfMemoryError
from lesionclick.images import Grid, Volume
from lesionclick.network import ensemble, tiles
from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.ensemble import Placement
from lesionclick.network.preprocessing import OUTSIDE_LOGIT
from lesionclick.petct import prediction
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.neighbourhood import windows_around
from lesionclick.petct.rules import RulesActed
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.encodings import Fields, Gaussian
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts
from lesionclick.prompts.spec import PromptSpec

CPU = torch.device("cpu")
PATCH = (16, 16, 16)
GAUSSIAN = PromptSpec(Gaussian(radius=1.5))


def network_stage(tmp_path: Path, **options: Any) -> PetCtModel:
    options = {"prompt": GAUSSIAN, "patch_size": PATCH, "spacing_zyx": (3.0, 3.0, 3.0), **options}
    exact = options.pop("exact", False)
    return PetCtModel.load(write_model_folder(tmp_path / "model", **options), device=CPU, exact=exact)


def clicks(*points: tuple[str, tuple[float, float, float]]) -> Prompts:
    return Prompts(tuple(Point(kind, place) for kind, place in points))


def lesion_logit(model: PetCtModel, ct: Volume, pet: Volume, prompts: Prompts = Prompts()) -> Volume:  # noqa: B008
    return PetCtSession(model, PetCtCase(ct, pet, prompts)).segment().lesion_logit


def show_channel(channel: int) -> Callable[[torch.Tensor], torch.Tensor]:
    """A network for tests: its lesion logit is an input channel, enlarged, and -2 where that is zero."""

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


class TestLesionLogit:
    @pytest.mark.parametrize("stage", ["image", "network"])
    @pytest.mark.parametrize(("name", "channel"), [(TUMOR, 2), (BACKGROUND, 3)])
    def test_clicks_arrive_at_their_place(self, stage: Any, name: str, channel: int, tmp_path: Path) -> None:
        prompt = replace(GAUSSIAN, stage=stage)
        model = network_stage(tmp_path, prompt=prompt, transpose=(2, 0, 1))
        model.networks = (show_channel(channel),)  # type: ignore[assignment]
        ct, pet = ct_and_pet((30, 36, 28), (2.0, 2.5, 3.5))
        for volume in (ct, pet):
            volume.array[:, :7] = 0  # cropped by nnU-Net
        other = BACKGROUND if name == TUMOR else TUMOR
        found = lesion_logit(model, ct, pet, clicks((name, (22.0, 16.0, 5.0)), (other, (4.0, 30.0, 20.0))))
        peak_zyx = np.unravel_index(found.array.argmax(), found.array.shape)
        assert np.abs(np.array(peak_zyx) - (5, 16, 22)).max() <= 1
        assert (found.array[:, :7] == OUTSIDE_LOGIT).all()

    def test_no_click_gives_zero_channels(self, tmp_path: Path) -> None:
        model = network_stage(tmp_path)
        model.networks = (show_channel(2),)  # type: ignore[assignment]
        found = lesion_logit(model, *ct_and_pet((20, 20, 20), (3.0, 3.0, 3.0)))
        np.testing.assert_allclose(found.array, -2.0, atol=1e-2)

    def test_it_is_foreground_minus_background_on_the_grid_of_the_pet(self, tmp_path: Path) -> None:
        model = network_stage(tmp_path)
        model.networks = (lambda tile: torch.stack([tile[:, 0] * 0 + 2, tile[:, 0] * 0 + 5], dim=1),)  # type: ignore[assignment]
        ct, pet = ct_and_pet((21, 17, 25), (2.0, 3.5, 2.5))
        found = lesion_logit(model, ct, pet)
        assert found.grid == pet.grid
        assert found.array.dtype == np.float32
        np.testing.assert_allclose(found.array, 3.0, atol=1e-2)

    def test_folds_are_averaged(self, tmp_path: Path) -> None:
        model = network_stage(tmp_path)
        model.networks = tuple(
            lambda tile, m=m: torch.stack([tile[:, 0] * 0, tile[:, 0] * 0 + m], dim=1)  # type: ignore[misc]
            for m in (1, 4, 4)
        )
        found = lesion_logit(model, *ct_and_pet((16, 16, 16), (3.0, 3.0, 3.0)))
        np.testing.assert_allclose(found.array, 3.0, atol=1e-2)

    def test_a_session_preprocesses_once_and_says_what_a_fresh_one_says(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        calls = []
        preprocess = prediction.preprocess
        monkeypatch.setattr(
            prediction, "preprocess", lambda *args, **options: calls.append(1) or preprocess(*args, **options)
        )
        model = network_stage(tmp_path)
        case = PetCtCase(*ct_and_pet((20, 20, 20), (3.0, 3.0, 3.0)))
        session, given = PetCtSession(model, case), clicks((TUMOR, (9.0, 9.0, 9.0)))
        first, second = session.segment(), session.segment(given)
        assert len(calls) == 1
        assert "preprocess" in first.seconds
        assert "preprocess" not in second.seconds
        fresh = PetCtSession(model, case).segment(given)
        np.testing.assert_array_equal(second.lesion_logit.array, fresh.lesion_logit.array)
        assert not np.array_equal(first.lesion_logit.array, second.lesion_logit.array)


class TestPrompts:
    @pytest.fixture
    def session(self, tmp_path: Path) -> PetCtSession:
        model = network_stage(tmp_path)
        model.networks = (show_channel(2),)  # type: ignore[assignment]
        start = clicks((BACKGROUND, (1.0, 1.0, 1.0)))
        return PetCtSession(model, PetCtCase(*ct_and_pet((16, 16, 16), (3.0, 3.0, 3.0)), start))

    def test_clicks_and_strokes_are_added_and_taken_back_one_by_one(self, session: PetCtSession) -> None:
        session.add(TUMOR, (5, 6, 7))
        session.add(TUMOR, (1, 2, 3), (2, 2, 3))
        session.add(BACKGROUND, (9, 9, 9), (9, 9, 8))
        assert session.prompts.points[1:] == (
            Point(TUMOR, (5.0, 6.0, 7.0)),
            *(Point(TUMOR, (x, 2.0, 3.0), 0) for x in (1.0, 2.0)),
            *(Point(BACKGROUND, (9.0, 9.0, z), 1) for z in (9.0, 8.0)),
        )
        session.undo()
        session.undo()
        assert [point.point_xyz for point in session.prompts] == [(1, 1, 1), (5, 6, 7)]
        session.reset()
        session.undo()
        assert session.prompts == session.case.prompts

    def test_the_mask_follows_the_prompts(self, session: PetCtSession) -> None:
        nothing = session.segment()
        assert not nothing.mask.array.any()
        session.add(TUMOR, (5, 6, 7))
        something = session.segment()
        assert something.mask.array[7, 6, 5] == 1
        assert something.mask.array.dtype == np.uint8
        session.undo()
        np.testing.assert_array_equal(session.segment().mask.array, nothing.mask.array)

    def test_what_was_done_is_told(self, session: PetCtSession) -> None:
        session.add(TUMOR, (5, 6, 7))
        result = session.segment()
        assert result.rules == RulesActed(tumor=1, background=1)
        assert result.plan == Plan(1, (), 0.5)
        assert set(result.seconds) == {"preprocess", "predict", "resample prediction", "rules"}

    def test_no_time_leaves_the_clicked_voxels(self, session: PetCtSession) -> None:
        session.add(TUMOR, (5, 6, 7))
        result = session.segment(budget=Budget(0.0))
        assert (result.lesion_logit.array == OUTSIDE_LOGIT).all()
        assert result.mask.array[7, 6, 5] == 1
        assert result.plan.folds == 0

    @pytest.mark.parametrize(("kind", "points"), [("tumour", [(1, 2, 3)]), (TUMOR, [])])
    def test_anything_else_is_refused(self, session: PetCtSession, kind: str, points: list[Any]) -> None:
        with pytest.raises(ValueError, match="expected tumor or background"):
            session.add(kind, *points)

    def test_without_rules_the_networks_own_voxels_are_the_mask(self, tmp_path: Path) -> None:
        prompts = clicks((BACKGROUND, (8.0, 8.0, 8.0)))
        masks = {}
        for rules in ("none", "clicks"):
            model = network_stage(tmp_path / rules, prompt=replace(GAUSSIAN, rules=rules))
            model.networks = (show_channel(3),)  # type: ignore[assignment]
            result = PetCtSession(model, PetCtCase(*ct_and_pet((16,) * 3, (3.0,) * 3), prompts)).segment()
            masks[rules] = result.mask.array
            np.testing.assert_array_equal(masks["none"], masks["none"] > 0)
            if rules == "none":
                np.testing.assert_array_equal(result.mask.array, result.lesion_logit.array > 0)
        assert masks["none"][8, 8, 8] == 1
        assert masks["clicks"][8, 8, 8] == 0


def long_session(tmp_path: Path, **options: Any) -> PetCtSession:
    """A body of 360 mm with a hot lesion in the middle, and a network that marks what is hot."""
    ct, pet = ct_and_pet((16, 16, 120), (3.0, 3.0, 3.0))
    pet.array[58:63, 6:10, 6:10] = 20.0
    model = network_stage(tmp_path, **options)

    def network(tile: torch.Tensor) -> torch.Tensor:
        hot = tile[:, 1:2] - 2  # by how many standard deviations
        return torch.cat([-hot, hot], dim=1)

    model.networks = (network,)  # type: ignore[assignment]
    return PetCtSession(model, PetCtCase(ct, pet))


class TestFirstLook:
    def test_what_lies_between_two_clicks_stays(self, tmp_path: Path) -> None:
        session = long_session(tmp_path)
        before = session.segment()
        lesion = before.mask.array > 0
        assert lesion.sum() == lesion[58:63, 6:10, 6:10].sum() == 5 * 4 * 4
        session.add(TUMOR, (8, 8, 8))
        session.add(TUMOR, (8, 8, 111))
        near, final = session.updates()
        assert near.mask.array[lesion].all()
        assert near.mask.array[8, 8, 8] == near.mask.array[111, 8, 8] == 1
        # tiles over the clicks begin at 0 and 8, and at 96 and 104
        np.testing.assert_array_equal(near.lesion_logit.array[24:96], before.lesion_logit.array[24:96])
        fresh = PetCtSession(session.model, session.case).segment(session.prompts)
        np.testing.assert_array_equal(final.mask.array, fresh.mask.array)
        np.testing.assert_array_equal(near.mask.array, final.mask.array)

    def test_a_click_in_air_beside_the_body_counts_at_once(self, tmp_path: Path) -> None:
        session = long_session(tmp_path)
        session.case.ct.array[100:], session.case.pet.array[100:] = -1000, 0.0
        before = session.segment()
        session.add(TUMOR, (8, 8, 118))
        near, final = session.updates()
        assert near.mask.array[118, 8, 8] == final.mask.array[118, 8, 8] == 1
        assert (near.lesion_logit.array[104:] == OUTSIDE_LOGIT).all()
        np.testing.assert_array_equal(near.mask.array[:100], before.mask.array[:100])

    def test_each_point_has_its_box_unless_boxes_overlap(self) -> None:
        points = clicks(*((TUMOR, (5.0, 6.0, z)) for z in (8.0, 100.0, 34.0, 30.0)))
        plane = (slice(0, 17), slice(0, 20))  # 40 mm are 14 voxels of 3 mm along z, and 10 or 14 of 4 or 3 mm
        found = windows_around(points, (120, 40, 60), (3.0, 4.0, 3.0))
        assert sorted(found, key=str) == [(slice(0, 49), *plane), (slice(86, 115), *plane)]

    def test_it_takes_no_more_memory_the_farther_points_are_apart(self) -> None:
        ends = clicks(*((BACKGROUND, (x, x, x)) for x in (0.0, 999.0)))
        assert [[axis.stop - axis.start for axis in one] for one in windows_around(ends, (1000,) * 3, (2.0,) * 3)] == [
            [21, 21, 21],
            [20 + 1, 20 + 1, 20 + 1],
        ]


@pytest.mark.parametrize("stage", ["image", "network"])
def test_places_are_proposed_whether_tiles_are_kept_or_not(stage: Any, tmp_path: Path) -> None:
    session = long_session(tmp_path, prompt=replace(GAUSSIAN, stage=stage))
    assert session._predictor.keeps_tiles == (stage == "network")
    session.segment()
    assert len(session.suggest()) == 3


class TestPrecision:
    @pytest.mark.parametrize(
        ("precision", "expected"), [("float16", [7e4, 65504.0, 2.5]), ("float32", [7e4, 7e4, 2.5])]
    )
    def test_becquerels_beyond_half_precision_stay_finite(
        self, precision: Any, expected: list[float], tmp_path: Path
    ) -> None:
        ct, pet = ct_and_pet((16, 16, 16), (3.0, 3.0, 3.0))
        pet.array[0, 0, :2] = 7e4, 2.5
        model = network_stage(tmp_path, prompt=replace(GAUSSIAN, precision=precision))
        session = PetCtSession(model, PetCtCase(ct, pet))
        assert session._predictor._rounded(pet)[0, 0, :2].tolist() == expected[1:]
        assert np.isfinite(session.segment().lesion_logit.array).all()
        assert pet.array[0, 0, 0] == expected[0]


class TestMemory:
    """A device with room for images and networks, and for a tile only where tiles are computed one by one."""

    @pytest.fixture
    def session(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PetCtSession:
        session = long_session(tmp_path)
        session.segment()
        session.add(TUMOR, (8, 8, 8))
        places = [Placement(CPU, CPU), Placement(CPU, CPU, one_by_one=True)]
        monkeypatch.setattr(ensemble, "list_placements", lambda _: places)
        return session

    @staticmethod
    def with_room(session: PetCtSession, monkeypatch: pytest.MonkeyPatch, *, one_by_one: bool) -> list[int]:
        """Let the networks fail for several tiles at once, and for one where there is no room; return their numbers."""
        network, seen = session.model.networks[0], []

        def limited(tile: torch.Tensor) -> torch.Tensor:
            seen.append(len(tile))
            if len(tile) > 1 or not one_by_one:
                raise torch.OutOfMemoryError("CUDA out of memory")
            found: torch.Tensor = network(tile)
            return found

        session.model.networks = (limited,)  # type: ignore[assignment]
        monkeypatch.setattr(Arithmetic, "tiles_at_once", lambda *_: 4)
        return seen

    def test_a_first_look_and_proposals_take_what_there_is(
        self, session: PetCtSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        plain = PetCtSession(session.model, session.case)
        plain.segment()
        plain.add(TUMOR, (8, 8, 8))
        expected, proposed = list(plain.updates()), plain.suggest()
        seen = self.with_room(session, monkeypatch, one_by_one=True)
        found = list(session.updates())
        assert seen[0] == 4
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.mask.array, other.mask.array)
        seen.clear()
        assert session.suggest() == proposed
        assert set(seen) == {1, 4}

    def test_without_memory_anywhere_both_end_with_an_error_of_their_own(
        self, session: PetCtSession, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        self.with_room(session, monkeypatch, one_by_one=False)
        voxels = np.array([[8, 8, 8]])
        for work in (
            lambda: next(session.updates()),
            lambda: session._predictor.predict_views(session.prompts, voxels, watch=Stopwatch()),
        ):
            with pytest.raises(OutOfMemoryError, match="expected enough memory"):
                work()


class TestBody:
    @staticmethod
    def patient() -> tuple[Volume, Volume]:
        """A cube of tissue at one end of a long image of air."""
        ct, pet = ct_and_pet((20, 20, 90), (3.0, 3.0, 3.0))
        ct.array[12:] = -1000
        pet.array[12:] = 0.01
        return ct, pet

    def test_air_is_left_out(self, tmp_path: Path) -> None:
        found = lesion_logit(network_stage(tmp_path), *self.patient())
        assert (found.array[:12] != OUTSIDE_LOGIT).all()
        assert (found.array[40:] == OUTSIDE_LOGIT).all()

    def test_only_the_box_around_the_body_is_tiled(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        shapes = []
        predict = tiles.predict

        def spy(network: Any, data: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            shapes.append(tuple(data.shape[1:]))
            return predict(network, data, *args, **options)

        monkeypatch.setattr(tiles, "predict", spy)
        lesion_logit(network_stage(tmp_path), *self.patient())
        # 12 slices of tissue and the neighbour that interpolation needs are 13, padded to the patch of 16
        assert shapes == [(16, 20, 20)]

    def test_click_channels_are_made_on_the_padded_grid(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        seen = []
        predict = tiles.predict

        def spy(network: Any, data: torch.Tensor, *args: Any, **options: Any) -> torch.Tensor:
            seen.append(data)
            return predict(network, data, *args, **options)

        monkeypatch.setattr(tiles, "predict", spy)
        model = network_stage(tmp_path, prompt=PromptSpec(Fields(radius=6.0)))
        model.arithmetic = Arithmetic(torch.float32, exact=False)  # which keeps channels unrounded
        ct, pet = ct_and_pet((16, 16, 12), (3.0, 3.0, 3.0))
        lesion_logit(model, ct, pet, clicks((TUMOR, (8.0, 8.0, 6.0))))
        far = seen[0][5]
        # 12 slices are padded by two on either side, so that slice 6 becomes slice 8; 24 mm below it lies padding
        assert far.shape == PATCH
        assert far[8, 8, 8] == 1
        assert far[0, 8, 8].item() == pytest.approx(np.exp(-24 / 30), rel=1e-5)

    def test_uptake_outside_the_ct_field_of_view_counts_as_body(self, tmp_path: Path) -> None:
        ct, pet = self.patient()
        pet.array[85:] = 0.6
        found = lesion_logit(network_stage(tmp_path), ct, pet)
        assert (found.array[85:] != OUTSIDE_LOGIT).all()
        assert (found.array[40:60] == OUTSIDE_LOGIT).all()

    def test_an_image_of_air_alone_is_predicted_everywhere(self, tmp_path: Path) -> None:
        ct, pet = self.patient()
        ct.array[:] = -1000
        pet.array[:] = 0.01
        assert (lesion_logit(network_stage(tmp_path), ct, pet).array != OUTSIDE_LOGIT).all()

    def test_an_exact_image_stage_model_predicts_everything(self, folder: Path) -> None:
        exact = PetCtModel.load(folder, device=CPU, exact=True)
        assert (lesion_logit(exact, *self.patient()).array != OUTSIDE_LOGIT).all()

    def test_without_body_its_tiles_are_left_out_unless_exactness_is_asked_for(self, folder: Path) -> None:
        exact, fast = (PetCtModel.load(folder, device=CPU, exact=exact) for exact in (True, False))
        fast.arithmetic, fast.networks = replace(exact.arithmetic, exact=False), exact.networks  # the same precision
        whole, part = (lesion_logit(model, *self.patient()).array for model in (exact, fast))
        assert (part[60:] == OUTSIDE_LOGIT).all()
        np.testing.assert_allclose(part[:8], whole[:8], atol=2e-2)
