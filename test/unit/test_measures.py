import json
import math

import numpy as np
import pytest

from lesionclick.evaluation.measures import (
    CHALLENGE,
    DASH,
    LESIONS,
    MEASURES,
    SCRIBBLES,
    SURFACES,
    MaskPair,
    Measure,
    Scores,
    Tolerance,
    areas,
    dice,
    mean,
    score,
)

GOLDEN_CASES = [
    "both_empty",
    "corner_touch",
    "corner_touch_swapped",
    "edge_touch",
    "edge_touch_swapped",
    "empty_label",
    "empty_prediction",
    "eroded",
    "extra_far",
    "identical",
    "missed_components",
    "random",
    "shift",
]


def boxes(*corners, shape=(12, 12, 12)):
    """A mask with a box for every pair of (first voxel, size)."""
    mask = np.zeros(shape, dtype=bool)
    for start, size in corners:
        mask[tuple(slice(a, a + n) for a, n in zip(start, size, strict=True))] = True
    return mask


def spacing(voxel_ml: float) -> tuple[float, float, float]:
    return (1000 * voxel_ml, 1.0, 1.0)


def values(label, prediction, voxel_ml):
    """DSC, FPV and FNV of one mask."""
    return tuple(score(CHALLENGE, [MaskPair(label, prediction, spacing(voxel_ml))]).values())


def make_scores(dsc, fpv_ml, fnv_ml):
    return Scores({"dsc": dsc, "fpv_ml": fpv_ml, "fnv_ml": fnv_ml})


def approx(expected):
    return pytest.approx(expected, rel=1e-6, nan_ok=True)


@pytest.fixture(scope="module")
def golden_case(golden):
    folder = golden / "metrics"
    expected = json.loads((folder / "expected.json").read_text())

    def load(name):
        with np.load(folder / f"{name}.npz") as arrays:
            arrays = dict(arrays)
        return arrays, float(np.prod(arrays["spacing_xyz_mm"])) / 1000, expected[name]

    return load


@pytest.mark.parametrize("name", GOLDEN_CASES)
def test_golden_scores(golden_case, name):
    arrays, voxel_ml, expected = golden_case(name)
    ours = values(arrays["label"].T, arrays["prediction"].T, voxel_ml)
    wanted = [math.nan if expected[key] is None else expected[key] for key in ("dsc", "fpv_ml", "fnv_ml")]
    assert ours == approx(wanted)


def test_golden_areas(golden_case):
    arrays, voxel_ml, expected = golden_case("eleven_steps")
    pairs = [MaskPair(arrays["label"].T, prediction.T, spacing(voxel_ml)) for prediction in arrays["predictions"]]
    steps = [score(CHALLENGE, [pair]) for pair in pairs]
    for key in ("dsc", "fpv_ml", "fnv_ml"):
        assert [step[key] for step in steps] == approx(expected[key])
    wanted = (expected["auc_dsc"], expected["auc_fpv"], expected["auc_fnv"])
    assert tuple(areas(steps).values()) == approx(wanted)


