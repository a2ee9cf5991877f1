import json
import math

import numpy as np
import pytest
import torch

from lesionclick.prompts.encodings import ENCODINGS, Ball, Fields, Gaussian, LesionPair, PointEncoding
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

FIELDS = Fields(radius=6.0)
SPACING = (3.0, 4.0, 4.0)
POINT_ENCODINGS = [
    Gaussian(radius=3.0),
    Gaussian(radius=4.0, unit="mm"),
    Ball(radius=2.0),
    Ball(radius=9.0, unit="mm"),
    Fields(radius=6.0, cutoff_mm=60.0),
    Fields(radius=2.0, cutoff_mm=90.0),
    Fields(radius=1.5, unit="voxel", cutoff_mm=20.0),
]


def tumor(*points_zyx) -> Prompts:
    return Prompts.from_indices(tumor_zyx=points_zyx)


def fields_of(tumor_zyx, background_zyx, shape):
    return FIELDS.encode(Prompts.from_indices(tumor_zyx=tumor_zyx, background_zyx=background_zyx), shape, SPACING)


class TestGaussian:
    def test_it_equals_the_official_heatmaps(self, golden):
        folder = golden / "heatmaps"
        golden = np.load(folder / "gaussian_sigma3.npz")
        cases = json.loads((folder / "gaussian_sigma3.json").read_text())
        shape = cases["shape_xyz"][::-1]
        for name, points_xyz in cases["points_xyz"].items():
            prompts = Prompts(tuple(Point(TUMOR, tuple(point)) for point in points_xyz))
            foreground, background = Gaussian(radius=3.0).encode(prompts, shape, (1, 1, 1))
            np.testing.assert_allclose(foreground.numpy().T, golden[name], atol=1e-6, rtol=0, err_msg=name)
            assert not background.any()

    def test_far_from_the_border_it_is_the_normal_density(self):
        centre = Gaussian(radius=3.0).encode(tumor([20, 20, 20]), (41, 41, 41), (1, 1, 1))[0]
        # (2 pi 9)^(-3/2) = 0.0023516; the filter is cut off at 4 sigma and renormalised, hence the tolerance
        assert centre[20, 20, 20].item() == pytest.approx(0.0023516, rel=1e-3)
        assert centre.sum().item() == pytest.approx(1.0, rel=1e-5)
        assert centre[23, 20, 20].item() / centre[20, 20, 20].item() == pytest.approx(np.exp(-0.5), rel=1e-4)

    def test_points_outside_are_ignored_and_repeated_ones_count_once(self):
        once = Gaussian(radius=1.0).encode(tumor([3, 3, 3]), (7, 7, 7), (1, 1, 1))
        more = tumor([3, 3, 3], [3, 3, 3], [-1, 3, 3], [3, 3, 7])
        torch.testing.assert_close(Gaussian(radius=1.0).encode(more, (7, 7, 7), (1, 1, 1)), once, rtol=0, atol=0)


