import math

import numpy as np
import pytest

from lesionclick.evaluation.lesions import score_lesions, status, volumes_ml
from lesionclick.evaluation.measures import CHALLENGE, LESIONS, MaskPair, Scores, score

SPACING_ZYX = (5.0, 2.0, 1.0)
"""Voxels of 0.01 ml."""


def masks(dtype=np.uint16) -> tuple[np.ndarray, np.ndarray]:
    """Lesion 1 moved by one voxel along every axis, 2 missed, 300 under another number, 4 false, 5 truly gone."""
    label, found = (np.zeros((8, 9, 10), dtype=dtype) for _ in range(2))
    label[1:3, 1:3, 1:3] = 1
    found[2:4, 2:4, 2:4] = 1
    label[5, 5, 5] = 2
    label[6, 1, 1:5] = 300
    found[6, 1, 1:5] = 7
    found[7, 8, 8:10] = 4
    return label, found


def summarise(lesions) -> Scores:
    return score(LESIONS, tuple(lesions))


def test_scores_of_each_lesion():
    lesions = {lesion.number: lesion for lesion in score_lesions(*masks(), SPACING_ZYX, numbers=(1, 4, 5))}
    assert list(lesions) == [1, 2, 4, 5, 300]

    moved = lesions[1]  # 8 voxels each, one of them shared, 5 mm, 2 mm and 1 mm apart
    assert (moved.true_ml, moved.found_ml) == pytest.approx((0.08, 0.08))
    assert moved.dsc == pytest.approx(2 / 16)
    assert moved.detected
    assert moved.point_error_mm == pytest.approx(math.sqrt(30))
    assert moved.volume_error_percent == pytest.approx(0)

    for number, true_ml in ((2, 0.01), (300, 0.04)):
        missed = lesions[number]
        assert (missed.true_ml, missed.found_ml, missed.dsc) == pytest.approx((true_ml, 0, 0))
        assert not missed.detected
        assert math.isnan(missed.point_error_mm)
        assert missed.volume_error_percent == 100

    false, gone = lesions[4], lesions[5]
    assert (false.true_ml, false.found_ml, false.detected) == (0, 0.02, False)
    assert (gone.true_ml, gone.found_ml, gone.detected) == (0, 0, False)
    for lesion in (false, gone):
        assert math.isnan(lesion.dsc)
        assert math.isnan(lesion.point_error_mm)
        assert math.isnan(lesion.volume_error_percent)
    assert (false.reported_empty, gone.reported_empty) == (False, True)


def test_a_found_number_that_nobody_looks_for_is_no_lesion():
    assert [lesion.number for lesion in score_lesions(*masks(), SPACING_ZYX)] == [1, 2, 300]


def test_the_type_of_the_masks_does_not_matter():
    label, found = masks()
    assert score_lesions(label, found.astype(np.int64), SPACING_ZYX) == score_lesions(label, found, SPACING_ZYX)


def test_a_perfect_mask_has_perfect_scores():
    label, _ = masks()
    summary = summarise(score_lesions(label, label, SPACING_ZYX, numbers=(9,)))
    assert summary == {
        "lesion_dsc": 1,
        "detected_percent": 100,
        "vanished_empty_percent": 100,
        "point_error_mm": 0,
        "volume_error_percent": 0,
    }


def test_summary_counts_each_lesion_once():
    summary = summarise(score_lesions(*masks(), SPACING_ZYX, numbers=(4, 5)))
    assert summary["lesion_dsc"] == pytest.approx((2 / 16 + 0 + 0) / 3)
    assert summary["detected_percent"] == pytest.approx(100 / 3)
    assert summary["vanished_empty_percent"] == 50
    assert summary["point_error_mm"] == pytest.approx(math.sqrt(30))
    assert summary["volume_error_percent"] == pytest.approx(200 / 3)


def test_summary_of_nothing_is_undefined():
    values = summarise(()).values()
    assert len(values) == len(LESIONS)
    assert all(math.isnan(value) for value in values)


def test_too_large_and_too_small_do_not_cancel():
    label, found = (np.zeros((1, 2, 20), dtype=np.uint8) for _ in range(2))
    label[0, 0, :10], found[0, 0, :5] = 1, 1
    label[0, 1, :10], found[0, 1, :20] = 2, 2
    summary = summarise(score_lesions(label, found, SPACING_ZYX))
    assert summary["volume_error_percent"] == pytest.approx((50 + 100) / 2)


def test_masks_of_different_shapes_are_refused():
    label, found = masks()
    with pytest.raises(ValueError, match="shape"):
        score_lesions(label, found[:-1], SPACING_ZYX)


@pytest.mark.parametrize(
    ("then", "now", "word"),
    [
        (4, 4, "unchanged"),
        (4, 5, "unchanged"),
        (4, 3, "unchanged"),
        (4, 5.1, "grown"),
        (4, 2.9, "shrunk"),
        (4, 0, "vanished"),
        (0, 4, "new"),
        (0, 0, "absent"),
    ],
)
def test_status(then, now, word):
    assert status(then, now) == word


def test_the_challenge_takes_every_number_alike():
    """What lesion 7 finds of lesion 300 is found."""
    label, found = masks()
    scores = score(CHALLENGE, [MaskPair(label, found, SPACING_ZYX)])
    assert scores["dsc"] == pytest.approx(2 * 5 / (13 + 14))
    assert (scores["fpv_ml"], scores["fnv_ml"]) == pytest.approx((0.02, 0.01))


def test_volumes_of_a_mask():
    assert volumes_ml(masks()[1], 0.01) == pytest.approx({1: 0.08, 4: 0.02, 7: 0.04})
