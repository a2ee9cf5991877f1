import subprocess
import sys
import tracemalloc

import numpy as np
import pytest

from lesionclick.prompts.points import (
    BACKGROUND,
    TUMOR,
    Point,
    Prompts,
    are_in_strokes,
    describe_oddities,
    is_first_on_lesion,
)

SHAPE = (30, 20, 10)


def tumor(x: float, y: float, z: float, stroke: int | None = None) -> Point:
    return Point(TUMOR, (x, y, z), stroke)


def background(x: float, y: float, z: float, stroke: int | None = None) -> Point:
    return Point(BACKGROUND, (x, y, z), stroke)


class TestOrder:
    POINTS = (tumor(1, 2, 3), background(4, 5, 6, 0), tumor(1, 2, 3), background(4, 5, 7, 0))

    def test_points_are_kept_in_their_order_repeated_ones_too(self) -> None:
        prompts = Prompts(self.POINTS)
        assert len(prompts) == 4
        assert tuple(prompts) == self.POINTS
        assert len(Prompts()) == 0

    def test_points_of_a_kind(self) -> None:
        prompts = Prompts(self.POINTS)
        assert prompts.of(TUMOR) == Prompts((tumor(1, 2, 3), tumor(1, 2, 3)))
        assert prompts.of(BACKGROUND) == Prompts((background(4, 5, 6, 0), background(4, 5, 7, 0)))
        assert prompts.of("3") == Prompts()

    def test_others_follow(self) -> None:
        assert Prompts(self.POINTS[:2]).followed_by(self.POINTS[2:]) == Prompts(self.POINTS)
        assert Prompts(self.POINTS[:2]).followed_by(Prompts(self.POINTS[2:])) == Prompts(self.POINTS)
        assert Prompts(self.POINTS).followed_by(()) == Prompts(self.POINTS)


class TestSteps:
    KINDS = (TUMOR, BACKGROUND, TUMOR, TUMOR, BACKGROUND)
    PROMPTS = Prompts(tuple(Point(kind, (n, 0.0, 0.0)) for n, kind in enumerate(KINDS)))

    @pytest.mark.parametrize(
        ("step", "kept"), [(0, []), (1, [0, 1]), (2, [0, 1, 2, 4]), (3, [0, 1, 2, 3, 4]), (10, [0, 1, 2, 3, 4])]
    )
    def test_first_of_each_kind_in_their_order(self, step: int, kept: list[int]) -> None:
        assert [point.point_xyz[0] for point in self.PROMPTS.at_step(step)] == kept

    def test_repeated_points_count(self) -> None:
        prompts = Prompts((tumor(1, 1, 1), tumor(1, 1, 1), tumor(2, 2, 2)))
        assert prompts.at_step(2) == Prompts((tumor(1, 1, 1), tumor(1, 1, 1)))

    def test_strokes_survive(self) -> None:
        prompts = Prompts((tumor(1, 1, 1, 0), background(1, 1, 1), tumor(2, 2, 2, 0), tumor(3, 3, 3, 1)))
        assert prompts.at_step(2) == Prompts((tumor(1, 1, 1, 0), background(1, 1, 1), tumor(2, 2, 2, 0)))


class TestIndices:
    def test_axes_are_turned_around_and_other_kinds_left_out(self) -> None:
        prompts = Prompts((tumor(1, 2, 3), background(4, 5, 6), tumor(9, 19, 29.5)))
        assert prompts.indices_zyx(TUMOR).tolist() == [[3, 2, 1], [29.5, 19, 9]]
        assert prompts.indices_zyx(BACKGROUND).tolist() == [[6, 5, 4]]
        assert prompts.indices_zyx().tolist() == [[3, 2, 1], [6, 5, 4], [29.5, 19, 9]]

    def test_voxels_are_integers(self) -> None:
        prompts = Prompts((tumor(1, 2, 3), background(4, 5, 6)))
        assert prompts.voxels_zyx(TUMOR).tolist() == [[3, 2, 1]]
        assert prompts.voxels_zyx(TUMOR).dtype == np.int64

    @pytest.mark.parametrize("prompts", [Prompts(), Prompts((background(1, 2, 3),))])
    def test_no_point_gives_no_row(self, prompts: Prompts) -> None:
        assert prompts.indices_zyx(TUMOR).shape == prompts.voxels_zyx(TUMOR).shape == (0, 3)

    def test_from_indices_is_the_inverse_and_puts_tumour_first(self) -> None:
        inside = np.random.default_rng(0).integers(0, SHAPE, (20, 3))
        prompts = Prompts.from_indices(background_zyx=inside[12:], tumor_zyx=inside[:12])
        assert prompts.points[0] == tumor(*inside[0, ::-1].tolist())
        assert [point.kind for point in prompts] == [TUMOR] * 12 + [BACKGROUND] * 8
        assert np.array_equal(prompts.voxels_zyx(TUMOR), inside[:12])
        assert np.array_equal(prompts.voxels_zyx(BACKGROUND), inside[12:])
        assert Prompts.from_indices(tumor_zyx=inside[:0]) == Prompts.from_indices() == Prompts()