class TestHandWorked:
    # Label: 2x2x2 and 1x1x3 voxels; prediction: half of the first, and two lesions of 4 and 1 voxels elsewhere.
    label = boxes(((1, 1, 1), (2, 2, 2)), ((8, 8, 1), (1, 1, 3)))
    prediction = boxes(((1, 1, 1), (1, 2, 2)), ((8, 1, 8), (1, 2, 2)), ((1, 8, 8), (1, 1, 1)))

    def test_scores(self):
        # Dice 2 * 4 / (11 + 9); 5 predicted voxels touch no label; 3 label voxels are missed; 0.5 ml per voxel.
        assert values(self.label, self.prediction, 0.5) == pytest.approx((0.4, 2.5, 1.5))

    def test_any_value_but_zero_is_lesion(self):
        expected = values(self.label, self.prediction, 0.5)
        assert values(self.label * 2, self.prediction * 7, 0.5) == expected
        assert values(self.label * 0.25, self.prediction * -1.0, 0.5) == expected

    def test_two_labelled_neighbours_are_one_component(self):
        label = np.zeros((3, 3, 4), dtype=np.uint8)
        label[1, 1] = [1, 1, 2, 2]
        prediction = label == 1
        assert values(label, prediction, 1.0)[2] == 0

    @pytest.mark.parametrize(("step", "missed"), [((0, 0, 1), 0), ((0, 1, 1), 0), ((1, 1, 1), 1)])
    def test_components_hang_together_by_faces_and_edges_but_not_by_corners(self, step, missed):
        label = np.zeros((4, 4, 4), dtype=bool)
        label[1, 1, 1] = label[tuple(1 + s for s in step)] = True
        prediction = np.zeros_like(label)
        prediction[1, 1, 1] = True
        assert values(label, prediction, 1.0)[2] == missed
        assert values(prediction, label, 1.0)[1] == missed

    def test_one_shared_voxel_spares_the_whole_component(self):
        label, prediction = boxes(((1, 1, 1), (1, 1, 6))), boxes(((1, 1, 6), (5, 5, 1)))
        assert values(label, prediction, 1.0) == pytest.approx((2 / 31, 0, 0))


class TestEmptyMasks:
    full, empty = boxes(((2, 2, 2), (2, 2, 2))), boxes()

    def test_empty_label_leaves_only_false_positives(self):
        assert values(self.empty, self.full, 0.5) == pytest.approx((math.nan, 4, math.nan), nan_ok=True)

    def test_both_empty(self):
        assert values(self.empty, self.empty, 0.5) == pytest.approx((math.nan, 0, math.nan), nan_ok=True)

    def test_empty_prediction_misses_everything(self):
        assert values(self.full, self.empty, 0.5) == (0, 0, 4)


@pytest.mark.parametrize("seed", range(5))
class TestInvariants:
    @pytest.fixture
    def masks(self, seed):
        rng = np.random.default_rng(seed)
        return rng.random((9, 10, 11)) < 0.04, rng.random((9, 10, 11)) < 0.06

    def test_mirror_and_axis_order(self, masks):
        # Both change the order in which components are numbered.
        label, prediction = masks
        expected = approx(values(label, prediction, 0.3))
        for axis in range(3):
            assert values(np.flip(label, axis), np.flip(prediction, axis), 0.3) == expected
        assert values(label.transpose(2, 0, 1), prediction.transpose(2, 0, 1), 0.3) == expected

    def test_shift_in_a_larger_image(self, masks):
        shifted = [np.pad(mask, ((3, 1), (0, 4), (2, 2))) for mask in masks]
        assert values(*shifted, 0.3) == approx(values(*masks, 0.3))

    def test_exchanging_lesions(self, masks):
        # Halves kept apart by an empty plane hold whole components, so their places may be exchanged.
        left, right = ([np.pad(half, ((0, 1), (0, 0), (0, 0))) for half in (m[:4], m[5:])] for m in masks)
        one = [np.concatenate(pair) for pair in (left, right)]
        other = [np.concatenate(pair[::-1]) for pair in (left, right)]
        assert values(*one, 0.3) == approx(values(*other, 0.3))

    def test_exchanging_the_masks_exchanges_the_errors(self, masks):
        label, prediction = masks
        dsc, fpv, fnv = values(prediction, label, 0.3)
        assert values(label, prediction, 0.3) == pytest.approx((dsc, fnv, fpv))


def test_masks_of_different_shapes_are_refused():
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) and \(2, 2, 3\)"):
        MaskPair(np.ones((2, 2, 2)), np.ones((2, 2, 3)), (1, 1, 1))


