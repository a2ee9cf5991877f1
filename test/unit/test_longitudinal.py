import logging
import math

import numpy as np
import pytest
from helpers.bright_lesions import (
    BOX,
    BRIGHT,
    GRID,
    OTHER,
    TISSUE,
    BrightIsLesion,
    baseline,
    centre,
    followup,
    image,
    known,
    labels,
    lesion,
    segment_lesions,
)

from lesionclick.budget import Budget
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal import session as longitudinal
from lesionclick.longitudinal.case import Followup, LongitudinalCase
from lesionclick.longitudinal.lesions import Lesion, find_lesions
from lesionclick.longitudinal.session import LongitudinalSession


class Shift:
    """An alignment by a shift in mm."""

    kind = "affine"
    complete = True

    def __init__(self, mm=(0.0, 0.0, 0.0), overlap=1.0):
        self.mm, self.overlap = np.array(mm), overlap

    def to_followup(self, points_mm):
        return np.reshape(points_mm, (-1, 3)) + self.mm

    def to_baseline(self, points_mm):
        return np.reshape(points_mm, (-1, 3)) - self.mm


def segment_followups(case, model, budget=None):
    return list(LongitudinalSession(model, case).segment(budget=budget).masks.values())


class TestFind:
    def test_points_say_which_lesions_are_there(self):
        found = find_lesions(followup(points={2: (5.0, 6.0, 7.0)}), [(baseline(BOX, OTHER), Shift())])
        assert [(one.number, one.clicked, one.new) for one in found] == [(2, True, False)]
        assert found[0].place_mm == pytest.approx(GRID.to_physical((5, 6, 7))[0])
        assert found[0].baseline_mm == pytest.approx(GRID.to_physical(centre(OTHER))[0])

    def test_without_points_the_registration_tells_where_to_look(self):
        found = find_lesions(followup(), [(baseline(BOX, OTHER), Shift((4.0, -2.0, 3.0)))])
        assert [(one.number, one.clicked) for one in found] == [(1, False), (2, False)]
        x, y, z = centre(BOX)
        assert found[0].place_mm == pytest.approx(GRID.to_physical((x + 2, y - 1, z + 1))[0])

    def test_a_baseline_of_another_part_of_the_body_shows_nothing_of_a_new_lesion(self):
        (found,) = find_lesions(followup(points={7: (20.0, 20.0, 10.0)}), [(baseline(BOX), Shift(overlap=0.1))])
        assert found.baseline is None

    def test_a_number_that_the_baseline_does_not_know_is_new(self):
        source = baseline(BOX)
        (found,) = find_lesions(followup(points={7: (20.0, 20.0, 10.0)}), [(source, Shift((6.0, 0.0, 0.0)))])
        assert found.new
        assert found.baseline is source
        assert found.baseline_mm == pytest.approx(GRID.to_physical((17, 20, 10))[0])

    def test_a_new_lesion_beyond_the_baseline_has_none(self):
        (found,) = find_lesions(followup(points={7: (20.0, 20.0, 10.0)}), [(baseline(BOX), Shift((500.0, 0, 0)))])
        assert found.baseline is None

    # BOX is centred on level 9.5, and the last level, 19, is 28.5 mm further up
    @pytest.mark.parametrize(("up_mm", "looked_for"), [(28.0, True), (43.0, True), (44.0, False), (300.0, False)])
    def test_lesions_expected_out_of_reach_of_the_image_are_left_out(self, caplog, up_mm, looked_for):
        caplog.set_level(logging.INFO)
        found = find_lesions(followup(), [(baseline(BOX), Shift((0.0, 0.0, up_mm)))])
        assert [one.number for one in found] == ([1] if looked_for else [])
        assert ("lesion 1 is expected" in caplog.text) != looked_for

    def test_another_part_of_the_body_gives_no_place_to_look(self, caplog):
        assert find_lesions(followup(), [(baseline(BOX), Shift(overlap=0.1))]) == []
        assert "another part of the body" in caplog.text

    def test_a_number_in_two_baselines_is_the_better_ones(self):
        better, other = baseline(BOX), baseline(OTHER, region="secondary")
        (found,) = find_lesions(followup(), [(better, Shift()), (other, Shift())])
        assert found.baseline is better