class TestOnGrid:
    @pytest.mark.parametrize(("x", "index"), [(0.5, 0), (1.5, 2), (2.5, 2), (2.4, 2), (2.6, 3), (-0.5, 0), (9.49, 9)])
    def test_coordinates_are_rounded_half_to_even(self, x: float, index: int) -> None:
        assert Prompts((tumor(x, 0, 0),)).on_grid(SHAPE) == Prompts((tumor(index, 0, 0),))

    @pytest.mark.parametrize(
        "outside", [(10, 0, 0), (0, 20, 0), (0, 0, 30), (-1, 0, 0), (-0.51, 0, 0), (9.5, 0, 0), (1e300, 0, 0)]
    )
    def test_points_outside_are_left_out_and_the_others_kept(self, outside: tuple[float, float, float]) -> None:
        prompts = Prompts((tumor(1, 2, 3), tumor(*outside), tumor(4, 5, 6)))
        assert prompts.on_grid(SHAPE) == Prompts((tumor(1, 2, 3), tumor(4, 5, 6)))

    def test_kinds_strokes_and_order_survive(self) -> None:
        prompts = Prompts((tumor(1.2, 2, 3, 4), background(-1, 0, 0, 5), background(4, 5.7, 6, 6), tumor(1, 2, 3)))
        assert prompts.on_grid(SHAPE) == Prompts((tumor(1, 2, 3, 4), background(4, 6, 6, 6), tumor(1, 2, 3)))

    def test_no_point_stays_none(self) -> None:
        assert Prompts().on_grid(SHAPE) == Prompts()


class TestMoved:
    def test_places_are_indices_and_kinds_strokes_and_order_survive(self) -> None:
        prompts = Prompts((tumor(1, 2, 3, 7), background(4, 5, 6), tumor(1, 2, 3, 7)))
        moved = prompts.moved(lambda places_zyx: places_zyx * 0.5 + (10, 0, 0))  # along z
        assert moved == Prompts((tumor(0.5, 1, 11.5, 7), background(2, 2.5, 13), tumor(0.5, 1, 11.5, 7)))

    def test_no_point_is_moved_as_an_array_without_rows(self) -> None:
        shapes = []
        assert Prompts().moved(lambda places_zyx: shapes.append(places_zyx.shape) or places_zyx) == Prompts()
        assert shapes == [(0, 3)]


class TestOddities:
    @pytest.mark.parametrize(
        ("points", "message"),
        [
            (
                [tumor(0.5, 0, 0), tumor(1.5, 0, 0)],
                "2 of 2 clicks have coordinates that are not whole, which are rounded half to even, such as tumor "
                "(0.5, 0, 0)",
            ),
            (
                [tumor(1, 0, 0), tumor(10, 0, 0)],
                "1 of 2 clicks lie outside the image of (10, 20, 30) voxels (x, y, z) and are ignored, such as tumor "
                "(10, 0, 0)",
            ),
            (
                [tumor(1, 0, 0)] * 3,
                "2 of 3 clicks are on a voxel that was clicked before, and are kept, such as tumor (1, 0, 0)",
            ),
            (
                [tumor(1, 0, 0), background(1, 0, 0)],
                "1 of 2 clicks are on a voxel that was clicked before, and are kept, such as background (1, 0, 0)",
            ),
        ],
    )
    def test_one_sentence_for_each_kind(self, points: list[Point], message: str) -> None:
        assert describe_oddities(Prompts(tuple(points)), SHAPE) == [message]

    def test_all_kinds_at_once(self) -> None:
        assert len(describe_oddities(Prompts((tumor(10.25, 0, 0), tumor(10.25, 0, 0))), SHAPE)) == 3

    @pytest.mark.parametrize("points", [(), (tumor(1, 0, 0), background(9, 19, 29))])
    def test_ordinary_points_have_none(self, points: tuple[Point, ...]) -> None:
        assert describe_oddities(Prompts(points), SHAPE) == []


def test_a_click_within_50_mm_of_an_earlier_one_is_not_the_first_on_its_lesion() -> None:
    # voxels of 2 x 5 x 5 mm: the second is 50 mm from the first, the third 40, the fourth 48 from the second alone
    points = np.array([[0, 0, 0], [0, 10, 0], [20, 0, 0], [24, 10, 0]])
    assert is_first_on_lesion(points, (2.0, 5.0, 5.0)).tolist() == [True, True, False, False]
    assert is_first_on_lesion(points[::-1], (2.0, 5.0, 5.0)).tolist() == [True, True, False, False]
    assert is_first_on_lesion(points[:0], (2.0, 5.0, 5.0)).tolist() == []


