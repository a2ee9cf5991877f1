"""What the encodings paint with."""

import numpy as np
import pytest

from lesionclick.prompts.painting import paint_balls


def test_a_ball_of_unequal_radii_fades_in_units_of_each() -> None:
    """Its radii are 2, 3 and 3 voxels, so that a step along z counts 1.5; outside it, (2, 1, 0) is the nearest voxel.

    That is sqrt(3**2 + 1) from the centre, and sqrt(1.5**2 + 1) from the voxel above it.
    """
    ball = paint_balls(np.array([[4.0, 4.0, 4.0]]), (9, 9, 9), np.array([2.0, 3.0, 3.0]))
    assert ball[4, 4, 4] == 1.0
    assert ball[5, 4, 4] == ball[3, 4, 4] == pytest.approx(np.sqrt(3.25 / 10))
    assert ball[6, 5, 4] == 0.0


def test_of_a_ball_around_a_point_outside_the_grid_the_rest_is_painted() -> None:
    radius = np.array([2.0, 3.0, 3.0])
    whole = paint_balls(np.array([[4.0, 4.0, 1.0]]), (9, 9, 11), radius)
    part = paint_balls(np.array([[4.0, 4.0, -1.0]]), (9, 9, 9), radius)
    assert part.any()
    assert np.array_equal(part, whole[:, :, 2:])