class TestSegment:
    def test_a_clicked_lesion_is_its_component(self):
        mask = segment_lesions(followup(BOX, OTHER), [lesion(3, centre(BOX))], BrightIsLesion())
        assert mask.array.dtype == np.uint8
        assert np.array_equal(mask.array == 3, image(BOX).array > TISSUE)

    def test_the_nearest_component_counts_where_the_point_hits_none(self):
        beside = (7.5, 13.5, 9.5)  # 5 mm from the box
        mask = segment_lesions(followup(BOX, OTHER), [lesion(1, beside)], BrightIsLesion())
        assert labels(mask) == {1: 64}

    def test_a_component_out_of_reach_is_another_lesion(self):
        far = (10.0, 4.0, 8.0)  # 16 mm from the box
        assert labels(segment_lesions(followup(BOX), [lesion(1, far, clicked=False)], BrightIsLesion())) == {}

    @pytest.mark.parametrize(("z", "found"), [(15.9, {1: 64}), (16.6, {})])
    def test_a_component_begins_within_reach_or_is_another_lesion(self, z, found):
        """14.8 and 16.9 mm from the box, in a patch that holds it."""
        model = BrightIsLesion(patch_size=(24, 24, 24))
        assert labels(segment_lesions(followup(BOX), [lesion(1, (11.5, 13.5, z), clicked=False)], model)) == found

    def test_a_lesion_that_is_looked_for_needs_to_be_sure(self):
        at = centre(BOX)
        unsure, sure = BrightIsLesion(sure=2.5), BrightIsLesion(sure=3.5)  # probabilities 0.92 and 0.97
        assert labels(segment_lesions(followup(BOX), [lesion(1, at, clicked=False)], unsure)) == {}
        assert labels(segment_lesions(followup(BOX), [lesion(1, at, clicked=False)], sure)) == {1: 64}
        assert labels(segment_lesions(followup(BOX), [lesion(1, at)], unsure)) == {1: 64}

    def test_a_clicked_lesion_is_never_empty(self):
        doubtful = BrightIsLesion(sure=-1.0)
        mask = segment_lesions(followup(BOX), [lesion(1, centre(BOX))], doubtful)
        found = labels(mask)[1]
        assert 20 <= found <= 64
        assert (image(BOX).array[mask.array == 1] > TISSUE).all()
        assert labels(segment_lesions(followup(BOX), [lesion(1, centre(BOX), clicked=False)], doubtful)) == {}

    def test_merged_lesions_share_the_component_by_their_points(self):
        mask = segment_lesions(
            followup(((10, 12, 8), 6)), [known(1, (10.0, 14.5, 10.5)), known(2, (15.0, 14.5, 10.5))], BrightIsLesion()
        )
        assert labels(mask) == {1: 108, 2: 108}
        assert set(np.argwhere(mask.array == 1)[:, 2]) == {10, 11, 12}

    def test_the_order_of_lesions_makes_no_difference(self):
        lesions = [lesion(1, (10.0, 14.5, 10.5)), lesion(2, (14.0, 14.0, 10.0)), lesion(5, centre(OTHER))]
        scan = followup(((10, 12, 8), 6), OTHER)
        a, b = (segment_lesions(scan, order, BrightIsLesion()).array for order in (lesions, lesions[::-1]))
        assert np.array_equal(a, b)

    def test_the_surer_lesion_takes_the_voxel(self):
        class Biased(BrightIsLesion):
            def predict_lesion_logits(self, patches, plan):
                self.sure = 3.0 if len(self.seen) == 0 else 1.0
                return super().predict_lesion_logits(patches, plan)

        lesions = [known(1, (10.5, 14.5, 10.5)), known(2, (14.5, 14.5, 10.5))]
        # the other was clicked, and keeps the voxel of its click
        assert labels(segment_lesions(followup(((10, 12, 8), 6)), lesions, Biased())) == {1: 215, 2: 1}

    @pytest.mark.parametrize("axis", [0, 1, 2])
    def test_the_direction_of_the_image_makes_no_difference(self, axis):
        straight = segment_lesions(followup(BOX, OTHER), [lesion(1, (9.0, 13.0, 9.0))], BrightIsLesion()).array
        far = [0, 0, 0]
        far[axis] = GRID.size_xyz[axis] - 1
        signs = [-1.0 if n == axis else 1.0 for n in range(3)]
        grid = Grid(GRID.size_xyz, GRID.spacing_xyz, tuple(GRID.to_physical(far)[0]), tuple(np.diag(signs).ravel()))
        stored = Volume(np.ascontiguousarray(np.flip(image(BOX, OTHER).array, 2 - axis)), grid)
        place = Lesion(1, GRID.to_physical((9, 13, 9))[0], True, None, None, new=True)
        mask = segment_lesions(Followup("primary", stored, {}), [place], BrightIsLesion())
        assert np.array_equal(np.flip(mask.array, 2 - axis), straight)
        assert straight.any()

    @pytest.mark.parametrize(("number", "kind"), [(255, np.uint8), (256, np.uint16), (40_000, np.uint16)])
    def test_large_numbers_need_two_bytes(self, number, kind):
        mask = segment_lesions(followup(BOX), [lesion(number, centre(BOX))], BrightIsLesion())
        assert mask.array.dtype == kind
        assert labels(mask) == {number: 64}

    def test_lesions_that_there_is_no_time_for_get_their_clicked_voxel(self, caplog):
        class TenSecondsEach(BrightIsLesion):
            seconds = 0.0

            def predict_lesion_logits(self, patches, plan):
                self.seconds += 10
                return super().predict_lesion_logits(patches, plan)

        model = TenSecondsEach()
        third = ((10, 25, 12), 4)
        lesions = [known(3, centre(BOX)), known(1, centre(OTHER)), known(2, centre(third))]
        lesions.append(known(4, centre(third), clicked=False))
        budget = Budget(25.0, lambda: model.seconds)
        mask = segment_lesions(followup(BOX, OTHER, third), lesions, model, budget)
        assert labels(mask) == {1: 64, 2: 1, 3: 64}
        assert "no time to look at the lesions [2, 4]" in caplog.text

    def test_lesions_that_are_looked_at_together_get_what_they_get_one_by_one(self):
        large = ((2, 2, 1), 14)  # reaches the border of its patch, and is looked at again in a larger one
        third = ((26, 25, 12), 4)
        lesions = [lesion(n, centre(box)) for n, box in enumerate((large, OTHER, third), start=1)]
        one_by_one, together = BrightIsLesion(), BrightIsLesion(at_once=2)
        masks = [segment_lesions(followup(large, OTHER, third), lesions, model) for model in (one_by_one, together)]
        assert len(labels(masks[0])) == 3
        assert np.array_equal(*(mask.array for mask in masks))
        assert one_by_one.together == [1] * len(one_by_one.seen)
        assert together.together[0] == 2  # the first two
        assert together.together[-1] == 1  # the third
        assert sum(together.together) == sum(one_by_one.together) > 3

    def test_lesions_clicked_at_one_place_get_a_voxel_each(self):
        same = [known(n, centre(BOX)) for n in (1, 2, 3)]
        found = labels(segment_lesions(followup(BOX), same, BrightIsLesion()))
        assert found == {1: 62, 2: 1, 3: 1}

    def test_in_a_crowd_each_clicked_lesion_has_a_voxel(self):
        """200 of them at one place, more than there are voxels near it."""
        crowd = [known(n, (1, 1, 1)) for n in range(1, 201)]
        found = labels(segment_lesions(followup(BOX), crowd, BrightIsLesion(), Budget(-1, lambda: 0.0)))
        assert found == dict.fromkeys(range(1, 201), 1)

    def test_without_time_lesions_clicked_at_one_place_get_a_voxel_each(self):
        mask = segment_lesions(
            followup(BOX), [known(n, (10, 12, 8)) for n in (1, 2)], BrightIsLesion(), Budget(-1, lambda: 0.0)
        )
        assert labels(mask) == {1: 1, 2: 1}
        assert mask.array[8, 12, 10] == 1
        assert mask.array[8, 11, 10] == 2  # 2 mm away, and the next slice is 3 mm away

    def test_no_lesion_gives_an_empty_mask(self):
        model = BrightIsLesion()
        mask = segment_lesions(followup(BOX), [], model)
        assert not mask.array.any()
        assert mask.grid == GRID
        assert model.seen == []

    def test_the_network_sees_baseline_and_followup_aligned_by_their_points(self):
        model = BrightIsLesion()
        moved = ((14, 15, 9), 4)
        source = baseline(BOX)
        place = Lesion(1, GRID.to_physical(centre(moved))[0], True, source, GRID.to_physical(centre(BOX))[0], new=False)
        segment_lesions(followup(moved), [place], model)
        after, before, mask, _, _ = model.seen[0]
        assert np.array_equal(after, before)
        assert np.array_equal(mask > 0, before > (TISSUE + BRIGHT) / 2)


