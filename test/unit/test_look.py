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
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.case import Baseline
from lesionclick.longitudinal.lesions import Lesion
from lesionclick.longitudinal.look import find_boxes, look, look_closely


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
    ball = 4 / 3 * np.pi * 6**3 / 12  # 6 mm around the click, in voxels of 2 x 2 x 3 mm
    assert labels(mask)[1] == pytest.approx(ball, rel=0.2)
    far = GRID.to_physical(np.argwhere(mask.array)[:, ::-1]) - GRID.to_physical(centre(BOX))
    assert np.linalg.norm(far, axis=1).max() < 6.9  # half of a voxel of the patch beyond


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
    """Sees the lesion with another logit in each look, or a blob, by half its widths in voxels and its logit."""

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
        halves = zip(blob.shape, np.broadcast_to(half, 3), strict=True)
        blob[tuple(slice(size // 2 - n, size // 2 + n) for size, n in halves)] = logit
        return [blob]


def zoom_of(model):
    (seen,) = look(followup(BOX).ct, [lesion(1, centre(BOX))], {}, model)
    return seen.zoom


def test_of_a_lesion_of_unknown_size_the_surest_look_counts():
    assert zoom_of(Sees(1.0, 2.0, 9.0, 3.0, 3.0)) == 1.6
    assert zoom_of(Sees(1.0, 2.0, 1.0, 1.0, 1.0)) == 1.0
    assert zoom_of(Sees(5.0, 5.0, 5.0, 5.0, 5.0)) == 0.6  # the finest of equals


def test_the_third_zoom_counts_whatever_a_smaller_patch_shows():
    assert zoom_of(Sees(5.0, 5.0, 0.0, 5.0, 5.0, blobs={2: (4, 9.0)})) == 1.6  # 33 times the volume


def test_a_large_patch_counts_where_the_next_smaller_one_shows_as_much():
    alone = {4: (4, 9.0)}  # 8 voxels of 12, 8 and 8 mm wide
    assert zoom_of(Sees(5.0, 5.0, 5.0, 5.0, blobs=alone)) == 0.6
    borne_out = {3: (5, 4.0), 4: (4, 9.0)}  # 10 voxels of 7.5, 5 and 5 mm: less by 4.1 / 1.95 = 2.1
    assert zoom_of(Sees(5.0, 5.0, 5.0, blobs=borne_out)) == 4.0
    smaller = {3: ((4, 5, 5), 4.0), 4: (4, 9.0)}  # less by 4.1 / 1.56 = 2.6
    assert zoom_of(Sees(5.0, 5.0, 5.0, blobs=smaller)) == 0.6


def test_a_large_patch_that_shows_it_faintly_does_not_count():
    assert zoom_of(Sees(3.0, 3.0, 3.0, blobs={3: (5, 3.5), 4: (4, 4.1)})) == 4.0
    assert zoom_of(Sees(3.0, 3.0, 3.0, blobs={3: (5, 3.5), 4: (4, 3.9)})) == 0.6


@pytest.mark.parametrize("up", [1.0, -1.0])
@pytest.mark.parametrize(("slices", "zoom"), [(6, 1.0), (9, 1.6), (10, 2.5)])
def test_the_first_patch_is_twice_as_large_as_the_baseline_along_each_axis(slices, zoom, up):
    """A lesion of 8 x 8 mm and so many slices of 3 mm; the patch is 36 mm high at zoom 1, and 32 mm wide."""
    numbers = np.zeros(GRID.shape_zyx, dtype=np.uint16)
    numbers[4 : 4 + slices, 12:16, 10:14] = 1
    grid = Grid(GRID.size_xyz, GRID.spacing_xyz, GRID.origin_xyz, (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, up))
    before = Baseline("primary", Volume(np.zeros(GRID.shape_zyx, np.float32), grid), Volume(numbers, grid), {})
    one = Lesion(1, GRID.to_physical(centre(BOX))[0], True, before, grid.to_physical((11.5, 13.5, 8.0))[0], new=False)
    model = Sees(blobs={0: (4, 9.0), 1: (4, 1.0), 2: (4, 1.0)})  # the first look is the surest
    (seen,) = look(followup().ct, [one], find_boxes([one]), model)
    assert seen.zoom == zoom


def test_what_is_looked_for_without_a_size_is_looked_at_in_one_patch():
    place = GRID.to_physical(centre(BOX))[0]
    one = Lesion(1, place, False, baseline(), place, new=False)  # known by its point alone
    model = Sees(9.0)
    (seen,) = look(followup(BOX).ct, [one], find_boxes([one]), model)
    assert (seen.zoom, seen.voxels, len(model.seen)) == (1.0, 64, 1)


def test_boxes_are_those_of_lesions_with_voxels():
    before, place = baseline(BOX, first=2), np.zeros(3)
    lesions = [Lesion(number, place, True, before, place, new=False) for number in (1, 2, 3)]
    assert find_boxes([*lesions, lesion(4, centre(BOX))]) == {2: (slice(8, 12), slice(12, 16), slice(10, 14))}


@pytest.mark.parametrize(("beside", "voxels"), [(-3.9, 16), (-4.1, 8)])
def test_a_click_on_nothing_gets_what_is_up_to_one_below_the_highest_logit(beside, voxels):
    class SeesFaintly(BrightIsLesion):
        """Sees two voxels along each axis, and along x one more on both sides, which are fainter."""

        def predict_lesion_logits(self, patches, plan):
            seen = super().predict_lesion_logits(patches, plan)
            for one in seen:
                one[:] = -9.0
                z, y, x = (n // 2 for n in one.shape)
                one[z - 1 : z + 1, y - 1 : y + 1, x - 2 : x + 2] = beside
                one[z - 1 : z + 1, y - 1 : y + 1, x - 1 : x + 1] = -3.0
            return seen

    mask = segment_lesions(followup(), [known(1, centre(BOX))], SeesFaintly())
    assert labels(mask) == {1: voxels}


def test_a_click_on_nothing_in_a_large_patch_gets_the_voxels_in_its_middle():
    """At zoom 4 the nearest voxels of the patch are 8.2 mm away, beyond the 6 mm around the click."""
    mask = segment_lesions(followup(), [known(1, (20, 18, 10), size=16)], BrightIsLesion())
    assert mask.array[10, 18, 20] == 1


@pytest.mark.parametrize(("size", "zoom"), [(4, 1.0), (10, 2.5)])
def test_the_channels_of_points_look_alike_at_any_zoom(size, zoom):
    model = Sees(9.0, 1.0)
    (seen,) = look(followup(BOX).ct, [one := known(1, centre(BOX), size=size)], find_boxes([one]), model)
    assert seen.zoom == zoom
    # the place is in the middle of the patch, 1.5, 1 and 1 mm from its nearest voxels as at zoom 1
    middle = model.seen[0][3:, 5, 7, 7]
    assert middle == pytest.approx(np.exp(-np.sqrt(1.5**2 + 1 + 1) / model.encoding.radius))


def test_a_new_lesion_has_no_point_in_its_baseline():
    place = GRID.to_physical(centre(BOX))[0]
    one = Lesion(2, place, True, baseline(), place, new=True)
    model = BrightIsLesion()
    look(followup(BOX).ct, [one], {}, model)
    for _, baseline_ct, mask, point, baseline_point in model.seen:
        assert (baseline_ct.max(), mask.max(), baseline_point.max()) == (TISSUE, -1.0, 0.0)
        assert point.max() > 0.5


def test_what_touches_at_a_corner_is_one_component():
    boxes = ((10, 12, 8), 2), ((12, 14, 10), 2)
    assert labels(segment_lesions(followup(*boxes), [known(1, (10.5, 12.5, 8.5))], BrightIsLesion())) == {1: 16}


def test_a_lesion_of_two_voxels_gives_one_of_them_away():
    two = ((10, 11, 8), 1), ((10, 12, 8), 1)
    place = (10.4, 11.6, 8.4)  # rounded to the second
    found = labels(segment_lesions(followup(*two), [known(n, place) for n in (1, 2, 3)], BrightIsLesion()))
    assert found == {1: 1, 2: 1, 3: 1}


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

    @pytest.mark.parametrize(("by", "moved"), [(2, True), (6, False)])
    def test_a_close_look_at_another_place_in_a_large_patch_is_another_lesions(self, by, moved):
        """A box of four voxels of 5 mm, which begins 2.5 or 22.5 mm from the place along x."""

        class SeesBeside(Sees):
            def predict_lesion_logits(self, patches, plan):
                return [np.roll(one, by, axis=2) for one in super().predict_lesion_logits(patches, plan)]

        one = known(1, centre(BOX), size=10)
        (seen,) = look(followup(BOX).ct, [one], find_boxes([one]), Sees(1.0, 0.0, blobs={0: (2, 9.0), 1: (1, 1.0)}))
        assert seen.zoom == 2.5
        (closer,) = look_closely(followup(BOX).ct, [one], [seen], SeesBeside(blobs={0: (2, 9.0)}), plan=Plan(2))
        assert (closer is not seen) == moved

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
