"""Components of two masks and which of them meet, on boxes whose overlaps are counted by hand."""

import math

import numpy as np
import pytest

from lesionclick.evaluation.components import count_untouched, lesion_f1


def row(*spans: tuple[int, int]) -> np.ndarray:
    """A mask of one row of 40 voxels, with a component from each first voxel to before the last."""
    mask = np.zeros((1, 1, 40), dtype=bool)
    for first, end in spans:
        mask[0, 0, first:end] = True
    return mask


@pytest.mark.parametrize(
    ("label", "prediction", "f1"),
    [
        ([(0, 10)], [(0, 10)], 1.0),
        ([(0, 10)], [(0, 1)], 1.0),  # 1 of 10 voxels is just enough
        ([(0, 11)], [(0, 1)], 0.0),  # 1 of 11 is too little: the lesion is missed, the component false
        ([(0, 10), (20, 30)], [(0, 10)], 2 / 3),  # found 1, missed 1
        ([(0, 10)], [(0, 10), (20, 30)], 2 / 3),  # found 1, false 1
        ([(0, 10), (20, 30)], [(12, 15), (32, 35)], 0.0),
        ([(0, 4), (5, 9)], [(0, 9)], 1.0),  # one component finds both, 4 of 9 each
        ([(0, 9)], [(0, 4), (5, 9)], 1.0),  # both find it, and none is false
        ([(0, 20)], [(0, 5), (19, 21)], 2 / 3),  # 5 of 20 finds it, 1 of 21 is false
        ([(0, 10)], [], 0.0),
        ([], [(0, 10)], math.nan),
        ([], [], math.nan),
    ],
)
def test_lesion_f1_has_the_values_worked_out_by_hand(label, prediction, f1):
    assert lesion_f1([(row(*label), row(*prediction))]) == pytest.approx(f1, nan_ok=True)


def test_masks_count_together():
    perfect, missed = (row((0, 5)), row((0, 5))), (row((0, 5)), row())
    assert lesion_f1([perfect, missed]) == pytest.approx(2 / 3)
    assert lesion_f1([perfect, (row(), row((0, 5)))]) == pytest.approx(2 / 3)


def test_voxels_that_share_an_edge_belong_together_and_those_that_share_a_corner_do_not():
    edge, corner = np.zeros((2, 2, 2, 2), dtype=bool)
    edge[0, 0, 0] = edge[0, 1, 1] = corner[0, 0, 0] = corner[1, 1, 1] = True
    one = np.zeros((2, 2, 2), dtype=bool)
    one[0, 0, 0] = True
    assert lesion_f1([(edge, one)]) == 1.0
    assert lesion_f1([(corner, one)]) == pytest.approx(2 / 3)
    assert count_untouched(edge, one) == 0
    assert count_untouched(corner, one) == 1
