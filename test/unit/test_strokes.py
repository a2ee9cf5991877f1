"""Simulated strokes: in the right error, of the right shape, worked out by hand."""

from itertools import pairwise
from typing import get_args

import numpy as np
import pytest
from scipy import ndimage

from lesionclick.prompts.points import BACKGROUND, TUMOR
from lesionclick.simulation.strokes import Way, corrective_stroke, draw, largest_in_slices

TOUCHING = np.ones((3, 3))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def blob(seed: int) -> np.ndarray:
    """One component of a slice, of any shape, with or without holes."""
    field = ndimage.gaussian_filter(rng(seed).normal(size=(30, 34)), seed % 4)
    numbers, _ = ndimage.label(field > 0.3 * field.std(), TOUCHING)
    return numbers == np.bincount(numbers.ravel())[1:].argmax() + 1


class TestLargestInSlices:
    def test_the_largest_component_of_any_slice_counts_not_the_largest_in_space(self) -> None:
        region = np.zeros((5, 8, 9), dtype=bool)
        region[:4, 0, :3] = True  # 12 voxels, three in each slice
        region[4, 5, 5:9] = True  # four
        z, component = largest_in_slices(region)
        assert z == 4
        np.testing.assert_array_equal(component, region[4])

    def test_diagonal_neighbours_belong_together_and_other_components_do_not(self) -> None:
        region = np.zeros((1, 4, 6), dtype=bool)
        region[0, [0, 1, 2], [0, 1, 2]] = True
        region[0, 3, 4:6] = True
        _, component = largest_in_slices(region)
        assert np.argwhere(component).tolist() == [[0, 0], [1, 1], [2, 2]]

    def test_no_voxel_has_none(self) -> None:
        assert largest_in_slices(np.zeros((2, 3, 4), dtype=bool)) is None


class TestDraw:
    def test_a_centre_line_is_the_middle_without_a_tenth_at_each_end(self) -> None:
        bar = np.zeros((9, 40), dtype=bool)
        bar[3:6, 5:35] = True  # 30 pixels long, its middle row is 4
        path = draw(bar, "centre line", rng())
        skeleton = np.argwhere(bar & (np.arange(9) == 4)[:, None])
        assert set(map(tuple, path.tolist())) <= set(map(tuple, skeleton.tolist()))
        # the skeleton is 28 to 30 pixels long; without 2, 2 or 3 at each end these are 24, 25, 24
        assert len(path) in (24, 25)
        assert abs(path[:, 1].mean() - 19.5) <= 1

    def test_a_centre_line_follows_the_longest_branch(self) -> None:
        # a T of single pixels is its own skeleton: arms of 10 and a stem of 3
        shape = np.zeros((8, 23), dtype=bool)
        shape[1, 1:22] = True
        shape[2:5, 11] = True
        path = draw(shape, "centre line", rng())
        assert (path[:, 0] == 1).mean() > 0.9
        assert len(path) in (17, 18)  # 21 pixels without 2 at each end; a way of single pixels may cut the junction

    def test_a_line_is_straight_from_one_pixel_to_another(self) -> None:
        for seed in range(20):
            pixels = draw(np.ones((12, 15), dtype=bool), "line", rng(seed))
            start, end = pixels[0], pixels[-1]
            length = np.abs(end - start).max()
            assert len(pixels) == length + 1
            along = np.linspace(0, 1, length + 1)[:, None]
            assert np.abs(pixels - (start + along * (end - start))).max() <= 0.5

    def test_a_line_leaves_out_what_lies_outside(self) -> None:
        shape = np.ones((11, 11), dtype=bool)
        shape[2:, 4:7] = False  # a U, upside down
        lengths = {len(draw(shape, "line", rng(seed))) for seed in range(50)}
        assert max(lengths) > 5
        for seed in range(50):
            assert shape[tuple(draw(shape, "line", rng(seed)).T)].all()

    def test_a_rim_is_a_fifth_of_the_outermost_pixels_in_one_piece(self) -> None:
        square = np.zeros((14, 14), dtype=bool)
        square[2:12, 2:12] = True  # 36 pixels have a neighbour outside
        for seed in range(20):
            rim = draw(square, "rim", rng(seed))
            assert len(rim) == 8
            assert ((rim == 2) | (rim == 11)).any(axis=1).all()
            drawn = np.zeros_like(square)
            drawn[tuple(rim.T)] = True
            assert ndimage.label(drawn, TOUCHING)[1] == 1

    @pytest.mark.parametrize("way", get_args(Way))
    @pytest.mark.parametrize("seed", range(12))
    def test_any_shape_gets_a_stroke_inside_each_pixel_once(self, way: Way, seed: int) -> None:
        shape = blob(seed)
        pixels = draw(shape, way, rng(seed))
        assert pixels.dtype == np.int64
        assert 0 < len(pixels) == len(np.unique(pixels, axis=0))
        assert shape[tuple(pixels.T)].all()
        if way == "centre line":
            assert all(np.abs(a - b).max() == 1 for a, b in pairwise(pixels))

    @pytest.mark.parametrize("way", get_args(Way))
    def test_the_smallest_errors_get_one_too(self, way: Way) -> None:
        for bits in range(1, 512):
            shape = np.array([bits >> n & 1 for n in range(9)], dtype=bool).reshape(3, 3)
            if ndimage.label(shape, TOUCHING)[1] == 1:
                pixels = draw(shape, way, rng(bits))
                assert len(pixels) > 0
                assert shape[tuple(pixels.T)].all()


