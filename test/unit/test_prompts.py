import json

import numpy as np
import pytest
import torch

from lesionclick.errors import ModelError
from lesionclick.prompts import OFFICIAL_BASELINE, SECOND_PLACE, PromptSpec, ball, encode, encode_pair, to_network_grid

FIELDS = PromptSpec(encoding="fields", stage="network", radius=6.0, unit="mm", reach_mm=30.0)
NO_POINT = np.empty((0, 3))


def _fields(tumor, background, shape, spacing=(3.0, 4.0, 4.0)):
    return encode(FIELDS, np.array(tumor).reshape(-1, 3), np.array(background).reshape(-1, 3), shape, spacing)


def test_gaussian_equals_the_official_heatmaps(shared):
    folder = shared / "golden" / "heatmaps"
    golden = np.load(folder / "gaussian_sigma3.npz")
    cases = json.loads((folder / "gaussian_sigma3.json").read_text())
    shape = cases["shape_xyz"][::-1]
    for name, points_xyz in cases["points_xyz"].items():
        points = np.array(points_xyz).reshape(-1, 3)[:, ::-1]
        tumor, background = encode(OFFICIAL_BASELINE, points, NO_POINT, shape, (1, 1, 1))
        np.testing.assert_allclose(tumor.numpy().T, golden[name], atol=1e-6, rtol=0, err_msg=name)
        assert not background.any()


def test_gaussian_far_from_the_border_is_the_normal_density():
    centre = encode(OFFICIAL_BASELINE, np.array([[20, 20, 20]]), NO_POINT, (41, 41, 41), (1, 1, 1))[0]
    # (2 pi 9)^(-3/2) = 0.0023516; the filter is cut off at 4 sigma and renormalised, hence the tolerance
    assert centre[20, 20, 20].item() == pytest.approx(0.0023516, rel=1e-3)
    assert centre.sum().item() == pytest.approx(1.0, rel=1e-5)
    assert centre[23, 20, 20].item() / centre[20, 20, 20].item() == pytest.approx(np.exp(-0.5), rel=1e-4)


def test_second_place_ball_has_the_worked_out_values():
    stamp = encode(SECOND_PLACE, np.array([[5, 5, 5]]), NO_POINT, (11, 11, 11), (3, 1, 2))[0]
    # offsets within 2 voxels; the centre's nearest outside voxel is (2, 1, 0) away, at sqrt(5)
    assert stamp[5, 5, 5] == 1
    assert stamp[6, 5, 5].item() == pytest.approx(np.sqrt(2) / np.sqrt(5))
    assert stamp[7, 5, 5].item() == pytest.approx(1 / np.sqrt(5))
    assert stamp[6, 6, 5].item() == pytest.approx(1 / np.sqrt(5))
    assert stamp[7, 6, 5] == 0
    assert (stamp > 0).sum() == 33  # lattice points with x2 + y2 + z2 <= 4


def test_balls_join_by_maximum_and_are_cut_at_the_border():
    radius = np.full(3, 2.0)
    one = ball(np.array([[0, 0, 0]]), (6, 6, 6), radius)
    both = ball(np.array([[0, 0, 0], [0, 0, 1]]), (6, 6, 6), radius)
    assert one[0, 0, 0] == 1
    assert (one > 0).sum() == 11  # the octant of the 33 with its faces
    np.testing.assert_array_equal(both, np.maximum(one, ball(np.array([[0, 0, 1]]), (6, 6, 6), radius)))


