"""Tiles that a prompt leaves alone: named by what their logits depend on, kept, and no other mask than without."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lesionclick.images import Grid, Volume
from lesionclick.network.tile_cache import TileCache
from lesionclick.petct import prediction
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.encodings import Ball, Fields
from lesionclick.prompts.points import BACKGROUND, TUMOR
from lesionclick.prompts.spec import Prediction, PromptSpec

SIZE_XYZ = (20, 18, 70)
SPACING = (3.0, 3.0, 3.0)


def tensor(numbers: int) -> torch.Tensor:
    return torch.zeros(numbers, dtype=torch.float32)


class TestCache:
    def test_what_was_not_asked_for_the_longest_goes_first(self) -> None:
        cache = TileCache(max_bytes=3 * 40)
        for key in "abc":
            cache.put(key, tensor(10))
        assert cache.get("a") is not None
        cache.put("d", tensor(10))
        assert [cache.get(key) is not None for key in "abcd"] == [True, False, True, True]

    def test_a_large_output_costs_several_and_one_too_large_all(self) -> None:
        cache = TileCache(max_bytes=100)
        cache.put("a", tensor(10))
        cache.put("b", tensor(10))
        cache.put("c", tensor(20))
        assert len(cache) == 1
        cache.put("d", tensor(26))
        assert len(cache) == 0

    def test_an_output_that_comes_again_takes_its_memory_once(self) -> None:
        cache = TileCache(max_bytes=100)
        for _ in range(5):
            cache.put("a", tensor(10))
        cache.put("b", tensor(15))
        assert len(cache) == 2

    def test_tiles_have_room_that_fill_the_memory(self) -> None:
        kept = TileCache(max_bytes=100).of(lambda tile: tile[2].start, tile_bytes=25)
        assert kept.has_room_for(4)
        assert not kept.has_room_for(5)


@pytest.fixture(scope="module")
def make_session(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., PetCtSession]:
    """Sessions of a body of 210 mm in which tiles of 48 mm lie, with a network whose passes are counted."""
    grid = Grid(SIZE_XYZ, SPACING)
    rng = np.random.default_rng(0)
    ct = Volume(rng.integers(1, 100, grid.shape_zyx).astype(np.float32), grid)
    pet = Volume(rng.uniform(0.9, 9.0, grid.shape_zyx).astype(np.float32), grid)

    def make(
        encoding: Any = Fields(radius=4.0, far_mm=10.0, cutoff_mm=24.0),  # noqa: B008
        exact: bool = True,
        **options: Any,
    ) -> PetCtSession:
        folder = tmp_path_factory.mktemp("model")
        spec = PromptSpec(encoding, **options)
        write_model_folder(folder, prompt=spec, patch_size=(16, 16, 16), spacing_zyx=SPACING)
        model = PetCtModel.load(folder, device=torch.device("cpu"), exact=exact)
        network, passes = model.networks[0], []
        model.networks = (lambda tile: passes.append(1) or network(tile),)  # type: ignore[assignment]
        session = PetCtSession(model, PetCtCase(ct, pet))
        session.passes = passes  # type: ignore[attr-defined]
        return session

    return make


def passes_of(session: Any) -> int:
    """Count the passes of the next segmentation."""
    session.passes.clear()
    session.segment()
    return len(session.passes)


POINTS = st.tuples(st.integers(0, 19), st.integers(0, 17), st.integers(0, 69))
ACTIONS = st.lists(
    st.one_of(st.tuples(st.sampled_from([TUMOR, BACKGROUND]), POINTS), st.just("undo")), min_size=1, max_size=4
)


BY_TILE = Fields(radius=2.0, far_mm=10.0, cutoff_mm=12.0)
"""Ends at a quarter of the tiles, so that these show the marks that lie in them, and no others."""


def test_the_first_look_at_a_click_takes_the_tile_around_it_alone(make_session: Callable[..., PetCtSession]) -> None:
    session: Any = make_session(BY_TILE, exact=False)
    session.segment()
    session.add(TUMOR, (8, 8, 36))  # tiles of 16 voxels lie 2 or 4 apart along x and y, and half of their size along z
    updates = session.updates()
    session.passes.clear()
    near = next(updates)
    first = len(session.passes)
    final = next(updates)
    assert 1 <= first <= 4 < len(session.passes)
    assert near.mask.array[36, 8, 8] == final.mask.array[36, 8, 8] == 1


@pytest.mark.parametrize("options", [{}, {"encoding": BY_TILE, "exact": False}], ids=["in reach", "by tile"])
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(actions=ACTIONS)
def test_any_sequence_of_clicks_gives_what_a_fresh_session_gives(
    make_session: Callable[..., PetCtSession], options: dict[str, Any], actions: list[Any]
) -> None:
    session, fresh = make_session(**options), make_session(**options)
    for action in actions:
        if action == "undo":
            session.undo()
        else:
            session.add(*action)
        kept = session.segment()
        whole = PetCtSession(fresh.model, fresh.case).segment(session.prompts)
        np.testing.assert_array_equal(kept.lesion_logit.array, whole.lesion_logit.array)
        np.testing.assert_array_equal(kept.mask.array, whole.mask.array)


def test_a_point_that_makes_a_stroke_of_clicks_changes_the_tiles_of_all(
    make_session: Callable[..., PetCtSession],
) -> None:
    session, fresh = make_session(), make_session()
    chain = [(10, 9, 10 + 2 * n) for n in range(11)]  # 6 mm from one to the next, 60 mm in all
    session.add(TUMOR, *chain[:10])
    before = session.segment().lesion_logit.array
    session.add(TUMOR, chain[10])
    fresh.add(TUMOR, *chain)
    after = session.segment().lesion_logit.array
    np.testing.assert_array_equal(after, fresh.segment().lesion_logit.array)
    assert not np.array_equal(after[5:15], before[5:15])  # 45 mm from the last point, farther than its fields reach
    session.undo()
    np.testing.assert_array_equal(session.segment().lesion_logit.array, before)


def test_a_click_costs_the_tiles_that_it_reaches_and_undo_costs_none(make_session: Callable[..., PetCtSession]) -> None:
    session = make_session()
    # half overlapping tiles of 16 voxels begin at 0, 7 and so on to 54 along z; along x and y there are two each
    everything = passes_of(session)
    session.add(TUMOR, (10, 9, 3))
    # 24 mm are 8 voxels: what begins at 11 or before is reached
    starts = np.round(np.linspace(0, 54, everything // 4)).astype(int)
    assert passes_of(session) == 4 * int((starts - 3 <= 8).sum()) < everything
    session.undo()
    assert passes_of(session) == 0


def test_where_fields_end_early_a_click_costs_the_tiles_over_it(make_session: Callable[..., PetCtSession]) -> None:
    session = make_session(BY_TILE, exact=False)
    everything = passes_of(session)
    starts = np.round(np.linspace(0, 54, everything // 4)).astype(int)
    session.add(TUMOR, (10, 9, 40))
    over = int(((starts <= 40) & (starts + 16 > 40)).sum())
    assert passes_of(session) == 4 * over == 8  # along z two tiles lie over it; along x and y both of two
    session.add(BACKGROUND, (10, 9, 20))
    near, final = session.updates()
    fresh = PetCtSession(session.model, session.case).segment(session.prompts)
    np.testing.assert_array_equal(final.mask.array, fresh.mask.array)
    assert near.mask.array[20, 9, 10] == final.mask.array[20, 9, 10] == 0


def test_a_click_that_makes_another_a_further_one_changes_the_tiles_of_both(
    make_session: Callable[..., PetCtSession],
) -> None:
    session, fresh = make_session(), make_session()
    session.add(TUMOR, (10, 9, 40))
    session.segment()
    moved = fresh.prompts.followed_by(session.prompts)
    session.reset()
    session.add(TUMOR, (10, 9, 28))  # 36 mm from the other, farther than the fields reach
    session.add(TUMOR, moved.points[0].point_xyz)
    for point in session.prompts:
        fresh.add(point.kind, point.point_xyz)
    np.testing.assert_array_equal(session.segment().lesion_logit.array, fresh.segment().lesion_logit.array)


@pytest.mark.parametrize(
    ("encoding", "options", "kept"),
    [
        (Ball(radius=2.0), {}, True),
        (Fields(radius=4.0), {}, False),
        (Ball(radius=2.0), {"stage": "image"}, False),
        (Ball(radius=2.0), {"prediction": Prediction(mirror_axes=(2,))}, True),
    ],
    ids=["finite", "infinite", "image stage", "mirrored"],
)
def test_tiles_are_kept_where_a_prompt_has_an_end(
    make_session: Callable[..., PetCtSession], encoding: Any, options: dict[str, Any], kept: bool
) -> None:
    session = make_session(encoding, **options)
    everything = passes_of(session)
    session.add(TUMOR, (10, 9, 3))
    assert (0 < passes_of(session) < everything) == kept


def test_the_neighbourhood_of_a_click_comes_first_and_then_the_whole(make_session: Callable[..., PetCtSession]) -> None:
    session = make_session()
    (whole,) = session.updates()  # nothing is known yet
    session.add(TUMOR, (10, 9, 3))
    session.passes.clear()  # type: ignore[attr-defined]
    near, final = session.updates()
    # twelve tiles hold the click's voxel or the one beside it; the final mask needs those and the others in reach
    np.testing.assert_array_equal(near.mask.array[20:], whole.mask.array[20:])
    assert near.mask.array[3, 9, 10] == final.mask.array[3, 9, 10] == 1
    window = (slice(2, 5), slice(7, 12), slice(8, 13))
    np.testing.assert_allclose(near.lesion_logit.array[window], final.lesion_logit.array[window], atol=0.05)
    fresh = PetCtSession(session.model, session.case).segment(session.prompts)
    np.testing.assert_array_equal(final.mask.array, fresh.mask.array)


def test_where_one_pass_takes_more_memory_than_there_is_nothing_is_kept(
    make_session: Callable[..., PetCtSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = make_session()
    everything = passes_of(kept)
    n_bytes = everything * 2 * 16**3 * 4  # of background and lesion in float32
    monkeypatch.setattr(prediction, "KEPT_BYTES", n_bytes)
    assert passes_of(session := make_session()) == everything
    assert passes_of(session) == 0
    monkeypatch.setattr(prediction, "KEPT_BYTES", n_bytes - 1)
    session, clicks = make_session(), [(TUMOR, (10, 9, 40)), (BACKGROUND, (3, 9, 10))]
    for kind, place in clicks:
        session.add(kind, place)
        kept.add(kind, place)
        assert passes_of(session) == everything
        assert len(session._predictor._tiles) == 0
        found, fresh = session.segment(), PetCtSession(session.model, session.case).segment(session.prompts)
        np.testing.assert_array_equal(found.lesion_logit.array, fresh.lesion_logit.array)
        np.testing.assert_array_equal(found.mask.array, kept.segment().mask.array)