class TestSeveralMasks:
    """The masks of a case count as one image."""

    one = MaskPair(TestHandWorked.label, TestHandWorked.prediction, spacing(0.5))
    missed = MaskPair(boxes(((1, 1, 1), (1, 1, 4))), boxes(), spacing(2.0))
    false = MaskPair(boxes(), boxes(((1, 1, 1), (1, 1, 4))), spacing(2.0))

    def test_volumes_add_up(self):
        # 4 of 11 and 9 voxels of 0.5 ml are shared; 4 voxels of 2 ml are missed, and as many are false.
        found = score(CHALLENGE, [self.one, self.missed, self.false])
        assert found["dsc"] == pytest.approx(2 * 2 / (5.5 + 4.5 + 8 + 8))
        assert found["fpv_ml"] == pytest.approx(2.5 + 8)
        assert found["fnv_ml"] == pytest.approx(1.5 + 8)

    def test_without_a_true_lesion_only_false_volume_is_defined(self):
        assert tuple(score(CHALLENGE, [self.false, self.false]).values()) == approx((math.nan, 16, math.nan))


class TestAreas:
    def test_trapezoids(self):
        # 0..10 in eleven steps: 50; a constant 0.5: 5; a single 4 at the last step: half of it.
        steps = [make_scores(0.5, float(k), 4.0 * (k == 10)) for k in range(11)]
        assert areas(steps) == {"dsc": 5, "fpv_ml": 50, "fnv_ml": 2}

    def test_nan_stays_nan(self):
        area = areas([make_scores(math.nan, 2.0, math.nan)] * 11)
        assert tuple(area.values()) == approx((math.nan, 20, math.nan))

    def test_one_step_has_no_area(self):
        with pytest.raises(ValueError, match="found 1"):
            areas([make_scores(1, 0, 0)])


class TestMean:
    def test_each_measure_over_the_cases_that_have_it(self):
        scores = [make_scores(0.2, 1, 2), make_scores(0.6, 3, 0), make_scores(math.nan, 8, math.nan)]
        assert tuple(mean(scores).values()) == approx((0.4, 4, 1))

    def test_nothing_known_is_nan(self):
        assert tuple(mean([make_scores(math.nan, 1, math.nan)]).values()) == approx((math.nan, 1, math.nan))
        assert mean([]) == {}


class TestTable:
    def test_keys_are_unique(self):
        assert len(MEASURES) == len(CHALLENGE) + len(SCRIBBLES) + len(LESIONS) + len(SURFACES)

    def test_a_further_row_is_all_that_a_further_score_takes(self):
        voxels = Measure(
            "voxels", "Found", "voxels", 1, None, lambda pairs: float(pairs[0].predicted_voxels.sum()), "how many"
        )
        pairs = [MaskPair(TestHandWorked.label, TestHandWorked.prediction, spacing(0.5))]
        scores = score((*CHALLENGE, voxels), pairs)
        assert list(scores) == ["dsc", "fpv_ml", "fnv_ml", "voxels"]
        assert scores["voxels"] == 9
        assert areas([scores, scores])["voxels"] == mean([scores])["voxels"] == 9
        assert (voxels.heading, voxels.text(9.0), voxels.text(math.nan)) == ("Found voxels", "9.0", DASH)

    @pytest.mark.parametrize(
        ("tolerance", "expected", "limit"),
        [(Tolerance(0.01), 5.0, 0.01), (Tolerance(0.3, 0.03), 1.0, 0.3), (Tolerance(0.3, 0.03), 100.0, 3.0)],
    )
    def test_the_larger_bound_counts(self, tolerance, expected, limit):
        for sign in (-1, 1):
            assert tolerance.allows(expected, expected + sign * limit)
            assert not tolerance.allows(expected, expected + sign * (limit + 0.0001))

    def test_scores_join_and_compare_by_value(self):
        one = make_scores(0.5, 1, 2) | Scores({"lesion_dsc": 0.25})
        assert one == Scores({"dsc": 0.5, "fpv_ml": 1, "fnv_ml": 2, "lesion_dsc": 0.25})
        assert one != make_scores(0.5, 1, 2)