def test_ball_in_millimetres_is_round_in_millimetres():
    spec = PromptSpec(encoding="ball", stage="image", radius=6.0, unit="mm")
    stamp = encode(spec, np.array([[8, 8, 8]]), NO_POINT, (17, 17, 17), (3.0, 2.0, 1.5))[0].numpy()
    inside = stamp > 0
    assert [int(inside.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [5, 7, 9]


def test_fields_of_one_click_have_the_worked_out_values():
    near, further, near_b, far, far_b = _fields([[4, 4, 4]], [], (9, 9, 9))
    assert near[4, 4, 4] == 1
    assert far[4, 4, 4] == 1
    assert near[6, 4, 4].item() == pytest.approx(np.exp(-0.5))  # 6 mm away, one standard deviation
    assert far[4, 4, 7].item() == pytest.approx(np.exp(-12 / 30))  # 12 mm away
    for channel in (further, near_b, far_b):
        assert not channel.any()


def test_a_far_field_with_a_cutoff_ends_there():
    spec = PromptSpec(encoding="fields", stage="network", radius=6.0, unit="mm", reach_mm=30.0, cutoff_mm=60.0)
    far = encode(spec, np.array([[0, 0, 0]]), NO_POINT, (30, 1, 1), (3.0, 4.0, 4.0))[3, :, 0, 0]
    floor = np.exp(-2)
    assert far[0] == 1
    assert far[10].item() == pytest.approx((np.exp(-1) - floor) / (1 - floor))  # 30 mm away
    assert 0 < far[19] < 0.02  # 57 mm away
    assert not far[20:].any()  # 60 mm and more


@pytest.mark.parametrize("cutoff", [0, -1.0, "60", True])
def test_a_cutoff_that_is_no_length_is_refused(cutoff):
    values = {"encoding": "fields", "stage": "network", "radius": 6.0, "cutoff_mm": cutoff}
    with pytest.raises(ModelError, match="cutoff_mm must be a positive number or null"):
        PromptSpec.from_mapping(values, "prompt.json")


def test_a_click_near_an_earlier_one_is_a_further_click_on_the_same_lesion():
    # voxels of 3 mm along z: the second click is 48 mm from the first, the third 102 mm, the fourth 51 mm from both
    first, further, _, far, _ = _fields([[0, 0, 0], [16, 0, 0], [34, 0, 0], [17, 0, 0]], [], (40, 5, 5))
    peaks = [[z for z in range(40) if channel[z, 0, 0] == 1] for channel in (first, further, far)]
    assert peaks == [[0, 34], [16, 17], [0, 16, 17, 34]]


def test_fields_depend_on_the_order_of_tumour_clicks_only_in_what_is_first():
    points = np.random.default_rng(0).integers(0, 10, (5, 3))
    one, other = (_fields(p, p[:2], (12, 10, 11)) for p in (points, points[::-1].copy()))
    torch.testing.assert_close(torch.maximum(one[0], one[1]), torch.maximum(other[0], other[1]))
    torch.testing.assert_close(one[3], other[3])
    # all lie within 50 mm of each other, so there is one first click
    assert [tuple(np.argwhere(fields[0].numpy() == 1)[0]) for fields in (one, other)] == [
        tuple(points[0]),
        tuple(points[-1]),
    ]


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spec", [OFFICIAL_BASELINE, SECOND_PLACE, FIELDS], ids=lambda spec: spec.encoding)
def test_encodings_follow_a_mirrored_image(spec, axis):
    rng = np.random.default_rng(1)
    shape = (12, 10, 14)
    points = rng.integers(0, 10, (4, 3))
    mirrored = points.copy()
    mirrored[:, axis] = shape[axis] - 1 - points[:, axis]
    plain = encode(spec, points, points[:1], shape, (3.0, 2.0, 1.5))
    flipped = encode(spec, mirrored, mirrored[:1], shape, (3.0, 2.0, 1.5))
    torch.testing.assert_close(flipped.flip(axis + 1), plain)


def test_the_kinds_stand_in_channels_of_their_own():
    rng = np.random.default_rng(2)
    a, b = rng.integers(0, 8, (3, 3)), rng.integers(0, 8, (2, 3))
    one, other = _fields(a, b, (8, 8, 8)), _fields(b, a, (8, 8, 8))
    torch.testing.assert_close(torch.maximum(one[0], one[1]), other[2])
    torch.testing.assert_close(one[3], other[4])
    torch.testing.assert_close(one[4], other[3])


def test_to_network_grid_keeps_voxel_centres():
    # 8 voxels become 4: centres of the first two at 0 and 1 share the new voxel 0, whose centre is at 0.5
    moved = to_network_grid(np.array([[0, 0, 0], [1, 1, 1], [7, 7, 7]]), [(0, 8)] * 3, (4, 8, 16), "centre")
    np.testing.assert_allclose(moved, [[0, 0, 0.5], [0.25, 1, 2.5], [3, 7, 14.5]])


def test_to_network_grid_by_corners_rounds_half_to_even_after_the_crop():
    points = np.array([[11, 11, 11], [13, 12, 30], [5, 12, 12]])
    moved = to_network_grid(points, [(10, 20), (10, 20), (10, 20)], (5, 10, 15), "corner")
    # (1, 1, 1) -> (0.5, 1, 1.5) -> (0, 1, 2); (3, 2, 9 clamped) -> (1.5, 2, 13.5) -> (2, 2, 14); (0 clamped, 2, 2)
    np.testing.assert_array_equal(moved, [[0, 1, 2], [2, 2, 14], [0, 2, 3]])


def test_prompt_json_round_trips():
    spec = PromptSpec(encoding="fields", stage="network", radius=6.0, unit="mm", mirror_axes=(0, 2), survey=True)
    assert PromptSpec.from_mapping(json.loads(spec.to_json()), "prompt.json") == spec


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "star"}, "encoding"),
        ({"stage": "disk"}, "stage"),
        ({"radius": -1}, "radius"),
        ({"radius": "3"}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"reach_mm": True}, "reach_mm"),
        ({"mirror_axes": [3]}, "mirror_axes"),
        ({"survey": 1}, "survey"),
        ({"mirror_axes": "xyz"}, "mirror_axes"),
        ({"readers": "all"}, "readers"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_broken_prompt_json_is_refused_by_name(change, named):
    values = json.loads(OFFICIAL_BASELINE.to_json()) | change
    with pytest.raises(ModelError, match=named):
        PromptSpec.from_mapping(values, "prompt.json")


def test_prompt_json_without_an_encoding_is_refused():
    with pytest.raises(ModelError, match="encoding"):
        PromptSpec.from_mapping({"stage": "image", "radius": 3}, "prompt.json")


class TestPair:
    SPEC = PromptSpec(encoding="pair", stage="network", radius=10.0, unit="mm", reach_mm=8.0)
    SPACING = (3.0, 2.0, 2.0)

    def encode(self, mask, followup=None, baseline=None):
        return encode_pair(self.SPEC, mask, followup, baseline, self.SPACING)

    def test_mask_is_its_signed_distance_over_the_reach(self):
        mask = np.zeros((5, 9, 9), dtype=bool)
        mask[2, 3:6, 3:6] = True
        channel = self.encode(mask)[0]
        assert channel[2, 4, 4] == pytest.approx(np.tanh(3 / 8))  # the next voxel outside is 3 mm away, along z
        assert channel[2, 3, 3] == pytest.approx(np.tanh(2 / 8))
        assert channel[2, 4, 6] == pytest.approx(np.tanh(-2 / 8))
        assert channel[2, 4, 8] == pytest.approx(np.tanh(-6 / 8))
        assert np.array_equal(channel > 0, mask)

    def test_empty_mask_is_minus_one(self):
        assert (self.encode(np.zeros((3, 4, 4), dtype=bool))[0] == -1).all()

    def test_points_fade_with_the_distance_in_mm(self):
        channels = self.encode(np.zeros((5, 9, 9), dtype=bool), (2, 4, 4), (1.0, 4.0, 3.5))
        assert channels[1, 2, 4, 4] == 1
        assert channels[1, 2, 4, 6] == pytest.approx(np.exp(-4 / 10))
        assert channels[1, 4, 4, 4] == pytest.approx(np.exp(-6 / 10))
        assert channels[2, 1, 4, 3] == channels[2, 1, 4, 4] == pytest.approx(np.exp(-1 / 10))

    def test_a_point_that_is_not_there_is_zero_and_one_outside_still_shows(self):
        channels = self.encode(np.zeros((3, 4, 4), dtype=bool), (1, 1, -5), None)
        assert channels[1, 1, 1, 0] == pytest.approx(np.exp(-10 / 10))
        assert not channels[2].any()

    def test_it_serves_task_2_on_the_networks_grid(self):
        assert (self.SPEC.task, self.SPEC.n_images, self.SPEC.n_channels) == ("task2", 1, 4)
        assert (OFFICIAL_BASELINE.task, OFFICIAL_BASELINE.n_images) == ("task1", 2)
        with pytest.raises(ModelError, match="encoding pair must have stage network, found 'image'"):
            PromptSpec.from_mapping({"encoding": "pair", "stage": "image", "radius": 3.0}, "prompt.json")
