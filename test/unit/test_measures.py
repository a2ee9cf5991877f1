import json
import math

import numpy as np
import pytest

from lesionclick.evaluation.measures import (
    OVERALL,
    Scores,
    SurfaceDistances,
    aggregate,
    areas,
    dice,
    false_negative_volume_ml,
    false_positive_volume_ml,
    score,
    surface_distances,
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


def approx(scores: Scores):
    return pytest.approx((scores.dsc, scores.fpv_ml, scores.fnv_ml), rel=1e-6, nan_ok=True)


def values(scores: Scores):
    return (scores.dsc, scores.fpv_ml, scores.fnv_ml)


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
    ours = score(arrays["label"].T, arrays["prediction"].T, voxel_ml)
    wanted = [math.nan if expected[key] is None else expected[key] for key in ("dsc", "fpv_ml", "fnv_ml")]
    assert values(ours) == pytest.approx(wanted, rel=1e-6, nan_ok=True)


def test_golden_areas(golden_case):
    arrays, voxel_ml, expected = golden_case("eleven_steps")
    steps = [score(arrays["label"].T, prediction.T, voxel_ml) for prediction in arrays["predictions"]]
    for key in ("dsc", "fpv_ml", "fnv_ml"):
        assert [getattr(step, key) for step in steps] == pytest.approx(expected[key], rel=1e-6)
    wanted = (expected["auc_dsc"], expected["auc_fpv"], expected["auc_fnv"])
    assert values(areas(steps)) == pytest.approx(wanted, rel=1e-6)


class TestHandWorked:
    # Label: 2x2x2 and 1x1x3 voxels; prediction: half of the first, and two lesions of 4 and 1 voxels elsewhere.
    label = boxes(((1, 1, 1), (2, 2, 2)), ((8, 8, 1), (1, 1, 3)))
    prediction = boxes(((1, 1, 1), (1, 2, 2)), ((8, 1, 8), (1, 2, 2)), ((1, 8, 8), (1, 1, 1)))

    def test_scores(self):
        # Dice 2 * 4 / (11 + 9); 5 predicted voxels touch no label; 3 label voxels are missed; 0.5 ml per voxel.
        assert values(score(self.label, self.prediction, 0.5)) == pytest.approx((0.4, 2.5, 1.5))

    def test_any_value_but_zero_is_lesion(self):
        expected = values(score(self.label, self.prediction, 0.5))
        assert values(score(self.label * 2, self.prediction * 7, 0.5)) == expected
        assert values(score(self.label * 0.25, self.prediction * -1.0, 0.5)) == expected

    def test_two_labelled_neighbours_are_one_component(self):
        label = np.zeros((3, 3, 4), dtype=np.uint8)
        label[1, 1] = [1, 1, 2, 2]
        prediction = label == 1
        assert false_negative_volume_ml(label, prediction, 1.0) == 0

    @pytest.mark.parametrize(("step", "missed"), [((0, 0, 1), 0), ((0, 1, 1), 0), ((1, 1, 1), 1)])
    def test_components_hang_together_by_faces_and_edges_but_not_by_corners(self, step, missed):
        label = np.zeros((4, 4, 4), dtype=bool)
        label[1, 1, 1] = label[tuple(1 + s for s in step)] = True
        prediction = np.zeros_like(label)
        prediction[1, 1, 1] = True
        assert false_negative_volume_ml(label, prediction, 1.0) == missed
        assert false_positive_volume_ml(prediction, label, 1.0) == missed

    def test_one_shared_voxel_spares_the_whole_component(self):
        label, prediction = boxes(((1, 1, 1), (1, 1, 6))), boxes(((1, 1, 6), (5, 5, 1)))
        assert values(score(label, prediction, 1.0)) == pytest.approx((2 / 31, 0, 0))


class TestEmptyMasks:
    full, empty = boxes(((2, 2, 2), (2, 2, 2))), boxes()

    def test_empty_label_leaves_only_false_positives(self):
        assert values(score(self.empty, self.full, 0.5)) == pytest.approx((math.nan, 4, math.nan), nan_ok=True)

    def test_both_empty(self):
        assert values(score(self.empty, self.empty, 0.5)) == pytest.approx((math.nan, 0, math.nan), nan_ok=True)

    def test_empty_prediction_misses_everything(self):
        assert values(score(self.full, self.empty, 0.5)) == (0, 0, 4)


@pytest.mark.parametrize("seed", range(5))
class TestInvariants:
    @pytest.fixture
    def masks(self, seed):
        rng = np.random.default_rng(seed)
        return rng.random((9, 10, 11)) < 0.04, rng.random((9, 10, 11)) < 0.06

    def test_mirror_and_axis_order(self, masks):
        # Both change the order in which components are numbered.
        label, prediction = masks
        expected = approx(score(label, prediction, 0.3))
        for axis in range(3):
            assert values(score(np.flip(label, axis), np.flip(prediction, axis), 0.3)) == expected
        assert values(score(label.transpose(2, 0, 1), prediction.transpose(2, 0, 1), 0.3)) == expected

    def test_shift_in_a_larger_image(self, masks):
        shifted = [np.pad(mask, ((3, 1), (0, 4), (2, 2))) for mask in masks]
        assert values(score(*shifted, 0.3)) == approx(score(*masks, 0.3))

    def test_exchanging_lesions(self, masks):
        # Halves kept apart by an empty plane hold whole components, so their places may be exchanged.
        left, right = ([np.pad(half, ((0, 1), (0, 0), (0, 0))) for half in (m[:4], m[5:])] for m in masks)
        one = [np.concatenate(pair) for pair in (left, right)]
        other = [np.concatenate(pair[::-1]) for pair in (left, right)]
        assert values(score(*one, 0.3)) == approx(score(*other, 0.3))

    def test_exchanging_the_masks_exchanges_the_errors(self, masks):
        label, prediction = masks
        one, other = score(label, prediction, 0.3), score(prediction, label, 0.3)
        assert values(one) == pytest.approx((other.dsc, other.fnv_ml, other.fpv_ml))


@pytest.mark.parametrize(
    "metric",
    [
        dice,
        lambda a, b: false_positive_volume_ml(a, b, 1.0),
        lambda a, b: false_negative_volume_ml(a, b, 1.0),
        lambda a, b: score(a, b, 1.0),
        lambda a, b: surface_distances(a, b, (1, 1, 1)),
    ],
)
def test_masks_of_different_shapes_are_refused(metric):
    with pytest.raises(ValueError, match=r"\(2, 2, 2\) and \(2, 2, 3\)"):
        metric(np.ones((2, 2, 2)), np.ones((2, 2, 3)))


class TestAreas:
    def test_trapezoids(self):
        # 0..10 in eleven steps: 50; a constant 0.5: 5; a single 4 at the last step: half of it.
        steps = [Scores(0.5, float(k), 4.0 * (k == 10)) for k in range(11)]
        assert values(areas(steps)) == pytest.approx((5, 50, 2))

    def test_nan_stays_nan(self):
        area = areas([Scores(math.nan, 2.0, math.nan)] * 11)
        assert values(area) == pytest.approx((math.nan, 20, math.nan), nan_ok=True)

    def test_one_step_has_no_area(self):
        with pytest.raises(ValueError, match="found 1"):
            areas([Scores(1, 0, 0)])


class TestAggregate:
    def test_means_by_tracer_and_overall(self):
        scores = [Scores(0.2, 1, 2), Scores(0.6, 3, 0), Scores(math.nan, 8, math.nan)]
        means = aggregate(scores, ["psma", "fdg", "psma"])
        assert list(means) == ["fdg", "psma", OVERALL]
        assert values(means["fdg"]) == pytest.approx((0.6, 3, 0))
        assert values(means["psma"]) == pytest.approx((0.2, 4.5, 2))
        assert values(means[OVERALL]) == pytest.approx((0.4, 4, 1))

    def test_nothing_known_is_nan(self):
        means = aggregate([Scores(math.nan, 1, math.nan)], ["fdg"])
        assert values(means[OVERALL]) == pytest.approx((math.nan, 1, math.nan), nan_ok=True)
        assert all(math.isnan(value) for value in values(aggregate([], [])[OVERALL]))

    def test_a_tracer_for_every_case(self):
        with pytest.raises(ValueError, match="argument 2"):
            aggregate([Scores(1, 0, 0)] * 2, ["fdg"])


class TestSurfaceDistances:
    plate = ((2, 2, 2), (1, 5, 5))

    def test_parallel_plates(self):
        # Plates of one voxel, three slices of 2 mm apart: every distance is 6 mm.
        one, other = boxes(self.plate), boxes(((5, 2, 2), (1, 5, 5)))
        assert surface_distances(one, other, (2.0, 1.0, 1.0)) == SurfaceDistances(6.0, 6.0)

    def test_directed_means_and_percentiles(self):
        # 24 of the 25 voxels of the larger mask are shared, one lies 3 slices of 2 mm off: 4 % of the distances.
        plate = boxes(self.plate)
        plate[2, 2, 2] = False
        both = plate.copy()
        both[5, 3, 3] = True
        distances = surface_distances(plate, both, (2.0, 1.0, 1.0))
        assert distances.hausdorff95_mm == 0
        assert distances.mean_mm == pytest.approx(6 / 25)

    def test_surroundings_do_not_matter(self):
        one, other = boxes(self.plate), boxes(((3, 3, 3), (4, 4, 4)))
        padded = [np.pad(mask, 3) for mask in (one, other)]
        assert surface_distances(*padded, (3.0, 2.0, 2.0)) == surface_distances(one, other, (3.0, 2.0, 2.0))

    @pytest.mark.parametrize("masks", [(boxes(), boxes(plate)), (boxes(plate), boxes()), (boxes(), boxes())])
    def test_empty_mask_has_no_surface(self, masks):
        distances = surface_distances(*masks, (1.0, 1.0, 1.0))
        assert math.isnan(distances.hausdorff95_mm)
        assert math.isnan(distances.mean_mm)
