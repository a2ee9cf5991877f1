import numpy as np
import pytest

from lesionclick.images import Grid
from lesionclick.longitudinal.patches import ZOOMS, Patch, choose_zoom

SPACING = (3.0, 2.0, 2.0)
SHAPE = (4, 6, 6)
GRID = Grid((20, 18, 10), (2.0, 2.0, 3.0), (-5.0, 7.0, 100.0))
RAMP = np.arange(20 * 18 * 10, dtype=np.float32).reshape(GRID.shape_zyx)
TURN = np.array([[0.8, -0.6, 0.0], [0.6, 0.8, 0.0], [0.0, 0.0, 1.0]])


def flipped(grid, array):
    """The same image, stored with x and z the other way round."""
    last = grid.to_physical([[grid.size_xyz[0] - 1, 0, grid.size_xyz[2] - 1]])[0]
    other = Grid(grid.size_xyz, grid.spacing_xyz, tuple(last), (-1.0, 0, 0, 0, 1.0, 0, 0, 0, -1.0))
    return other, np.ascontiguousarray(array[::-1, :, ::-1])


def whole(grid, index_xyz):
    return grid.to_physical([index_xyz])[0]


@pytest.mark.parametrize(
    ("extent", "zoom"),
    [((1, 1, 1), 0.6), ((21.5, 1, 1), 0.6), ((22, 1, 1), 1.0), ((1, 1, 64), 1.6), ((900, 1, 1), 4.0)],
)
def test_zoom_leaves_room_of_twice_the_lesion(extent, zoom):
    assert choose_zoom(extent, (72.0, 80.0, 80.0)) == zoom
    assert zoom in ZOOMS


def test_a_patch_between_voxel_centres_is_a_part_of_the_image():
    # an even patch has its centre between two voxels
    patch = Patch.around(GRID, whole(GRID, (9.5, 8.5, 4.5)), SHAPE, SPACING)
    assert np.array_equal(patch.cut(RAMP, -1.0), RAMP[3:7, 6:12, 7:13])
    assert patch.to_patch((3, 6, 7)) == pytest.approx((0, 0, 0))


def test_beyond_the_image_lies_the_outside_value():
    patch = Patch.around(GRID, whole(GRID, (0.5, 8.5, 4.5)), SHAPE, SPACING).cut(RAMP, -1000.0)
    assert (patch[:, :, :2] == -1000.0).all()
    assert np.array_equal(patch[:, :, 2:], RAMP[3:7, 6:12, :4])


def test_direction_of_the_image_makes_no_difference():
    place = whole(GRID, (8.0, 9.0, 5.0))
    other, stored = flipped(GRID, RAMP)
    expected = Patch.around(GRID, place, SHAPE, (2.0, 1.5, 1.5)).cut(RAMP, 0.0)
    assert Patch.around(other, place, SHAPE, (2.0, 1.5, 1.5)).cut(stored, 0.0) == pytest.approx(expected, rel=1e-5)


def test_an_oblique_image_is_seen_along_the_patients_axes():
    grid = Grid((30, 30, 10), (2.0, 2.0, 3.0), (0.0, 0.0, 0.0), tuple(TURN.ravel()))
    index = np.stack(np.meshgrid(*(np.arange(n) for n in grid.size_xyz), indexing="ij"), axis=-1)
    x_mm = grid.to_physical(index.reshape(-1, 3))[:, 0].reshape(30, 30, 10).T.astype(np.float32)
    centre = whole(grid, (15, 15, 5))
    patch = Patch.around(grid, centre, SHAPE, SPACING).cut(x_mm, 0.0)
    expected = centre[0] + (np.arange(6) - 2.5) * 2.0
    assert patch == pytest.approx(np.broadcast_to(expected, SHAPE), abs=1e-3)


@pytest.mark.parametrize("spacing", [SPACING, (1.5, 1.0, 1.0)])
def test_pasting_brings_values_back_to_their_voxels(spacing):
    for grid, array in ((GRID, RAMP), flipped(GRID, RAMP)):
        patch = Patch.around(grid, whole(grid, (9.0, 8.0, 5.0)), (5, 7, 7), spacing)
        window, values = patch.paste(patch.cut(array, 0.0), array.shape, np.nan)
        covered = np.isfinite(values)
        assert covered.sum() >= 20
        assert values[covered] == pytest.approx(array[window][covered], rel=1e-4)


def test_a_patch_beside_the_image_pastes_nothing():
    window, values = Patch.around(GRID, (500.0, 0.0, 0.0), SHAPE, SPACING).paste(
        np.ones(SHAPE, np.float32), RAMP.shape, 0
    )
    assert values.size == 0
    assert RAMP[window].size == 0


def test_a_mask_is_cut_for_one_lesion():
    numbers = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    numbers[4, 7:9, 8:11] = 3
    numbers[5, 7:9, 8:11] = 4
    patch = Patch.around(GRID, whole(GRID, (9.5, 8.5, 4.5)), SHAPE, SPACING)
    inside = patch.cut_mask(numbers, 3)
    assert np.array_equal(inside, numbers[3:7, 6:12, 7:13] == 3)
    assert not Patch.around(GRID, (500.0, 0.0, 0.0), SHAPE, SPACING).cut_mask(numbers, 3).any()


def test_a_patch_at_an_index_of_the_networks_own_grid():
    patch = Patch.at_index((4.5, 8.5, 9.5), SHAPE, 1.0)
    assert np.array_equal(patch.cut(RAMP, 0.0), RAMP[3:7, 6:12, 7:13])
    assert Patch.at_index((4.5, 8.5, 9.5), SHAPE, 0.6).to_patch((4.5, 8.5, 9.5)) == pytest.approx((1.5, 2.5, 2.5))


def test_each_axis_of_a_patch_has_its_own_spacing_whatever_the_axes_of_the_image():
    """Steps along x, y, z of the image go up, to the left and to the back: along z, x, y of the patient."""
    turned = (0.0, 1.0, 0.0, 0.0, 0.0, 1.0, 1.0, 0.0, 0.0)
    grid = Grid((20, 18, 10), (2.0, 2.0, 3.0), (-5.0, 7.0, 100.0), turned)
    patch = Patch.around(grid, whole(grid, (9.0, 8.0, 5.0)), (3, 3, 3), (4.0, 3.0, 2.0))
    assert patch.to_patch((5, 8, 11)) == pytest.approx((2, 1, 1))  # 4 mm up
    assert patch.to_patch((6, 8, 9)) == pytest.approx((1, 2, 1))  # 3 mm to the back
    assert patch.to_patch((5, 9, 9)) == pytest.approx((1, 1, 2))  # 2 mm to the left


def test_half_of_a_voxel_of_the_lesion_is_in_the_mask():
    numbers = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    numbers[5, 9, 8] = 3
    mask = Patch.around(GRID, whole(GRID, (8.0, 9.0, 5.0)), (1, 1, 4), SPACING).cut_mask(numbers, 3)
    assert mask.ravel().tolist() == [False, True, True, False]
