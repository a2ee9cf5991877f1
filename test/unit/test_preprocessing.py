import json
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.model_folder import write_model_folder
from torch.nn import functional

from lesionclick.errors import InputError
from lesionclick.network.model_folder import read_model_folder
from lesionclick.network.preprocessing import (
    NetworkInput,
    _find_fast_way,
    _shrink_mask,
    lesion_logit_on_image,
    on_whole_grid,
    preprocess,
    to_network_grid,
)
from lesionclick.prompts.encodings import Ball
from lesionclick.prompts.spec import PromptSpec


def test_normalisation_within_a_mask_is_left_to_nnunet(tmp_path: Path) -> None:
    folder = write_model_folder(tmp_path)
    assert _find_fast_way(read_model_folder(folder, task="task1", n_images=2)) is not None
    plans = json.loads((folder / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["use_mask_for_norm"] = [True] * 4
    (folder / "plans.json").write_text(json.dumps(plans))
    assert _find_fast_way(read_model_folder(folder, task="task1", n_images=2)) is None


def test_to_network_grid_keeps_voxel_centres():
    # 8 voxels become 4: centres of the first two at 0 and 1 share the new voxel 0, whose centre is at 0.5
    moved = to_network_grid(np.array([[0, 0, 0], [1, 1, 1], [7, 7, 7]]), [(0, 8)] * 3, (4, 8, 16), "centre")
    np.testing.assert_allclose(moved, [[0, 0, 0.5], [0.25, 1, 2.5], [3, 7, 14.5]])


def test_to_network_grid_by_corners_rounds_half_to_even_after_the_crop():
    points = np.array([[11, 11, 11], [13, 12, 30], [5, 12, 12]])
    moved = to_network_grid(points, [(10, 20), (10, 20), (10, 20)], (5, 10, 15), "corner")
    # (1, 1, 1) -> (0.5, 1, 1.5) -> (0, 1, 2); (3, 2, 10 clamped) -> (1.5, 2, 15) -> (2, 2, 15); (0 clamped, 2, 2)
    np.testing.assert_array_equal(moved, [[0, 1, 2], [2, 2, 15], [0, 2, 3]])


@pytest.mark.parametrize("transpose", [(0, 1, 2), (2, 0, 1)])
def test_the_fast_way_equals_nnunets_own_where_the_image_is_cropped_and_clicks_are_few(
    tmp_path: Path, transpose: tuple[int, int, int]
) -> None:
    folder = write_model_folder(tmp_path, spacing_zyx=(3.0, 2.0, 2.0), transpose=transpose)
    model = read_model_folder(folder, task="task1", n_images=2)
    channels = np.zeros((4, 14, 20, 18), dtype=np.float32)
    channels[:2, :, 3:-2, 4:] = np.random.default_rng(0).uniform(1, 5, (2, 14, 15, 14))
    channels[0, 5:8, 8:10, 8:10] = 0  # a hole does not count for the crop
    channels[2, 6, 9, 9] = 1.0
    exact, fast = (preprocess(model, channels, (6.0, 2.5, 1.5), exact=exact) for exact in (True, False))
    assert (exact.bounds, exact.shape, exact.grid_shape) == (fast.bounds, fast.shape, fast.grid_shape)
    assert exact.spacing == fast.spacing
    np.testing.assert_allclose(fast.images.numpy(), exact.images.numpy(), atol=1e-5)


@pytest.mark.parametrize("exact", [False, True])
def test_an_image_thinner_than_half_a_voxel_of_the_network_is_refused(tmp_path: Path, exact: bool) -> None:
    model = read_model_folder(write_model_folder(tmp_path), task="task1", n_images=2)  # 3 x 2 x 2 mm
    channels = np.random.default_rng(0).uniform(1, 5, (4, 2, 20, 18)).astype(np.float32)
    assert preprocess(model, channels, (0.8, 2.0, 2.0), exact=exact).grid_shape == (1, 20, 18)  # 1.6 mm
    # two slices of 0.75 mm are half a voxel, which is rounded to none
    message = r"which has 3 x 2 x 2 mm, found one of \[2, 20, 18\] voxels .* of 0.75 x 2 x 2 mm"
    with pytest.raises(InputError, match=message):
        preprocess(model, channels, (0.75, 2.0, 2.0), exact=exact)


def test_the_lesion_logit_is_the_same_but_for_rounding(tmp_path: Path) -> None:
    model = read_model_folder(write_model_folder(tmp_path), task="task1", n_images=2)
    channels = np.random.default_rng(0).uniform(1, 5, (4, 14, 20, 18)).astype(np.float32)
    case = preprocess(model, channels, (6.0, 2.5, 1.5))
    logits = torch.from_numpy(np.random.default_rng(1).normal(size=(2, *case.grid_shape))).half()
    exact, fast = (
        lesion_logit_on_image(model, case, on_whole_grid(case, logits, exact=exact), exact=exact)
        for exact in (True, False)
    )
    assert exact.shape == fast.shape == (14, 20, 18)
    np.testing.assert_allclose(fast, exact, atol=5e-3)  # nnU-Net rounds to half precision


@pytest.mark.parametrize("shape", [(5, 9, 7), (12, 13, 15), (30, 18, 16), (1, 1, 1), (3, 40, 2)])
def test_a_mask_in_another_shape_is_what_overlaps_it_and_the_voxels_beside(shape: tuple[int, int, int]) -> None:
    mask = torch.rand(12, 18, 15, generator=torch.Generator().manual_seed(0)) > 0.99
    assert mask.any()
    overlapping = functional.adaptive_max_pool3d(mask[None].float(), shape)
    expected = functional.max_pool3d(overlapping, 3, stride=1, padding=1)[0] > 0
    assert torch.equal(_shrink_mask(mask, shape), expected)


def test_a_point_beside_the_crop_goes_to_its_outer_voxels():
    """Ten voxels become twenty: the centre of the first lies between the first two, and so at the other end."""
    moved = to_network_grid(np.array([[3.0, 12.0, 30.0]]), [(10, 20)] * 3, (20, 20, 20), "centre")
    assert moved.tolist() == [[0.5, 4.5, 18.5]]


@pytest.mark.parametrize("exact", [False, True])
def test_what_was_not_predicted_is_sure_background(exact: bool) -> None:
    # the part begins in the second of four slices, and along x a voxel before the grid
    options = {"shape": (4, 2, 3), "bounds": ((0, 4), (0, 2), (0, 3)), "spacing": (1.0, 1.0, 1.0)}
    case = NetworkInput(torch.empty(0), None, origin=(1, 0, -1), grid_shape=(4, 2, 3), **options)
    logits = torch.stack([torch.full((2, 2, 5), 1.0), torch.full((2, 2, 5), 3.0)])
    logits[:, 0, 1, 2] = float("nan")  # which no tile covered
    expected = torch.full((4, 2, 3), -10.0)
    expected[1:3] = 2.0
    expected[1, 1, 1] = -10.0
    whole = on_whole_grid(case, logits, exact=exact)
    assert torch.equal(whole[1] - whole[0] if exact else whole[0], expected)


class TestThickSlices:
    """An image of slices that are thick along z, and a network's whose voxels are long along x."""

    IMAGE_MM, NETWORK_MM = (6.5, 1.75, 1.75), (2.0, 2.0, 7.0)

    def test_those_of_the_image_are_treated_apart_on_the_way_to_the_network(self, tmp_path: Path) -> None:
        folder = write_model_folder(tmp_path, spacing_zyx=self.NETWORK_MM)
        model = read_model_folder(folder, task="task1", n_images=2)
        channels = np.random.default_rng(0).uniform(1, 5, (4, 8, 16, 24)).astype(np.float32)
        exact, fast = (preprocess(model, channels, self.IMAGE_MM, exact=exact) for exact in (True, False))
        np.testing.assert_allclose(fast.images.numpy(), exact.images.numpy(), atol=1e-5)

    @pytest.mark.parametrize("exact", [False, True])
    def test_those_of_the_network_are_treated_apart_on_the_way_back(self, tmp_path: Path, exact: bool) -> None:
        """Along the axis apart the nearest voxel counts, and along the others there are values between."""
        folder = write_model_folder(tmp_path, spacing_zyx=self.NETWORK_MM)
        model = read_model_folder(folder, task="task1", n_images=2)
        case = preprocess(model, np.ones((4, 8, 16, 24), dtype=np.float32), self.IMAGE_MM)
        z, _, x = (torch.arange(n) for n in case.grid_shape)
        for step, apart in ((x >= 3, True), ((z >= 11)[:, None, None], False)):
            lesion = (step * 4.0 - 2.0).expand(case.grid_shape)
            whole = on_whole_grid(case, torch.stack([torch.zeros_like(lesion), lesion]), exact=exact)
            found = lesion_logit_on_image(model, case, whole, exact=exact)
            assert set(np.unique(found)) >= {-2.0, 2.0}
            assert (len(np.unique(found)) == 2) == apart


def test_the_box_around_a_body_is_padded_with_air_that_is_not_needed(tmp_path: Path) -> None:
    spec = PromptSpec(Ball(radius=2.0), stage="network")
    folder = write_model_folder(tmp_path, prompt=spec, patch_size=(8, 8, 8), spacing_zyx=(2.0, 2.0, 2.0))
    body = np.zeros((20, 20, 20), dtype=bool)
    body[9:12, 5:15, 4:8] = True  # and the voxels beside: 5 x 12 x 6
    channels = np.ones((2, 20, 20, 20), dtype=np.float32)
    case = preprocess(read_model_folder(folder, task="task1", n_images=2), channels, (2.0, 2.0, 2.0), body=body)
    # of three slices that are missing one comes before
    assert case.origin == (8 - 1, 4, 3 - 1)
    assert case.images.shape == (2, 8, 12, 8)
    expected = torch.zeros(8, 12, 8, dtype=torch.bool)
    expected[1:6, :, 1:7] = True
    assert torch.equal(case.needed, expected)