class TestCase:
    def test_all_of_a_case(self, monkeypatch):
        monkeypatch.setattr(longitudinal, "register", lambda *_: Shift())
        case = LongitudinalCase((baseline(BOX, OTHER),), (followup(BOX, OTHER),))
        (mask,) = segment_followups(case, BrightIsLesion())
        assert labels(mask) == {1: 64, 2: 64}

    def test_each_followup_takes_the_baseline_that_it_overlaps_most(self, monkeypatch, caplog):
        caplog.set_level(logging.INFO)
        legs, chest = baseline(BOX), baseline(OTHER, region="secondary", first=2)
        first, second = followup(BOX, OTHER), followup(BOX, OTHER, region="secondary")
        overlaps = {(0, 0): 0.2, (1, 0): 0.9, (0, 1): 0.8, (1, 1): 0.1}

        def register(before, after, _budget):
            return Shift(overlap=overlaps[before is chest.ct, after is second.ct])

        monkeypatch.setattr(longitudinal, "register", register)
        masks = segment_followups(LongitudinalCase((legs, chest), (first, second)), BrightIsLesion())
        assert [labels(mask) for mask in masks] == [{2: 64}, {1: 64}]
        assert "belongs to the secondary baseline, overlap 0.90" in caplog.text

    def test_a_baseline_that_overlaps_nothing_is_its_own_regions(self, monkeypatch):
        """As after a registration that failed: its numbers are not those of the other region."""
        other = baseline(BOX, region="secondary")
        first, second = followup(BOX, OTHER), followup(BOX, region="secondary", points={1: centre(BOX)})
        case = LongitudinalCase((baseline(BOX, OTHER), other), (first, second))

        def register(before, after, _budget):
            return Shift(overlap=0.9 if before is case.baselines[0].ct and after is first.ct else 0.0)

        monkeypatch.setattr(longitudinal, "register", register)
        rows = longitudinal.align(case, Budget())
        assert [[one.region for one, _ in row] for row in rows] == [["primary"], ["secondary"]]

    def test_the_better_baseline_comes_first(self, monkeypatch):
        worse, better = baseline(BOX), baseline(OTHER, region="secondary")
        monkeypatch.setattr(longitudinal, "register", lambda one, *_: Shift(overlap=0.9 if one is better.ct else 0.5))
        ((first, second),) = longitudinal.align(LongitudinalCase((worse, better), (followup(BOX, OTHER),)), Budget())
        assert (first[0].region, second[0].region) == ("secondary", "primary")

    def test_points_of_one_followup_say_that_all_of_another_have_vanished(self, monkeypatch):
        monkeypatch.setattr(longitudinal, "register", lambda *_: Shift(overlap=0.9))
        first, second = followup(BOX, points={1: centre(BOX)}), followup(BOX, OTHER, region="secondary")
        case = LongitudinalCase((baseline(BOX), baseline(BOX, OTHER, region="secondary")), (first, second))
        assert [labels(mask) for mask in segment_followups(case, BrightIsLesion())] == [{1: 64}, {}]

    def test_all_followups_are_looked_at_before_any_is_looked_at_closely(self, monkeypatch):
        class SecondEach(BrightIsLesion):
            seconds = 0.0

            def predict_lesion_logits(self, patches, plan):
                self.seconds += plan.passes
                return super().predict_lesion_logits(patches, plan)

        monkeypatch.setattr(longitudinal, "register", lambda *_: Shift(overlap=0.9))
        model = SecondEach(mirror_axes=(0, 1, 2))
        case = LongitudinalCase(
            (baseline(BOX, OTHER),), (followup(BOX, OTHER), followup(BOX, OTHER, region="secondary"))
        )
        masks = segment_followups(case, model, Budget(13.5, lambda: model.seconds))
        assert [labels(mask) for mask in masks] == [{1: 64, 2: 64}, {1: 64, 2: 64}]
        assert [plan.passes for plan in model.plans] == [1, 1, 1, 1, 8]

    def test_registration_leaves_the_lesions_their_share_of_the_time(self, monkeypatch):
        times = []

        def register(_before, _after, budget):
            times.append(budget.left_s)
            return Shift()

        monkeypatch.setattr(longitudinal, "register", register)
        case = LongitudinalCase((baseline(BOX), baseline(OTHER, region="secondary")), (followup(BOX),))
        segment_followups(case, BrightIsLesion(), Budget(101.0, lambda: 0.0))
        assert times == pytest.approx([30.0, 30.0], abs=0.1)  # 60 % of 100 s, for two pairs

    def test_two_baselines_share_one_followup_and_one_baseline_serves_two(self, monkeypatch):
        monkeypatch.setattr(longitudinal, "register", lambda *_: Shift(overlap=0.9))
        legs, chest = baseline(BOX), baseline(OTHER, region="secondary", first=2)
        (mask,) = segment_followups(LongitudinalCase((legs, chest), (followup(BOX, OTHER),)), BrightIsLesion())
        assert labels(mask) == {1: 64, 2: 64}
        overlap = iter([0.9, 0.6])
        monkeypatch.setattr(longitudinal, "register", lambda *_: Shift(overlap=next(overlap)))
        case = LongitudinalCase((legs,), (followup(BOX), followup(BOX, region="secondary")))
        assert [labels(mask) for mask in segment_followups(case, BrightIsLesion())] == [{1: 64}, {1: 64}]

    def test_no_overlap_is_told_and_points_still_count(self, monkeypatch, caplog):
        monkeypatch.setattr(longitudinal, "register", lambda *_: Shift(overlap=0.1))
        case = LongitudinalCase((baseline(BOX),), (followup(OTHER, points={1: centre(OTHER)}),))
        (mask,) = segment_followups(case, BrightIsLesion())
        assert labels(mask) == {1: 64}
        assert "expected the same part of the body, found an overlap of 0.10" in caplog.text