class TestBall:
    def test_recipe_of_the_second_place_has_the_worked_out_values(self):
        stamp = Ball(radius=2.0).encode(tumor([5, 5, 5]), (11, 11, 11), (3, 1, 2))[0]
        # offsets within 2 voxels; the centre's nearest outside voxel is (2, 1, 0) away, at sqrt(5)
        assert stamp[5, 5, 5] == 1
        assert stamp[6, 5, 5].item() == pytest.approx(np.sqrt(2) / np.sqrt(5))
        assert stamp[7, 5, 5].item() == pytest.approx(1 / np.sqrt(5))
        assert stamp[6, 6, 5].item() == pytest.approx(1 / np.sqrt(5))
        assert stamp[7, 6, 5] == 0
        assert (stamp > 0).sum() == 33  # lattice points with x2 + y2 + z2 <= 4

    def test_balls_join_by_maximum_and_are_cut_at_the_border(self):
        def paint(*points):
            return Ball(radius=2.0).encode(tumor(*points), (6, 6, 6), (1, 1, 1))[0]

        one, other, both = paint([0, 0, 0]), paint([0, 0, 1]), paint([0, 0, 0], [0, 0, 1])
        assert one[0, 0, 0] == 1
        assert (one > 0).sum() == 11  # the octant of the 33 with its faces
        assert torch.equal(both, torch.maximum(one, other))

    def test_in_millimetres_it_is_round_in_millimetres(self):
        ball = Ball(radius=6.0, unit="mm")
        inside = ball.encode(tumor([8, 8, 8]), (17, 17, 17), (3.0, 2.0, 1.5))[0].numpy() > 0
        assert [int(inside.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [5, 7, 9]


class TestFields:
    def test_one_click_has_the_worked_out_values(self):
        near, further, near_b, far, far_b = fields_of([[4, 4, 4]], [], (9, 9, 9))
        assert near[4, 4, 4] == 1
        assert far[4, 4, 4] == 1
        assert near[6, 4, 4].item() == pytest.approx(np.exp(-0.5))  # 6 mm away, one standard deviation
        assert far[4, 4, 7].item() == pytest.approx(np.exp(-12 / 30))  # 12 mm away
        for channel in (further, near_b, far_b):
            assert not channel.any()

    def test_a_click_near_an_earlier_one_is_a_further_click_on_the_same_lesion(self):
        # voxels of 3 mm along z: the second click is 48 mm from the first, the third 102 mm, the fourth 51 mm from both
        first, further, _, far, _ = fields_of([[0, 0, 0], [16, 0, 0], [34, 0, 0], [17, 0, 0]], [], (40, 5, 5))
        peaks = [[z for z in range(40) if channel[z, 0, 0] == 1] for channel in (first, further, far)]
        assert peaks == [[0, 34], [16, 17], [0, 16, 17, 34]]

    def test_the_order_of_tumour_clicks_matters_only_in_what_is_first(self):
        points = np.random.default_rng(0).integers(0, 10, (5, 3))
        one, other = (fields_of(p, points[:2], (12, 10, 11)) for p in (points, points[::-1]))
        torch.testing.assert_close(torch.maximum(one[0], one[1]), torch.maximum(other[0], other[1]))
        torch.testing.assert_close(one[2:], other[2:])
        # all lie within 50 mm of each other, so there is one first click
        assert [tuple(np.argwhere(channels[0].numpy() == 1)[0]) for channels in (one, other)] == [
            tuple(points[0]),
            tuple(points[-1]),
        ]

    def test_with_a_cut_off_the_far_fields_fall_from_one_to_zero_there(self):
        cut = Fields(radius=6.0, far_mm=30.0, cutoff_mm=60.0)
        prompts = Prompts.from_indices(tumor_zyx=[[0, 0, 0]], background_zyx=[[0, 0, 0]])
        channels = cut.encode(prompts, (700, 1, 1), (0.1, 1.0, 1.0))[:, :, 0, 0]
        for far in channels[3:]:
            assert far[0].item() == pytest.approx(1.0)
            # (exp(-15/30) - exp(-60/30)) / (1 - exp(-60/30)) = (0.6065307 - 0.1353353) / 0.8646647, and for 45 mm
            assert far[150].item() == pytest.approx(0.5449459, abs=1e-6)
            assert far[450].item() == pytest.approx((0.2231302 - 0.1353353) / 0.8646647, abs=1e-6)
            assert not far[601:].any()
            assert (far[:600] > 0).all()
            # the steepest step of 0.1 mm, at the point, is 0.1 / 30 / 0.8646647; there is none at the cut-off
            assert far.diff().abs().max().item() < 0.1 / 30 / 0.8646647
            assert far.diff()[598:602].abs().max().item() < 0.1 * np.exp(-59 / 30) / 30 / 0.8646647

    def test_the_near_fields_know_no_cut_off(self):
        prompts = Prompts.from_indices(tumor_zyx=[[2, 3, 3], [9, 3, 3]], background_zyx=[[8, 1, 2]])
        plain, cut = (Fields(6.0, cutoff_mm=mm).encode(prompts, (12, 6, 6), SPACING) for mm in (None, 20.0))
        assert torch.equal(plain[:3], cut[:3])
        assert not torch.equal(plain[3:], cut[3:])

    def test_the_kinds_stand_in_channels_of_their_own(self):
        rng = np.random.default_rng(2)
        a, b = rng.integers(0, 8, (3, 3)), rng.integers(0, 8, (2, 3))
        one, other = fields_of(a, b, (8, 8, 8)), fields_of(b, a, (8, 8, 8))
        torch.testing.assert_close(torch.maximum(one[0], one[1]), other[2])
        torch.testing.assert_close(one[3], other[4])
        torch.testing.assert_close(one[4], other[3])

    def test_a_radius_in_voxels_is_that_many_mean_voxel_sizes(self):
        prompts = tumor([3, 3, 3])
        in_voxels = Fields(radius=2.0, unit="voxel").encode(prompts, (7, 7, 7), (2.0, 3.0, 4.0))
        assert torch.equal(in_voxels, Fields(radius=6.0).encode(prompts, (7, 7, 7), (2.0, 3.0, 4.0)))

    def test_a_stroke_of_tumour_counts_as_first_clicks(self):
        # eleven pixels of 4 mm in a row; a click 40 mm away from the last, before them or after, is one as ever
        stroke, click = [[3, 3, x] for x in range(11)], [3, 3, 20]
        for points, peaks in (([*stroke, click], [[*range(11)], [20]]), ([click, *stroke], [[*range(11), 20], []])):
            channels = fields_of(points, [], (7, 7, 22))
            assert [np.flatnonzero(channel[3, 3] == 1).tolist() for channel in channels[:2]] == peaks
        first, further, _, far, _ = fields_of(stroke[:10], [], (7, 7, 22))
        assert [np.flatnonzero(channel[3, 3] == 1).tolist() for channel in (first, further)] == [[0], [*range(1, 10)]]
        assert np.flatnonzero(far[3, 3] == 1).tolist() == [*range(10)]

    def test_points_need_not_be_whole(self):
        near = fields_of([[4.5, 4, 4]], [], (9, 9, 9))[0]
        assert near[4, 4, 4].item() == near[5, 4, 4].item() == pytest.approx(np.exp(-((1.5 / 6) ** 2) / 2))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("encoding", [*POINT_ENCODINGS, FIELDS], ids=str)
def test_encodings_follow_a_mirrored_image(encoding: PointEncoding, axis: int):
    rng = np.random.default_rng(1)
    shape = (12, 10, 14)
    points = rng.integers(0, 10, (4, 3))
    mirrored = points.copy()
    mirrored[:, axis] = shape[axis] - 1 - points[:, axis]
    plain, flipped = (
        encoding.encode(Prompts.from_indices(tumor_zyx=p, background_zyx=p[:1]), shape, (3.0, 2.0, 1.5))
        for p in (points, mirrored)
    )
    torch.testing.assert_close(flipped.flip(axis + 1), plain)


@pytest.mark.parametrize("encoding", [*POINT_ENCODINGS, FIELDS], ids=str)
def test_there_are_as_many_channels_as_the_encoding_says_and_without_a_point_they_are_zero(encoding: PointEncoding):
    channels = encoding.encode(Prompts(), (4, 5, 6), SPACING)
    assert channels.shape == (encoding.n_channels, 4, 5, 6)
    assert channels.dtype == torch.float32
    assert not channels.any()


def test_all_encodings_are_known_by_their_names():
    assert list(ENCODINGS.items()) == [
        ("gaussian", Gaussian),
        ("ball", Ball),
        ("fields", Fields),
        ("pair", LesionPair),
    ]


class TestReach:
    @staticmethod
    def changed_mm(encoding: PointEncoding, before: Prompts, after: Prompts, shape, spacing, places_zyx) -> float:
        """Distance in mm of the farthest voxel with a changed channel from the nearest of some places."""
        one, other = (encoding.encode(prompts, shape, spacing) for prompts in (before, after))
        voxels = (one != other).any(dim=0).nonzero().numpy()
        distance = np.linalg.norm((voxels[:, None] - np.array(places_zyx)) * spacing, axis=-1)
        return float(distance.min(axis=1).max(initial=0))

    @pytest.mark.parametrize("seed", range(6))
    @pytest.mark.parametrize("encoding", POINT_ENCODINGS, ids=str)
    def test_a_point_that_is_added_moved_or_removed_changes_nothing_beyond(self, encoding: PointEncoding, seed: int):
        rng = np.random.default_rng(seed)
        shape, spacing = (64, 14, 18), (4.0, 3.0, 5.0)
        points = [
            Point(str(rng.choice([TUMOR, BACKGROUND])), tuple(rng.uniform(0, np.array(shape[::-1]) - 1).tolist()))
            for _ in range(6)
        ]
        n, new = int(rng.integers(5)), points.pop()
        whole = Prompts(tuple(points))
        removed = Prompts((*points[:n], *points[n + 1 :]))
        moved = Prompts((*points[:n], new, *points[n + 1 :]))
        places = [points[n].point_xyz[::-1], new.point_xyz[::-1]]
        for before, after, where in (
            (whole, removed, places[:1]),
            (removed, whole, places[:1]),
            (whole, whole.followed_by([new]), places[1:]),
            (whole, moved, places),
        ):
            assert self.changed_mm(encoding, before, after, shape, spacing, where) <= encoding.reach_mm(spacing) + 1e-4

    @pytest.mark.parametrize(
        ("encoding", "shape", "points_zyx"),
        [
            # half a voxel from the voxel that it is rounded to, along all axes
            (Gaussian(radius=1.5), (17, 17, 17), [[8.5, 8.5, 8.5]]),
            (Ball(radius=2.0), (13, 13, 13), [[6.5, 6.5, 6.5]]),
            (Ball(radius=6.0, unit="mm"), (13, 13, 13), [[6.5, 6.5, 6.5]]),
            (Fields(radius=2.0, cutoff_mm=90.0), (50, 1, 1), [[0, 0, 0]]),
            # eleven points 8 mm apart are a stroke; without the first, the last is a further click
            (Fields(radius=6.0, cutoff_mm=60.0), (60, 1, 1), [[4 * n, 0, 0] for n in range(11)]),
        ],
        ids=str,
    )
    def test_a_voxel_just_within_changes(self, encoding: PointEncoding, shape, points_zyx):
        spacing = (2.0, 2.0, 2.0)
        prompts = tumor(*points_zyx)
        changed = self.changed_mm(encoding, prompts, Prompts(prompts.points[1:]), shape, spacing, points_zyx[:1])
        reach = encoding.reach_mm(spacing)
        assert reach - np.linalg.norm(spacing) < changed <= reach + 1e-4

    def test_values_worked_out_by_hand(self):
        # 4 standard deviations of 3 voxels, and half a voxel, along each axis
        assert Gaussian(radius=3.0).reach_mm((1, 2, 2)) == pytest.approx(12.5 * 3)
        # the radius along the largest voxel size, and half the diagonal of a voxel
        assert Ball(radius=2.0).reach_mm((1, 2, 2)) == pytest.approx(4 + 1.5)
        assert Ball(radius=6.0, unit="mm").reach_mm((1, 2, 2)) == pytest.approx(6 + 1.5)
        # 5 standard deviations of the near fields around the end of a chain of ten points 8 mm apart
        assert Fields(radius=6.0, cutoff_mm=60.0).reach_mm((1, 2, 2)) == 80 + 30
        assert Fields(radius=2.0, unit="voxel", cutoff_mm=60.0).reach_mm((1, 2, 3)) == 80 + 20
        assert Fields(radius=6.0, cutoff_mm=120.0).reach_mm((1, 2, 2)) == 120

    def test_far_fields_without_a_cut_off_reach_everywhere(self):
        assert FIELDS.reach_mm(SPACING) == math.inf
        assert (FIELDS.encode(tumor([0, 0, 0]), (200, 1, 1), SPACING)[3] > 0).all()


@pytest.mark.parametrize("seed", range(4))
def test_up_to_ten_points_of_a_kind_are_encoded_as_clicks_however_close_they_lie(seed: int):
    rng = np.random.default_rng(seed)
    shape = (10, 12, 14)
    points = rng.integers(2, 2 + int(rng.integers(2, 8)), (10, 3))  # as crowded as a stroke, or more
    near, further, _, far, _ = fields_of(points, points, shape)
    voxels = np.indices(shape).reshape(3, -1).T
    for channel, of in ((near, points[:1]), (further, points[1:])):  # all lie within 50 mm of the first
        distance = np.linalg.norm((voxels[:, None] - of) * SPACING, axis=-1).min(axis=1)
        expected = np.where(distance < 30, np.exp(-((distance / 6.0) ** 2) / 2), 0).reshape(shape)
        np.testing.assert_allclose(channel, expected, atol=1e-6)
    assert torch.equal(far, fields_of(points, points, shape)[4])


def test_a_point_that_makes_a_stroke_of_a_chain_changes_the_marks_of_all_its_points():
    fields = Fields(radius=6.0, cutoff_mm=60.0)
    chain = [[4, 4, x] for x in range(11)]
    before, after = (fields.marks(tumor(*points), SPACING) for points in (chain[:10], chain))
    assert [mark.how for mark in before] == ["first"] + ["further"] * 9
    assert [mark.how for mark in after] == ["first"] * 11
    assert [mark.index_zyx for mark in after] == [tuple(point) for point in chain]


class TestLesionPair:
    PAIR = LesionPair(radius=10.0, mask_mm=8.0)
    SPACING = (3.0, 2.0, 2.0)

    def encode(self, mask, followup=None, baseline=None, ct=None):
        ct = np.zeros(mask.shape, dtype=np.float32) if ct is None else ct
        return self.PAIR.encode(ct, mask, followup_zyx=followup, baseline_zyx=baseline, spacing_zyx=self.SPACING)

    def test_baseline_comes_first_and_unchanged(self):
        ct = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
        channels = self.encode(np.zeros((3, 4, 5), dtype=bool), ct=ct)
        assert channels.shape == (4, 3, 4, 5)
        assert channels.dtype == np.float32
        assert np.array_equal(channels[0], ct)
        assert LesionPair.n_channels == 4

    def test_mask_is_its_signed_distance_over_its_length(self):
        mask = np.zeros((5, 9, 9), dtype=bool)
        mask[2, 3:6, 3:6] = True
        channel = self.encode(mask)[1]
        assert channel[2, 4, 4] == pytest.approx(np.tanh(3 / 8))  # the next voxel outside is 3 mm away, along z
        assert channel[2, 3, 3] == pytest.approx(np.tanh(2 / 8))
        assert channel[2, 4, 6] == pytest.approx(np.tanh(-2 / 8))
        assert channel[2, 4, 8] == pytest.approx(np.tanh(-6 / 8))
        assert np.array_equal(channel > 0, mask)

    def test_empty_mask_is_minus_one(self):
        assert (self.encode(np.zeros((3, 4, 4), dtype=bool))[1] == -1).all()

    def test_points_fade_with_the_distance_in_mm(self):
        _, _, followup, baseline = self.encode(np.zeros((5, 9, 9), dtype=bool), (2, 4, 4), (1.0, 4.0, 3.5))
        assert followup[2, 4, 4] == 1
        assert followup[2, 4, 6] == pytest.approx(np.exp(-4 / 10))
        assert followup[4, 4, 4] == pytest.approx(np.exp(-6 / 10))
        assert baseline[1, 4, 3] == baseline[1, 4, 4] == pytest.approx(np.exp(-1 / 10))

    def test_a_radius_in_voxels_is_that_many_mean_voxel_sizes(self):
        mask = np.zeros((1, 1, 4), dtype=bool)
        points = {"followup_zyx": np.zeros(3), "baseline_zyx": None, "spacing_zyx": (1.0, 2.0, 3.0)}
        channels = LesionPair(radius=2.0, unit="voxel").encode(mask.astype(np.float32), mask, **points)
        assert channels[2, 0, 0, 2] == pytest.approx(np.exp(-6 / 4))

    def test_a_point_that_is_not_there_is_zero_and_one_outside_still_shows(self):
        channels = self.encode(np.zeros((3, 4, 4), dtype=bool), (1, 1, -5), None)
        assert channels[2, 1, 1, 0] == pytest.approx(np.exp(-10 / 10))
        assert not channels[3].any()
