"""In patches of which size a lesion is looked at, and what is taken from them."""

import numpy as np
import pytest
from helpers.bright_lesions import (
    BOX,
    GRID,
    OTHER,
    OTHER_SIDE,
    TISSUE,
    BrightIsLesion,
    SeesWhatHasAnEdge,
    baseline,
    centre,
    followup,
    known,
    labels,
    lesion,
    segment_lesions,
)
from scipy import ndimage

from lesionclick.budget import Budget, Plan
from lesionclick.images import Grid
from lesionclick.longitudinal.lesions import Lesion
from lesionclick.longitudinal.look import look


def test_a_lesion_at_the_border_of_its_patch_is_looked_at_in_a_larger_one():
    model = BrightIsLesion()
    large = ((6, 4, 2), 16)  # 32 mm along x, as wide as the patch at zoom 1
    mask = segment_lesions(followup(large), [known(1, (13.5, 11.5, 9.5))], model)
    assert len(model.seen) == 2
    assert labels(mask)[1] == pytest.approx(16**3, rel=0.1)


def test_a_lesion_that_has_shrunk_is_looked_at_in_a_smaller_patch():
    model = BrightIsLesion()
    mask = segment_lesions(followup(BOX), [known(1, centre(BOX), size=12)], model)
    widths = [np.count_nonzero(one[0].max(axis=(0, 1)) > TISSUE + 1) for one in model.seen]
    assert widths == [2, 4]  # 8 mm in voxels of 5 mm, then of 2 mm
    assert labels(mask) == {1: 64}


def test_a_click_on_a_new_lesion_finds_it_whatever_its_size():
    large = ((6, 4, 2), 16)
    lesions = [lesion(1, (13.5, 11.5, 9.5)), lesion(2, centre(OTHER_SIDE))]
    found = labels(segment_lesions(followup(large, OTHER_SIDE), lesions, SeesWhatHasAnEdge()))
    assert found[1] == pytest.approx(16**3, rel=0.15)
    assert found[2] == 64


def test_a_lesion_that_is_sure_all_over_leaves_its_neighbour_alone():
    """Every voxel of a bright box is as sure, so that no weak one tells where the lesion ends."""
    mask = segment_lesions(followup(BOX, ((18, 12, 8), 4)), [known(1, centre(BOX))], BrightIsLesion(sure=5.0))
    assert labels(mask) == {1: 64}


@pytest.mark.parametrize("logit", [-5.0, -19.5, -21.0, -60.0])
def test_a_click_gets_its_surroundings_however_sure_of_background_the_network_is(logit):
    class SeesNothing(BrightIsLesion):
        def predict_lesion_logits(self, patches, plan):  # noqa: ARG002
            return [np.full(one[0].shape, logit, dtype=np.float32) for one in patches]

    mask = segment_lesions(followup(), [lesion(1, centre(BOX))], SeesNothing())
    ball = 4 / 3 * np.pi * 6**3 / 2**3  # 6 mm around the click, in voxels of 2 mm
    assert labels(mask)[1] == pytest.approx(ball, rel=0.2)


def test_what_a_smaller_patch_does_not_show_stays_as_the_larger_one_had_it():
    class SeesFromFar(BrightIsLesion):
        def predict_lesion_logits(self, patches, plan):
            far = not self.seen
            seen = super().predict_lesion_logits(patches, plan)
            return seen if far else [np.full_like(one, -5.0) for one in seen]

    model = SeesFromFar()
    mask = segment_lesions(followup(BOX), [known(1, centre(BOX), size=12)], model)
    assert len(model.seen) == 2
    assert labels(mask)[1] == pytest.approx(64, rel=0.5)