class TestCorrective:
    def test_the_kind_with_the_longer_stroke_counts(self) -> None:
        label, prediction = np.zeros((2, 6, 20, 20), dtype=bool)
        label[1, 5:15, 5:15] = True
        prediction[4, 2:4, 2:4] = True
        for seed in range(20):
            stroke = corrective_stroke(label, prediction, rng(seed))
            # a line may be short, but no longer than 2 pixels fit into the smaller error
            if len(stroke.voxels_zyx) > 2:
                assert stroke.kind == TUMOR
                assert (stroke.voxels_zyx[:, 0] == 1).all()
            assert (label if stroke.kind == TUMOR else prediction)[tuple(stroke.voxels_zyx.T)].all()
            other = corrective_stroke(prediction, label, rng(seed))  # roles exchanged
            if len(other.voxels_zyx) > 2:
                assert other.kind == BACKGROUND

    def test_of_equal_strokes_the_tumours_counts(self) -> None:
        label, prediction = np.zeros((2, 3, 4, 4), dtype=bool)
        label[0, 0, 0] = prediction[2, 3, 3] = True
        stroke = corrective_stroke(label, prediction, rng())
        assert (stroke.kind, stroke.voxels_zyx.tolist()) == (TUMOR, [[0, 0, 0]])

    def test_each_way_is_drawn(self) -> None:
        label = np.zeros((1, 30, 30), dtype=bool)
        label[0, 5:25, 5:25] = True
        drawn = [corrective_stroke(label, np.zeros_like(label), rng(seed)).voxels_zyx for seed in range(60)]
        edge = [bool(np.isin(voxels[:, 1:], (5, 24)).any(axis=1).all()) for voxels in drawn]
        assert 8 <= sum(edge) <= 32  # a third of 60, and what chance makes of it

    def test_no_error_has_none(self) -> None:
        label = blob(3)[None]
        assert corrective_stroke(label, label, rng()) is None

    def test_the_same_seed_draws_the_same(self) -> None:
        label = np.stack([blob(n) for n in range(4)])
        one, other = (corrective_stroke(label, np.roll(label, 3), rng(5)) for _ in range(2))
        assert one.kind == other.kind
        np.testing.assert_array_equal(one.voxels_zyx, other.voxels_zyx)

    def test_two_shapes_are_refused(self) -> None:
        with pytest.raises(ValueError, match=r"expected two .* of one shape, found \(1, 2, 3\) and \(3, 2, 1\)"):
            corrective_stroke(np.zeros((1, 2, 3), dtype=bool), np.zeros((3, 2, 1), dtype=bool), rng())
