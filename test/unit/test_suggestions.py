"""Places to click next: worked out by hand on small images, and by sessions with networks that are easy to follow."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder
from scipy.special import expit

from lesionclick.budget import Budget, Stopwatch
from lesionclick.images import Grid, Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.petct.suggestions import (
    APART_MM,
    HOT_PROBABILITY,
    Findings,
    Suggestion,
    find_suggestions,
)
from lesionclick.prompts.encodings import Ball
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts
from lesionclick.prompts.spec import Calibration, PromptSpec

SHAPE = (40, 40, 60)
SPACING = (4.0, 4.0, 4.0)
SURE, UNSURE, UNLIKELY = 6.0, 0.4, -1.0


def cube(centre: tuple[int, int, int], half: int = 2) -> tuple[slice, ...]:
    return tuple(slice(c - half, c + half + 1) for c in centre)


class Body:
    """Tissue of SUV 1 that the network is sure of, with cubes in it."""

    def __init__(self) -> None:
        self.logit = np.full(SHAPE, -9.0, dtype=np.float32)
        self.suv = np.ones(SHAPE, dtype=np.float32)

    def add(self, centre: tuple[int, int, int], logit: float, *, suv: float = 1.0, half: int = 2) -> None:
        self.logit[cube(centre, half)] = logit
        self.suv[cube(centre, half)] = suv

    def suggest(self, prompts: Prompts = Prompts(), **options: Any) -> tuple[Suggestion, ...]:  # noqa: B008
        findings = self.findings()
        likely = findings.probability[tuple(findings.doubtful().T)]
        return find_suggestions(findings, np.stack([likely, likely]), prompts, **options)

    def findings(self) -> Findings:
        return Findings(self.logit > 0, expit(self.logit), self.suv, SPACING)


def inside(one: Suggestion, centre: tuple[int, int, int], half: int = 2) -> bool:
    return all(abs(p - c) <= half for p, c in zip(one.point_xyz[::-1], centre, strict=True))


FIRST, SECOND, THIRD, FOURTH = (8, 8, 8), (8, 8, 30), (30, 30, 30), (30, 8, 50)


def test_nothing_to_ask_where_all_is_sure() -> None:
    assert Body().suggest() == ()


def test_an_unsure_lesion_is_a_place_for_background_and_an_unsure_gap_one_for_tumour() -> None:
    body = Body()
    body.add(FIRST, UNSURE)
    body.add(THIRD, -UNSURE)
    one, other = sorted(body.suggest(), key=lambda found: found.kind)
    assert (one.kind, other.kind) == (BACKGROUND, TUMOR)
    assert inside(one, FIRST)
    assert inside(other, THIRD)
    assert one.probability == pytest.approx(1 / (1 + np.exp(-UNSURE)))
    assert other.probability == pytest.approx(1 - one.probability)
    assert one.wrong_ml == pytest.approx(other.wrong_ml)


def test_the_place_is_the_middle_and_the_volume_the_cubes_share() -> None:
    body = Body()
    body.add(FIRST, UNSURE, half=1)
    (one,) = body.suggest()
    assert one.point_xyz == FIRST[::-1]
    # 27 voxels of 0.064 ml; along each axis one has the weight 1 and two at 4 mm have exp(-(4 / 12)**2 / 2)
    weight = ((1 + 2 * np.exp(-1 / 18)) / 3) ** 3
    assert one.wrong_ml == pytest.approx(weight * 27 * 0.064 * (1 - one.probability), rel=0.01)


def test_the_larger_the_surer_wrong_and_the_less_sure_come_first() -> None:
    body = Body()
    body.add(FIRST, UNSURE)
    body.add(SECOND, UNSURE, half=3)
    body.add(THIRD, UNSURE + 1)
    body.add(FOURTH, SURE)
    found = body.suggest(count=4)
    for one, centre in zip(found, (SECOND, FIRST, THIRD, FOURTH), strict=True):
        assert inside(one, centre, 3)
    assert list(found) == sorted(found, key=lambda one: -one.wrong_ml)
    assert body.suggest(count=2) == found[:2]


def test_hot_uptake_outside_the_mask_is_asked_however_sure_the_network_is() -> None:
    body = Body()
    body.add(FIRST, -9.0, suv=6.0)
    (one,) = body.suggest()
    assert one.kind == TUMOR
    assert inside(one, FIRST)
    assert one.probability < HOT_PROBABILITY
    assert one.suv == 6.0
    assert "SUV 6.0" in one.reason


def test_what_all_views_take_for_background_is_not_asked() -> None:
    """Voxels that one look found doubtful and that are not hot: nothing true could be said of them."""
    findings = Body().findings()
    doubted = replace(findings, probability=np.full_like(findings.probability, 0.03))
    views = np.full((2, len(doubted.doubtful())), 0.004)
    assert find_suggestions(doubted, views, Prompts()) == ()


def test_an_organ_that_is_hot_all_over_is_not_asked() -> None:
    body = Body()
    body.suv[:, :, 20:] = 6.0
    assert not any(one.point_xyz[0] > 32 for one in body.suggest(count=20))


def test_views_that_differ_make_a_place_unsure() -> None:
    body = Body()
    body.add(FIRST, 3.0)
    body.add(THIRD, 3.0)
    findings = body.findings()
    voxels = findings.doubtful()
    first_view = findings.probability[tuple(voxels.T)]
    other_view = np.where(voxels[:, 0] > 20, 1 - first_view, first_view)
    one, other = find_suggestions(findings, np.stack([first_view, other_view]), Prompts())
    assert inside(one, THIRD)
    assert one.spread == pytest.approx(0.5 / (1 + np.exp(-3)) - 0.5 / (1 + np.exp(3)))
    assert other.spread == 0
    assert "1 of 2 views" in one.reason
    assert "2 of 2 views" in other.reason


def test_a_component_of_the_mask_is_asked_once() -> None:
    body = Body()
    body.logit[10:13, 10:13, 2:58] = UNSURE
    assert len(body.suggest()) == 1


def test_proposals_keep_apart_from_each_other_and_from_points() -> None:
    body = Body()
    body.logit[10:13, 10:13, 2:58] = -UNSURE
    found = body.suggest()
    places = np.array([one.point_xyz for one in found]) * 4.0
    gaps = np.linalg.norm(places[:, None] - places[None], axis=-1)[np.triu_indices(3, 1)]
    assert gaps.min() >= APART_MM
    clicked = Prompts.from_indices(tumor_zyx=[found[0].point_xyz[::-1]])
    assert found[0].point_xyz not in [one.point_xyz for one in body.suggest(clicked)]


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_body_has_mirrored_proposals(axis: int) -> None:
    body, mirrored = Body(), Body()
    body.add(FIRST, UNSURE)
    body.add(THIRD, UNLIKELY)
    body.add(FOURTH, -9.0, suv=5.0, half=1)
    mirrored.logit, mirrored.suv = (np.flip(one, axis).copy() for one in (body.logit, body.suv))
    for one, other in zip(body.suggest(), mirrored.suggest(), strict=True):
        place = list(one.point_xyz[::-1])
        place[axis] = SHAPE[axis] - 1 - place[axis]
        assert abs(np.array(place) - other.point_xyz[::-1]).max() <= 1
        assert one.wrong_ml == pytest.approx(other.wrong_ml, rel=1e-4)


@pytest.fixture
def session(tmp_path: Path) -> PetCtSession:
    """A hot and a warm cube in a body, and a network that says of a voxel how hot its neighbour at lower x is."""
    grid = Grid((44, 40, 36), (3.0, 3.0, 3.0))
    rng = np.random.default_rng(0)
    pet = rng.uniform(0.9, 1.1, grid.shape_zyx).astype(np.float32)
    pet[12:17, 12:17, 8:13] = 4.0
    pet[24:29, 24:29, 32:37] = 12.0
    folder = write_model_folder(
        tmp_path / "model",
        prompt=PromptSpec(Ball(radius=2.0)),
        patch_size=(16, 16, 16),
        spacing_zyx=grid.spacing_zyx,  # type: ignore[arg-type]
        folds=(0, 1),
    )
    model = PetCtModel.load(folder, device=torch.device("cpu"), exact=True)
    passes: list[int] = []

    def network(tile: torch.Tensor) -> torch.Tensor:
        passes.append(1)
        uptake = tile[:, 1:2].roll(1, dims=4)
        return torch.cat([torch.zeros_like(uptake), uptake - 4.5], dim=1)

    model.networks = (network, network)  # type: ignore[assignment]
    session = PetCtSession(model, PetCtCase(Volume(np.zeros_like(pet), grid), Volume(pet, grid)))
    session.passes = passes  # type: ignore[attr-defined]
    return session


def test_views_are_each_fold_as_it_is_and_mirrored_along_each_axis(session: Any) -> None:
    logit = session.segment().lesion_logit.array
    voxels = np.argwhere(session.case.pet.array > 2)
    views = session._predictor.predict_views(Prompts(), voxels, watch=Stopwatch())
    assert views.shape == (8, len(voxels))
    here, beyond = logit[tuple(voxels.T)], logit[tuple((voxels + np.array([0, 0, 2])).T)]
    for fold in views[:4], views[4:]:
        np.testing.assert_allclose(fold[:3], np.stack([here] * 3), rtol=0.01)
        np.testing.assert_allclose(fold[3], beyond, rtol=0.01)
    assert np.abs(here - beyond).max() > 1


def test_only_tiles_that_hold_a_doubtful_voxel_are_computed(session: Any) -> None:
    session.segment()
    everything = len(session.passes) // 2  # of one fold
    session.passes.clear()
    session._predictor.predict_views(Prompts(), np.array([[14, 14, 10]]), watch=Stopwatch())
    # half overlapping tiles of 16 voxels: 3 x 2 x 2 hold the voxel; by two folds, and what is not mirrored is known
    assert len(session.passes) == 2 * 3 * 12 < 2 * 3 * everything


def test_a_session_proposes_and_stays_as_it_was(session: Any) -> None:
    before = session.segment().mask.array
    found = session.suggest()
    # the views differ at the sides of the cubes
    assert sorted(one.point_xyz[0] // 20 for one in found) == [0, 1]
    for one in found:
        x, y, z = one.point_xyz
        side = session.case.pet.array[z, y, x - 2 : x + 3]
        assert one.spread > 0.3
        assert side.max() > 3 > side.min()
    for one in found:
        assert (before[one.point_xyz[::-1]] > 0) == (one.kind == BACKGROUND)
    assert len(session.prompts) == 0
    np.testing.assert_array_equal(session.segment().mask.array, before)
    session.add(found[0].kind, found[0].point_xyz)
    assert found[0].point_xyz not in [one.point_xyz for one in session.suggest()]


def test_proposals_stop_where_the_clock_raises(session: Any) -> None:
    class OverError(Exception):
        pass

    def clock() -> float:
        if stopped:
            raise OverError
        return 0.0

    stopped, views = False, session._predictor._predict_views

    def stop_first(*arguments: Any) -> Any:
        nonlocal stopped
        stopped = True
        return views(*arguments)

    session._predictor._predict_views = stop_first
    with pytest.raises(OverError):
        session.suggest(budget=Budget(clock=clock))


def with_prompt(session: Any, **changes: Any) -> PetCtSession:
    content = session.model.content
    session.model.content = replace(content, prompt=replace(content.prompt, **changes))
    return session  # type: ignore[no-any-return]


def test_views_see_a_lesion_where_the_mask_has_one_whatever_the_calibration(session: Any) -> None:
    doubtful = with_prompt(session, calibration=Calibration(scale=1.0, shift=-30.0))
    inside = [one for one in doubtful.suggest() if one.kind == "background"]
    assert inside
    for one in inside:
        assert one.probability < 0.5
        assert "0 of" not in one.reason


def test_a_calibration_changes_how_sure_a_place_is_and_no_voxel_of_the_mask(session: Any) -> None:
    before, plain = session.segment().mask.array, session.suggest()
    unsure = with_prompt(session, calibration=Calibration(scale=0.25)).suggest()
    np.testing.assert_array_equal(session.segment().mask.array, before)
    assert max(one.spread for one in unsure) < min(one.spread for one in plain)


@pytest.mark.parametrize(("around", "suv", "hot"), [(0.0, 1.9, False), (0.0, 2.1, True), (1.0, 1.9, False)])
def test_uptake_is_hot_from_an_suv_on(around: float, suv: float, hot: bool) -> None:
    assert _is_hot(around, suv) == hot


@pytest.mark.parametrize(("suv", "hot"), [(3.95, False), (4.05, True)])
def test_uptake_is_hot_from_twice_its_surroundings_on(suv: float, hot: bool) -> None:
    assert _is_hot(2.0, suv) == hot


def _is_hot(around: float, suv: float) -> bool:
    pet = np.full((21, 21, 21), around, dtype=np.float32)
    pet[10, 10, 10] = suv
    hot = Findings(np.zeros(pet.shape, dtype=bool), np.zeros(pet.shape), pet, (4.0, 4.0, 4.0)).hot
    assert hot.sum() == hot[10, 10, 10]
    return bool(hot[10, 10, 10])


def test_parts_of_the_mask_that_touch_at_a_corner_are_one_component() -> None:
    body = Body()
    body.add((8, 8, 8), UNSURE, half=3)
    body.add((15, 15, 15), UNSURE, half=3)
    assert len(body.suggest()) == 1


# 27 voxels of 0.064 ml, seen from their middle
SHARE_ML = ((1 + 2 * np.exp(-1 / 18)) / 3) ** 3 * 27 * 0.064


def test_what_is_wrong_beyond_the_surface_of_the_mask_does_not_count() -> None:
    body = Body()
    body.add(FIRST, 0.1, half=1)
    body.add((8, 8, 11), -0.4, half=1)  # side by side
    found = body.suggest()[0]
    assert found.kind == BACKGROUND
    assert found.wrong_ml == pytest.approx(SHARE_ML / (1 + np.exp(0.1)), rel=0.01)


def test_hot_uptake_that_may_be_a_lesion_is_asked_as_any_other_place() -> None:
    body = Body()
    body.add(FIRST, -UNSURE, suv=6.0, half=1)
    (one,) = body.suggest()
    assert one.wrong_ml == pytest.approx(SHARE_ML / (1 + np.exp(UNSURE)), rel=0.01)
    assert one.reason == "not in the mask, 40% likely a lesion: 0 of 2 views see a lesion here"


@pytest.mark.parametrize(("voxels", "asked"), [(2, 0), (3, 1), (5, 1)])
def test_a_place_is_asked_from_a_clicks_reach_on(voxels: int, asked: int) -> None:
    """That is 12 mm, three voxels."""
    body = Body()
    body.add(FIRST, UNSURE, half=0)
    point = (FIRST[0], FIRST[1] + voxels, FIRST[2])
    assert len(body.suggest(Prompts.from_indices(background_zyx=[point]))) == asked