class Sees(BrightIsLesion):
    """Sees the lesion with another logit in each look, or a blob, by half its width in voxels and its logit."""

    def __init__(self, *logits, blobs=None):
        super().__init__()
        self.logits, self.blobs = logits, blobs or {}

    def predict_lesion_logits(self, patches, plan):
        n = len(self.seen)
        (seen,) = super().predict_lesion_logits(patches, plan)
        if n not in self.blobs:
            return [np.where(seen > 0, self.logits[n], -5.0).astype(np.float32)]
        half, logit = self.blobs[n]
        blob = np.full_like(seen, -5.0)
        blob[tuple(slice(size // 2 - half, size // 2 + half) for size in blob.shape)] = logit
        return [blob]


def zoom_of(model):
    (seen,) = look(followup(BOX).ct, [lesion(1, centre(BOX))], {}, model)
    return seen.zoom


def test_of_a_lesion_of_unknown_size_the_surest_look_counts():
    assert zoom_of(Sees(1.0, 2.0, 9.0, 3.0, 3.0)) == 1.6
    assert zoom_of(Sees(1.0, 2.0, 1.0, 1.0, 1.0)) == 1.0
    assert zoom_of(Sees(5.0, 5.0, 5.0, 5.0, 5.0)) == 0.6  # the finest of equals


def test_a_large_patch_counts_where_the_next_smaller_one_shows_as_much():
    alone = {4: (4, 9.0)}  # 8 voxels of 12, 8 and 8 mm wide
    assert zoom_of(Sees(5.0, 5.0, 5.0, 5.0, blobs=alone)) == 0.6
    borne_out = {3: (5, 4.0), 4: (4, 9.0)}  # 10 voxels of 7.5, 5 and 5 mm: less by 4.1 / 1.95 = 2.1
    assert zoom_of(Sees(5.0, 5.0, 5.0, blobs=borne_out)) == 4.0
    smaller = {3: (4, 4.0), 4: (4, 9.0)}  # less by 4.1
    assert zoom_of(Sees(5.0, 5.0, 5.0, blobs=smaller)) == 0.6


def test_a_large_patch_that_shows_it_faintly_does_not_count():
    assert zoom_of(Sees(3.0, 3.0, 3.0, blobs={3: (5, 3.5), 4: (4, 4.1)})) == 4.0
    assert zoom_of(Sees(3.0, 3.0, 3.0, blobs={3: (5, 3.5), 4: (4, 3.9)})) == 0.6


class SeesMoreClosely(BrightIsLesion):
    """Sees a lesion by a voxel wider in a close look, or by more, or nothing."""

    blind = False
    width = 2

    def predict_lesion_logits(self, patches, plan):
        seen = super().predict_lesion_logits(patches, plan)
        if plan == self.first_plan:
            return seen
        wider = [ndimage.maximum_filter(one, (1, 1, self.width)) for one in seen]
        return [np.full_like(one, -5.0) for one in seen] if self.blind else wider


class TestCloseLooks:
    lesions = (known(1, centre(BOX)), lesion(2, centre(OTHER)))

    def test_what_the_baseline_shows_is_mirrored_and_the_rest_is_not(self):
        model = SeesMoreClosely(mirror_axes=(0, 1, 2))
        mask = segment_lesions(followup(BOX, OTHER), self.lesions, model)
        assert model.plans.count(Plan(1, (0, 1, 2))) == 1
        assert set(model.plans) == {Plan(1), Plan(1, (0, 1, 2))}
        assert labels(mask) == {1: 5 * 4 * 4, 2: 64}

    def test_further_folds_see_all_that_was_found(self):
        model = SeesMoreClosely(folds=2, mirror_axes=(2,))
        vanished = known(3, (30.0, 6.0, 5.0), clicked=False)
        segment_lesions(followup(BOX, OTHER), [*self.lesions, vanished], model)
        assert [plan for plan in model.plans if plan != Plan(1)] == [Plan(2, (2,)), Plan(2)]

    def test_what_a_close_look_does_not_show_stays_as_it_was(self):
        model = SeesMoreClosely(folds=2)
        model.blind = True
        assert labels(segment_lesions(followup(BOX, OTHER), self.lesions, model)) == {1: 64, 2: 64}
        assert Plan(2) in model.plans

    @pytest.mark.parametrize(("width", "voxels"), [(2, 80), (4, 64)])
    def test_a_close_look_counts_up_to_1_3_times_the_volume(self, width, voxels):
        model = SeesMoreClosely(mirror_axes=(2,))
        model.width = width
        assert labels(segment_lesions(followup(BOX), self.lesions[:1], model)) == {1: voxels}

    def test_without_time_for_close_looks_the_first_ones_count(self):
        class TenSecondsEach(SeesMoreClosely):
            seconds = 0.0

            def predict_lesion_logits(self, patches, plan):
                self.seconds += 10 * plan.passes
                return super().predict_lesion_logits(patches, plan)

        for seconds, voxels in ((89.0, 64), (91.0, 80)):  # the first look takes 10 s, and eight close ones 80
            model = TenSecondsEach(mirror_axes=(0, 1, 2))
            budget = Budget(seconds, lambda model=model: model.seconds)
            assert labels(segment_lesions(followup(BOX), self.lesions[:1], model, budget)) == {1: voxels}

    def test_a_close_look_that_meets_no_voxel_leaves_the_lesion_as_it_was(self):
        class SeesOneVoxel(SeesMoreClosely):
            """Sees a voxel of the patch in a close look, whose centre lies between two slices."""

            def predict_lesion_logits(self, patches, plan):
                seen = super().predict_lesion_logits(patches, plan)
                if plan != self.first_plan:
                    for one in seen:
                        middle = tuple(n // 2 for n in one.shape)
                        one[:] = -50.0
                        one[middle] = 0.1
                return seen

        thick = Grid((40, 36, 6), (2.0, 2.0, 12.0), GRID.origin_xyz)
        box = ((10, 12, 2), 2)
        model = SeesOneVoxel(mirror_axes=(2,))
        x, y, z = centre(box)
        before = baseline(box, grid=thick)
        place = thick.to_physical((x, y, z))[0]
        one = Lesion(1, place, True, before, place, new=False)
        mask = segment_lesions(followup(box, grid=thick), [one], model)
        assert labels(mask) == {1: 8}
        assert model.plans[-1] == Plan(1, (2,))

    def test_a_place_far_outside_the_image_gets_the_nearest_voxel(self):
        mask = segment_lesions(followup(BOX), [lesion(1, (500, 14, 9))], BrightIsLesion())
        assert np.argwhere(mask.array == 1).tolist() == [[9, 14, 39]]