class TestSession:
    CASE = LongitudinalCase((baseline(BOX, OTHER),), (followup(BOX, OTHER),))

    @pytest.fixture
    def registrations(self, monkeypatch):
        """Every registration that is made; those are complete while the list says so."""
        made = []

        def register(*_):
            made.append(Shift())
            made[-1].complete = len(made) > 1
            return made[-1]

        monkeypatch.setattr(longitudinal, "register", register)
        return made

    def test_scans_are_registered_again_only_where_the_time_was_short(self, registrations):
        session = LongitudinalSession(BrightIsLesion(), self.CASE)
        masks = [session.segment().masks["primary"].array for _ in range(3)]
        assert len(registrations) == 2
        assert np.array_equal(masks[0], masks[2])

    @pytest.mark.usefixtures("registrations")
    def test_points_are_added_moved_and_taken_back(self):
        session = LongitudinalSession(BrightIsLesion(), self.CASE)
        assert labels(session.segment().masks["primary"]) == {1: 64, 2: 64}
        session.add("primary", 2, centre(OTHER))
        assert labels(session.segment().masks["primary"]) == {2: 64}
        session.add("primary", 9, centre(BOX))
        session.add("primary", 2, centre(BOX))
        assert session.points["primary"] == {2: centre(BOX), 9: centre(BOX)}
        session.undo()
        result = session.segment()
        assert labels(result.masks["primary"]) == {2: 64, 9: 64}
        assert [(one.lesion.number, one.lesion.new) for one in result.followups["primary"].lesions] == [
            (2, False),
            (9, True),
        ]
        session.reset()
        session.undo()
        assert session.points["primary"] == {}

    @pytest.mark.usefixtures("registrations")
    def test_given_points_count_alone(self):
        session = LongitudinalSession(BrightIsLesion(), self.CASE)
        session.add("primary", 1, centre(BOX))
        assert labels(session.segment({"primary": {2: centre(OTHER)}}).masks["primary"]) == {2: 64}

    @pytest.mark.parametrize(
        ("region", "number"), [("secondary", 1), ("primary", 0), ("primary", 65536), ("primary", 1.5)]
    )
    def test_other_regions_and_numbers_are_refused(self, region, number):
        with pytest.raises(ValueError, match="expected a region"):
            LongitudinalSession(BrightIsLesion(), self.CASE).add(region, number, (1, 2, 3))

    @pytest.mark.parametrize("point", [(40, 0, 0), (0, -1, 0), (1, 2, math.nan), (1e300, 0, 0)])
    def test_a_point_outside_the_image_is_refused(self, point):
        session = LongitudinalSession(BrightIsLesion(), self.CASE)
        with pytest.raises(ValueError, match="expected a point in the image"):
            session.add("primary", 1, point)
        assert session.points["primary"] == {}
