import json

import numpy as np
import pytest
import torch

from lesionclick.errors import ModelError
from lesionclick.prompts import OFFICIAL_BASELINE, SECOND_PLACE, PromptSpec, ball, encode, to_network_grid

FIELDS = PromptSpec(encoding="fields", stage="network", radius=6.0, unit="mm", reach_mm=30.0)
NO_POINT = np.empty((0, 3))


def _fields(tumor, background, pet, spacing=(3.0, 4.0, 4.0), **options):
    return encode(FIELDS, np.array(tumor).reshape(-1, 3), np.array(background).reshape(-1, 3), pet, spacing, **options)


def test_gaussian_equals_the_official_heatmaps(shared):
    folder = shared / "golden" / "heatmaps"
    golden = np.load(folder / "gaussian_sigma3.npz")
    cases = json.loads((folder / "gaussian_sigma3.json").read_text())
    pet = torch.zeros(cases["shape_xyz"][::-1])
    for name, points_xyz in cases["points_xyz"].items():
        points = np.array(points_xyz).reshape(-1, 3)[:, ::-1]
        tumor, background = encode(OFFICIAL_BASELINE, points, NO_POINT, pet, (1, 1, 1))
        np.testing.assert_allclose(tumor.numpy().T, golden[name], atol=1e-6, rtol=0, err_msg=name)
        assert not background.any()


def test_gaussian_far_from_the_border_is_the_normal_density():
    centre = encode(OFFICIAL_BASELINE, np.array([[20, 20, 20]]), NO_POINT, torch.zeros(41, 41, 41), (1, 1, 1))[0]
    # (2 pi 9)^(-3/2) = 0.0023516; the filter is cut off at 4 sigma and renormalised, hence the tolerance
    assert centre[20, 20, 20].item() == pytest.approx(0.0023516, rel=1e-3)
    assert centre.sum().item() == pytest.approx(1.0, rel=1e-5)
    assert centre[23, 20, 20].item() / centre[20, 20, 20].item() == pytest.approx(np.exp(-0.5), rel=1e-4)


def test_second_place_ball_has_the_worked_out_values():
    stamp = encode(SECOND_PLACE, np.array([[5, 5, 5]]), NO_POINT, torch.zeros(11, 11, 11), (3, 1, 2))[0]
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
    stamp = encode(spec, np.array([[8, 8, 8]]), NO_POINT, torch.zeros(17, 17, 17), (3.0, 2.0, 1.5))[0].numpy()
    inside = stamp > 0
    assert [int(inside.any(axis=axes).sum()) for axes in ((1, 2), (0, 2), (0, 1))] == [5, 7, 9]


def test_fields_of_one_click_have_the_worked_out_values():
    pet = torch.full((9, 9, 9), 2.0)
    pet[4, 4, 4] = 5.0
    near, near_b, far, far_b, relative, relative_b, weighted, weighted_b = _fields([[4, 4, 4]], [], pet)
    assert near[4, 4, 4] == 1
    assert far[4, 4, 4] == 1
    assert near[6, 4, 4].item() == pytest.approx(np.exp(-0.5))  # 6 mm away, one standard deviation
    assert far[4, 4, 7].item() == pytest.approx(np.exp(-12 / 30))  # 12 mm away
    torch.testing.assert_close(relative, pet - 5.0)
    torch.testing.assert_close(weighted, pet * 0.1)  # one of ten clicks
    for channel in (near_b, far_b, relative_b, weighted_b):
        assert not channel.any()


def test_fields_do_not_depend_on_the_order_of_the_clicks():
    rng = np.random.default_rng(0)
    pet = torch.from_numpy(rng.random((12, 10, 11), dtype=np.float32))
    points = rng.integers(0, 10, (5, 3))
    torch.testing.assert_close(
        _fields(points, points[:2], pet), _fields(points[::-1].copy(), points[1::-1].copy(), pet)
    )


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("spec", [OFFICIAL_BASELINE, SECOND_PLACE, FIELDS], ids=lambda spec: spec.encoding)
def test_encodings_follow_a_mirrored_image(spec, axis):
    rng = np.random.default_rng(1)
    pet = torch.from_numpy(rng.random((12, 10, 14), dtype=np.float32))
    points = rng.integers(0, 10, (4, 3))
    mirrored = points.copy()
    mirrored[:, axis] = pet.shape[axis] - 1 - points[:, axis]
    plain = encode(spec, points, points[:1], pet, (3.0, 2.0, 1.5))
    flipped = encode(spec, mirrored, mirrored[:1], pet.flip(axis), (3.0, 2.0, 1.5))
    torch.testing.assert_close(flipped.flip(axis + 1), plain)


def test_counts_of_the_whole_case_weigh_the_uptake_of_a_part():
    pet = torch.rand(5, 5, 5)
    channels = _fields([[2, 2, 2]], [], pet, counts=(4, 20))
    torch.testing.assert_close(channels[6], pet * 0.4)
    torch.testing.assert_close(channels[7], pet)  # more clicks than the budget count as the budget


def test_swapping_the_kinds_swaps_the_channels():
    rng = np.random.default_rng(2)
    pet = torch.from_numpy(rng.random((8, 8, 8), dtype=np.float32))
    a, b = rng.integers(0, 8, (3, 3)), rng.integers(0, 8, (2, 3))
    torch.testing.assert_close(_fields(a, b, pet)[[1, 0, 3, 2, 5, 4, 7, 6]], _fields(b, a, pet))


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
    spec = PromptSpec(encoding="fields", stage="network", radius=6.0, unit="mm", mirror_axes=(0, 2))
    assert PromptSpec.from_mapping(json.loads(spec.to_json()), "prompt.json") == spec


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"encoding": "star"}, "encoding"),
        ({"stage": "disk"}, "stage"),
        ({"radius": -1}, "radius"),
        ({"radius": "3"}, "radius"),
        ({"radius": float("nan")}, "radius"),
        ({"budget": True}, "budget"),
        ({"mirror_axes": [3]}, "mirror_axes"),
        ({"mirror_axes": "xyz"}, "mirror_axes"),
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
