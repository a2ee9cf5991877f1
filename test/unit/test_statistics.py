import math

import numpy as np
import pytest

from lesionclick.evaluation.results.statistics import compare, holm, interval_of_mean, shares_better, weighted_ranks

NAN = math.nan


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def test_interval_of_two_values_reaches_from_one_to_the_other():
    """Of the resamples of 0 and 10 a quarter has the mean 0 and a quarter 10, far more than 2.5 % each."""
    found = interval_of_mean([0, 10], rng())
    assert (found.mean, found.low, found.high, found.n) == (5, 0, 10, 2)


def test_interval_of_equal_values_has_no_width():
    found = interval_of_mean([0.7, 0.7, 0.7], rng())
    assert found.low == found.high == found.mean == pytest.approx(0.7)


def test_interval_leaves_out_what_is_not_defined():
    values = [0.1, 0.4, 0.5, 0.9]
    assert interval_of_mean([NAN, *values, NAN], rng()) == interval_of_mean(values, rng())


def test_one_value_has_a_mean_without_bounds_and_none_has_neither():
    one, none = interval_of_mean([3, NAN], rng()), interval_of_mean([NAN], rng())
    assert (one.mean, one.n) == (3, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert (math.isnan(none.mean), math.isnan(none.low), none.n) == (True, True, 0)


def test_a_seed_gives_the_same_interval_again():
    values = rng(5).random(20)
    assert interval_of_mean(values, rng(1)) == interval_of_mean(values, rng(1))
    assert interval_of_mean(values, rng(1)) != interval_of_mean(values, rng(2))


def test_interval_moves_and_grows_with_its_values():
    values = np.array([0.0, 1.0, 1.5, 4.0])
    found, moved = interval_of_mean(values, rng()), interval_of_mean(10 * values + 3, rng())
    assert moved.low == pytest.approx(10 * found.low + 3)
    assert moved.high == pytest.approx(10 * found.high + 3)


@pytest.mark.parametrize(
    ("differences", "p"),
    [
        ([1, 2, 3, 4, 5], 2 / 2**5),  # one of the 32 choices of signs is as far on each side
        ([1, 2, 3, -4], 2 * 7 / 2**4),  # 7 subsets of 1, 2, 3, 4 have a sum of 4 or less
        ([1, 0, 2, 0, 3, -4], 2 * 7 / 2**4),  # cases without a difference do not count
        ([2], 1.0),
        ([0, 0, 0], 1.0),
    ],
)
def test_p_is_that_of_wilcoxons_signed_rank_test(differences, p):
    first = np.full(len(differences), 10.0)
    assert compare(first, first + differences, rng()).p == pytest.approx(p)
    assert compare(first + differences, first, rng()).p == pytest.approx(p)


def test_volumes_of_as_many_voxels_are_equal_whatever_a_voxels_volume():
    first, second = np.array([5, 9, 3, 7, 11, 4, 8]), np.array([6, 10, 5, 6, 12, 3, 9])
    plain, scaled = (compare(first * ml, second * ml, np.random.default_rng(0)) for ml in (1.0, 0.0331776))
    assert scaled.p == plain.p == pytest.approx(0.359, abs=0.001)
    values = np.linspace(0.1, 0.9, 7)
    shifted = compare(values, values + 0.1, np.random.default_rng(0)).difference
    assert (shifted.low, shifted.high) == pytest.approx((0.1, 0.1))


def test_runs_are_compared_where_both_have_a_value():
    found = compare([1, 2, NAN, 4, 5], [2, 2, 7, NAN, 3], rng())
    assert (found.first, found.second) == (8 / 3, 7 / 3)
    assert (found.difference.mean, found.difference.n) == (pytest.approx(-1 / 3), 3)
    assert (found.larger, found.smaller) == (1, 1)


def test_runs_without_a_common_value_cannot_be_compared():
    found = compare([1, NAN], [NAN, 1], rng())
    assert math.isnan(found.p)
    assert found.difference.n == 0


@pytest.mark.parametrize(
    ("given", "corrected"),
    [
        ([0.01, 0.04, 0.03], [0.03, 0.06, 0.06]),  # 3 * 0.01, then 2 * 0.03, then 1 * 0.04, which must not fall
        ([0.6, 0.7], [1.0, 1.0]),
        ([0.01, NAN, 0.04], [0.02, NAN, 0.04]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm_corrects_for_the_number_of_tests(given, corrected):
    assert holm(given) == pytest.approx(corrected, nan_ok=True)


def test_ranks_are_averaged_with_weights_and_ties_share_theirs():
    """Ranks 1.5, 1.5, 3 by the first column, where more is better; 1, 2.5, 2.5 by the second."""
    found = weighted_ranks([[0.8, 1], [0.8, 2], [0.5, 2]], [0.5, 0.25], [True, False])
    assert found == pytest.approx([(0.75 + 0.25) / 0.75, (0.75 + 0.625) / 0.75, (1.5 + 0.625) / 0.75])


def test_a_row_is_ranked_by_what_is_defined_for_it():
    values = [[0.9, 1], [NAN, 3], [0.1, 2], [NAN, NAN]]
    found = weighted_ranks(values, [0.5, 0.5], [True, False])
    assert found == pytest.approx([1, 3, 2, NAN], nan_ok=True)


def test_a_row_is_placed_by_the_share_of_the_better_ones():
    """Of two rows with a first value one is better than the third; of three with a second one, 0, 2 and 0."""
    values = [[0.9, 1], [NAN, 3], [0.1, 1], [NAN, NAN]]
    found = shares_better(values, [0.75, 0.25], [True, False])
    assert found == pytest.approx([0, 2 / 3, 0.75 / 2, NAN], nan_ok=True)


def test_a_column_without_weight_does_not_count():
    assert weighted_ranks([[1, 5], [2, 4]], [1, 0], [False, False]).tolist() == [1, 2]