def surface_distances(label, prediction, spacing_zyx):
    return score(SURFACES, MaskPair(label, prediction, spacing_zyx))


class TestSurfaceDistances:
    plate = ((2, 2, 2), (1, 5, 5))

    def test_parallel_plates(self):
        # Plates of one voxel, three slices of 2 mm apart: every distance is 6 mm.
        one, other = boxes(self.plate), boxes(((5, 2, 2), (1, 5, 5)))
        assert surface_distances(one, other, (2.0, 1.0, 1.0)) == {"hausdorff95_mm": 6.0, "mean_mm": 6.0}

    def test_directed_means_and_percentiles(self):
        # 24 of the 25 voxels of the larger mask are shared, one lies 3 slices of 2 mm off: 4 % of the distances.
        plate = boxes(self.plate)
        plate[2, 2, 2] = False
        both = plate.copy()
        both[5, 3, 3] = True
        distances = surface_distances(plate, both, (2.0, 1.0, 1.0))
        assert distances["hausdorff95_mm"] == 0
        assert distances["mean_mm"] == pytest.approx(6 / 25)

    def test_surroundings_do_not_matter(self):
        one, other = boxes(self.plate), boxes(((3, 3, 3), (4, 4, 4)))
        padded = [np.pad(mask, 3) for mask in (one, other)]
        assert surface_distances(*padded, (3.0, 2.0, 2.0)) == surface_distances(one, other, (3.0, 2.0, 2.0))

    @pytest.mark.parametrize("masks", [(boxes(), boxes(plate)), (boxes(plate), boxes()), (boxes(), boxes())])
    def test_empty_mask_has_no_surface(self, masks):
        distances = surface_distances(*masks, (1.0, 1.0, 1.0))
        assert math.isnan(distances["hausdorff95_mm"])
        assert math.isnan(distances["mean_mm"])


def test_dice_of_two_masks_weighs_their_volumes_and_not_their_voxels():
    full, empty = np.ones((1, 1, 4)), np.zeros((1, 1, 4))
    pairs = [MaskPair(full, full, (1.0, 1.0, 1.0)), MaskPair(full, empty, (3.0, 1.0, 1.0))]
    assert dice(pairs) == pytest.approx(2 * 4 / (8 + 12))


@pytest.mark.parametrize(
    ("label", "prediction", "dice", "dmm"),
    [
        ([], [], 1.0, math.nan),
        ([], [((0, 0, 0), (1, 1, 1))], 0.0, math.nan),
        ([((0, 0, 0), (1, 1, 1))], [], 0.0, 0.0),
        # 2 * 4 / (8 + 4) and one lesion found with an intersection over union of 4 / 8
        ([((0, 0, 0), (2, 2, 2))], [((0, 0, 0), (1, 2, 2))], 2 / 3, 1.0),
    ],
)
def test_a_case_without_lesions_has_a_dice_in_autopet_5_and_no_lesion_score(label, prediction, dice, dmm):
    pair = MaskPair(boxes(*label), boxes(*prediction), (1.0, 1.0, 1.0))
    assert dict(score(SCRIBBLES, [pair])) == pytest.approx({"dice": dice, "dmm": dmm}, nan_ok=True)


def test_a_perfect_run_of_autopet_5_has_areas_of_5():
    label = boxes(((0, 0, 0), (2, 2, 2)))
    perfect = score(SCRIBBLES, [MaskPair(label, label, (1.0, 1.0, 1.0))])
    missed = score(SCRIBBLES, [MaskPair(label, boxes(), (1.0, 1.0, 1.0))])
    assert areas([perfect] * 6) == {"dice": 5, "dmm": 5}
    assert areas([missed, *[perfect] * 5]) == {"dice": 4.5, "dmm": 4.5}
