"""Which lesions there is time for, and which voxels are left for those that were clicked in a crowd."""

import numpy as np
import pytest
from helpers.bright_lesions import BOX, OTHER, BrightIsLesion, centre, followup, known, labels, segment_lesions

from lesionclick.budget import Budget
from lesionclick.images import Grid
from lesionclick.longitudinal.lesions import Lesion


def segment_clicks(grid, places_xyz):
    """Return the mask where there is no time to look at any lesion, so that each has its click alone."""
    places_mm = [grid.to_physical(place)[0] for place in places_xyz]
    lesions = [Lesion(n, place, True, None, None, new=True) for n, place in enumerate(places_mm, start=1)]
    return segment_lesions(followup(grid=grid), lesions, BrightIsLesion(), Budget(-1, lambda: 0.0))


@pytest.mark.parametrize("place", [(10, 9, 2), (0, 17, 4), (19, 0, 0)])
@pytest.mark.parametrize("spacing", [(2.0, 2.0, 12.0), (2.0, 2.0, 3.0), (30.0, 2.0, 2.0)])
def test_clicks_at_one_place_get_the_voxels_that_are_nearest_in_mm(spacing, place):
    grid = Grid((20, 18, 5), spacing)
    mask = segment_clicks(grid, [place] * 150)
    far_mm = np.linalg.norm(grid.to_physical(np.argwhere(mask.array >= 0)[:, ::-1]) - grid.to_physical(place), axis=1)
    taken = np.argwhere(mask.array)
    numbers = mask.array[tuple(taken.T)]
    taken_mm = np.linalg.norm(grid.to_physical(taken[:, ::-1]) - grid.to_physical(place), axis=1)
    assert sorted(numbers) == list(range(1, 151))
    # one after the other, as they are listed
    assert taken_mm[np.argsort(numbers)] == pytest.approx(np.sort(far_mm)[:150])


def test_where_there_are_more_lesions_than_voxels_each_voxel_is_another_ones():
    mask = segment_clicks(Grid((2, 2, 2), (2.0, 2.0, 3.0)), [(0, 0, 0)] * 10)
    assert sorted(mask.array.ravel()) == list(range(1, 9))


def test_the_last_free_voxel_is_found_in_the_corner_across():
    grid = Grid((9, 9, 6), (2.0, 2.0, 3.0))  # 18 mm along each axis
    everywhere = [tuple(place) for place in np.argwhere(np.ones((9, 9, 6)))[:-1]]
    mask = segment_clicks(grid, [*everywhere, (0, 0, 0)])
    assert mask.array[5, 8, 8] == 9 * 9 * 6
    assert len(labels(mask)) == 9 * 9 * 6


def test_a_lesion_is_looked_at_where_there_is_time_for_what_the_longest_took():
    class Slower(BrightIsLesion):
        seconds = 0.0

        def predict_lesion_logits(self, patches, plan):
            self.seconds += 2.0 if self.seen else 10.0
            return super().predict_lesion_logits(patches, plan)

    third = ((10, 25, 12), 4)
    lesions = [known(n, centre(box)) for n, box in enumerate((BOX, OTHER, third), start=1)]
    for seconds, voxels in ((21.9, 1), (22.1, 64)):  # 12 s are over, and the first took 10
        model = Slower()
        budget = Budget(seconds, lambda model=model: model.seconds)
        assert labels(segment_lesions(followup(BOX, OTHER, third), lesions, model, budget)) == {1: 64, 2: 64, 3: voxels}


@pytest.mark.parametrize(("second", "voxels"), [(0.964, {1: 108, 2: 108}), (0.966, {1: 1, 2: 215})])
def test_probabilities_that_are_the_same_percent_are_equal(second, voxels):
    """The first lesion's is 95.6 %; the points share out what both are equally sure of."""

    class Sees(BrightIsLesion):
        def predict_lesion_logits(self, patches, plan):
            probability = second if self.seen else 0.956
            self.sure = float(np.log(probability / (1 - probability)))
            return super().predict_lesion_logits(patches, plan)

    lesions = [known(1, (10.5, 14.5, 10.5)), known(2, (14.5, 14.5, 10.5))]
    assert labels(segment_lesions(followup(((10, 12, 8), 6)), lesions, Sees())) == voxels