@pytest.mark.parametrize("count", [1, 2, 40, 400])
def test_first_clicks_are_those_of_the_plain_formula(count: int) -> None:
    rng = np.random.default_rng(count)
    points = rng.integers(0, [40, 60, 60], (count, 3))
    points = np.concatenate([points, points[rng.integers(0, count, count // 2)]])  # some voxels twice
    spacing = (5.0, 10.0, 10.0)  # in which many pairs are 50 mm apart to the bit
    distance = np.linalg.norm((points[:, None] - points) * spacing, axis=-1)
    assert count < 400 or (distance == 50).any()
    expected = ~np.tril(distance < 50, k=-1).any(axis=1) | are_in_strokes(points, spacing)
    np.testing.assert_array_equal(is_first_on_lesion(points, spacing), expected)


def test_thousands_of_points_in_one_place_take_little_memory() -> None:
    points = np.concatenate([np.full((4000, 3), 7), [[7, 7, 40], [7, 7, 41]]])
    tracemalloc.start()
    first = is_first_on_lesion(points, (3.0, 2.0, 2.0))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # the two beside are one click on another lesion, 66 mm away, and a further one; the others count as a stroke
    assert first.tolist() == [True] * 4001 + [False]
    assert peak < 50 * len(points) * 8  # all pairs would be 16 million numbers


class TestStrokes:
    SPACING = (3.0, 5.5, 5.5)  # the largest pixels of a PET; their diagonal is 7.8 mm

    @staticmethod
    def row(count: int, y: int = 0) -> list[list[int]]:
        """Pixels of one slice that touch at their corners."""
        return [[7, y + n, n] for n in range(count)]

    def inside(self, points: list[list[int]], spacing: tuple[float, ...] = SPACING) -> list[bool]:
        result: list[bool] = are_in_strokes(np.reshape(points, (-1, 3)), spacing).tolist()
        return result

    def test_eleven_points_that_touch_are_a_stroke_in_any_order(self) -> None:
        points = self.row(11)
        for order in (points, points[::-1], points[1::2] + points[::2]):
            assert self.inside(order) == [True] * 11

    @pytest.mark.parametrize("count", [0, 1, 2, 10])
    def test_ten_are_not(self, count: int) -> None:
        assert self.inside(self.row(count)) == self.inside([[7, 7, 7]] * count) == [False] * count

    def test_a_gap_parts_them(self) -> None:
        points = self.row(21)
        assert self.inside(points[:10] + points[11:]) == [False] * 20
        assert self.inside(points[:10] + points[12:]) == [False] * 19
        assert self.inside(points) == [True] * 21

    def test_points_are_linked_up_to_8_mm(self) -> None:
        points = [[n, 0, 0] for n in range(11)]
        assert self.inside(points, (8.0, 1.0, 1.0)) == [True] * 11
        assert self.inside(points, (8.1, 1.0, 1.0)) == [False] * 11

    def test_clicks_beside_a_stroke_stay_clicks(self) -> None:
        clicks = [[7, 30, 0], [12, 0, 0], [7, 30, 1]]  # 15 mm above the stroke's first point, and farther away
        assert self.inside([clicks[0], *self.row(12), *clicks[1:]]) == [False] + [True] * 12 + [False] * 2

    def test_points_of_a_stroke_count_as_first_clicks_and_make_later_clicks_further_ones(self) -> None:
        stroke, near, far = self.row(11), [7, 14, 10], [7, 60, 60]  # 22 mm from the last point, 385 mm
        first = is_first_on_lesion(np.array([*stroke, near, far]), self.SPACING)
        assert first.tolist() == [True] * 11 + [False, True]
        assert is_first_on_lesion(np.array([near, *stroke]), self.SPACING).tolist() == [True] * 12
        assert is_first_on_lesion(np.array(stroke[:10]), self.SPACING).tolist() == [True] + [False] * 9


def test_near_pairs_are_found_where_denormal_numbers_are_flushed():
    # in a process of its own, since a tree without an end overflows the stack
    script = """
import numpy as np, torch
from lesionclick.prompts.points import pairs_within
torch.set_flush_denormal(True)
rng = np.random.default_rng(0)
for _ in range(500):
    places = np.stack([rng.integers(0, 3, 150), rng.integers(0, 40, 150)], axis=1)
    distance = np.abs(places[:, None] - places).max(axis=-1)
    expected = np.argwhere(np.triu(distance <= 1, k=1))
    found = pairs_within(places, 1.5)
    assert sorted(map(tuple, found.tolist())) == sorted(map(tuple, expected.tolist()))
"""
    subprocess.run([sys.executable, "-c", script], check=True)
