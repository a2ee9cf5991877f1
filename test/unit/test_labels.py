"""Lesions by number: a mask and its points are brought together."""

import numpy as np
import pytest

from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.labels import LesionPoints, match_points

GRID = Grid((20, 18, 16), (2.0, 3.0, 5.0), (10.0, 20.0, 30.0))


def match(mask: np.ndarray, points: LesionPoints) -> tuple[np.ndarray, LesionPoints]:
    volume, found = match_points(Volume(mask, GRID), points, "points", "mask")
    return volume.array, found


@pytest.fixture
def mask() -> np.ndarray:
    return np.zeros(GRID.shape_zyx, dtype=np.uint16)


def test_the_centre_of_a_lesion_is_that_of_its_own_voxels(mask: np.ndarray) -> None:
    mask[3, 4, 5] = mask[3, 4, 9] = 1
    mask[3, 4, 6:8] = mask[2, 4, 5] = 7  # inside the box of the first, and beside it
    array, points = match(mask, {7: (6.0, 4.0, 3.0)})
    assert points == {1: (7.0, 4.0, 3.0), 7: (6.0, 4.0, 3.0)}
    assert array is mask


def test_components_of_a_binary_mask_take_the_number_of_the_nearest_point_in_mm(mask: np.ndarray) -> None:
    mask[4, 4, 4] = mask[5, 5, 5] = 1  # they touch at a corner, and the second alone is near point 5
    mask[12, 12, 12:15] = 1
    # the third is 4 slices, 20 mm, above the end of the row, and the fourth 8 voxels, 16 mm, beside it
    array, points = match(mask, {2: (4.0, 4.0, 4.0), 5: (6.0, 5.0, 5.0), 3: (14.0, 12.0, 8.0), 4: (4.0, 12.0, 12.0)})
    assert array[4, 4, 4] == array[5, 5, 5] == 2
    assert array[12, 12, 12:15].tolist() == [4, 4, 4]
    assert np.count_nonzero(array) == 5
    assert list(points) == [2, 3, 4, 5]


def test_a_binary_mask_without_a_point_in_the_image_is_lesion_1(mask: np.ndarray) -> None:
    mask[4, 4, 4] = 1
    array, points = match(mask, {2: (400.0, 4.0, 4.0)})
    assert np.array_equal(array, mask)
    assert points == {1: (4.0, 4.0, 4.0)}
