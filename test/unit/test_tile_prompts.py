"""The prompts that a tile shows: what lies in it, kept apart from what does not."""

import pytest
import torch

from lesionclick.petct.tile_prompts import TilePrompts, are_shown_by_tile
from lesionclick.prompts.encodings import Ball, Fields, Gaussian, PointEncoding
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

SPACING = (3.0, 4.0, 4.0)
SHAPE = (40, 30, 30)
FIELDS = Fields(radius=4.0, far_mm=10.0, cutoff_mm=20.0)


def prompts_at(tumor_zyx: list[list[int]], background_zyx: list[list[int]]) -> Prompts:
    return Prompts.from_indices(tumor_zyx=tumor_zyx, background_zyx=background_zyx)


def parts(*axes: tuple[int, int]) -> tuple[slice, slice, slice]:
    z, y, x = (slice(*axis) for axis in axes)
    return z, y, x


@pytest.mark.parametrize(
    ("encoding", "by_tile"),
    [
        (Fields(radius=4.0, cutoff_mm=48.0), True),  # a quarter of 64 voxels of 3 mm
        (Fields(radius=4.0, cutoff_mm=48.1), False),
        (Fields(radius=9.7, cutoff_mm=20.0), False),  # near fields end at five times 9.7 mm
        (Fields(radius=4.0), False),
        (Gaussian(radius=1.0), False),
        (Ball(radius=1.0), False),
    ],
    ids=["just", "too far", "near too far", "no end", "gaussian", "ball"],
)
def test_a_tile_shows_its_own_marks_alone_where_no_other_reaches_its_middle(
    encoding: PointEncoding, by_tile: bool
) -> None:
    assert are_shown_by_tile(encoding, (64, 48, 48), SPACING) == by_tile


def test_the_shortest_side_of_a_tile_decides_whether_it_shows_its_own_marks_alone() -> None:
    assert not are_shown_by_tile(Fields(radius=2.0, far_mm=10.0, cutoff_mm=25.0), (16, 64, 64), (3.0, 3.0, 3.0))


def test_a_part_with_all_marks_is_painted_like_the_whole() -> None:
    prompts = prompts_at([[12, 10, 10], [14, 11, 9]], [[20, 15, 15]])
    whole = FIELDS.encode(prompts, SHAPE, SPACING)
    part = parts((5, 37), (4, 28), (2, 26))
    painted = TilePrompts(FIELDS, prompts, SPACING).paint(part)
    torch.testing.assert_close(painted, whole[:, *part], rtol=0, atol=1e-6)


def test_a_mark_beyond_the_part_is_not_painted_but_still_makes_another_a_further_one() -> None:
    first, further, background = [12, 10, 3], [12, 10, 10], [12, 10, 29]
    part = parts((0, 40), (0, 30), (6, 29))
    painted = TilePrompts(FIELDS, prompts_at([first, further], [background]), SPACING).paint(part)
    assert not painted[0].any()  # the first click on the lesion, 12 mm beyond
    assert not painted[2].any()  # background, one voxel beyond
    assert painted[1, 12, 10, 10 - 6] == 1
    assert TilePrompts(FIELDS, prompts_at([first], [background]), SPACING).paint(part) is None
    alone = FIELDS.encode(prompts_at([further], []), SHAPE, SPACING)[:, *part]
    torch.testing.assert_close(painted[1], alone[0], rtol=0, atol=1e-6)
    torch.testing.assert_close(painted[3], alone[3], rtol=0, atol=1e-6)


def test_marks_reach_as_far_as_they_are_said_to() -> None:
    prompts = Prompts((Point(TUMOR, (10.0, 10.0, 12.0)), Point(BACKGROUND, (20.0, 10.0, 12.0))))
    shown = TilePrompts(FIELDS, prompts, SPACING)
    tile = parts((0, 40), (0, 30), (0, 15))
    assert {mark.how for mark in shown.reaching(tile, 0.0)} == {"first"}
    # voxel 20 is 5.5 voxels of 4 mm from the end of voxel 14
    assert len(shown.reaching(tile, 21.9)) == 1
    assert len(shown.reaching(tile, 22.0)) == 2
