"""Statistics over cases: means with intervals, two runs case by case, several tests at once, and weighted ranks."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import bootstrap, rankdata, wilcoxon

CONFIDENCE = 0.95
"""Share of the intervals that should hold the true mean."""

RESAMPLES = 9999
"""How often the cases are drawn anew for an interval; SciPy's default."""

DECIMALS = 9
"""Decimals to which differences count: what is left beyond is rounding."""

_BATCH = 500
"""Resamples at a time, so that a thousand cases take megabytes and not gigabytes."""


@dataclass(frozen=True)
class Interval:
    """A mean over cases and the bounds that it is believed to lie in.

    Attributes
    ----------
    mean
        NaN where no case has a value.
    low, high
        NaN where fewer than two cases have a value.
    n
        Cases that have a value.
    """

    mean: float
    low: float
    high: float
    n: int


@dataclass(frozen=True)
class Comparison:
    """Values of two runs on the same cases.

    Attributes
    ----------
    first, second
        Means over the cases where both runs have a value.
    difference
        Mean of second minus first.
    larger, smaller
        In how many cases the second value is the larger, the smaller one.
    p
        Two-sided, of Wilcoxon's signed-rank test; NaN where no case has both values.
    """

    first: float
    second: float
    difference: Interval
    larger: int
    smaller: int
    p: float


def interval_of_mean(values: ArrayLike, rng: np.random.Generator) -> Interval:
    """Return the mean of the values that are not NaN, with its bootstrap interval.

    The interval is bias-corrected and accelerated (BCa; Efron, J Am Stat Assoc 82 (1987) 171), by SciPy. Where all
    values are equal it has no width.

    Parameters
    ----------
    values
        One for each case, shape (n,).
    rng
        Draws the resamples.
    """
    known = _known(values)
    if not known.size:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(known.mean())
    if known.size == 1:
        return Interval(mean, np.nan, np.nan, 1)
    if np.ptp(known) <= 10.0**-DECIMALS * max(1.0, abs(mean)):
        return Interval(mean, mean, mean, known.size)
    found = bootstrap(
        (known,), np.mean, n_resamples=RESAMPLES, batch=_BATCH, confidence_level=CONFIDENCE, method="BCa", rng=rng
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high), known.size)


def compare(first: ArrayLike, second: ArrayLike, rng: np.random.Generator) -> Comparison:
    """Compare two runs case by case, over the cases where neither value is NaN.

    Cases without a difference are left out of the test, as Wilcoxon did (Biometrics Bull 1 (1945) 80); without any
    difference, p is 1. Differences count to `DECIMALS`, so that volumes of as many voxels are equal.

    Parameters
    ----------
    first, second
        Values of the same cases in the same order, shape (n,).
    rng
        Draws the resamples for the interval of the mean difference.
    """
    a, b = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    both = ~(np.isnan(a) | np.isnan(b))
    a, b = a[both], b[both]
    if not a.size:
        return Comparison(np.nan, np.nan, interval_of_mean([], rng), 0, 0, np.nan)
    differences = np.round(b - a, DECIMALS)
    unequal = differences[differences != 0]
    p = float(wilcoxon(unequal).pvalue) if unequal.size else 1.0
    larger, smaller = int((differences > 0).sum()), int((differences < 0).sum())
    return Comparison(float(a.mean()), float(b.mean()), interval_of_mean(differences, rng), larger, smaller, p)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct the p values of several tests by Holm's step-down method (Scand J Stat 6 (1979) 65).

    The smallest of m values is multiplied by m, the next by m - 1, and so on; none becomes smaller than the one before,
    and none larger than 1. NaN is no test, and stays.
    """
    corrected = np.array(p_values, dtype=np.float64)
    tests = np.flatnonzero(~np.isnan(corrected))
    order = tests[np.argsort(corrected[tests], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(corrected[order] * factors), 1)
    return [float(p) for p in corrected]


def weighted_ranks(values: ArrayLike, weights: ArrayLike, higher_is_better: ArrayLike) -> NDArray[np.float64]:
    """Rank by each column, and return each row's weighted mean of its ranks.

    Equal values share the mean of their ranks. A NaN has no rank: the column's weight does not count for that row.

    Parameters
    ----------
    values
        Shape (rows, columns).
    weights
        Of the columns.
    higher_is_better
        Whether a column's largest value is the best.

    Returns
    -------
    NDArray
        Shape (rows,); 1 for a row that is the best in every column, NaN for one without any rank.
    """
    return _weighted_means(rankdata(_signed(values, higher_is_better), axis=0, nan_policy="omit"), weights)


def shares_better(values: ArrayLike, weights: ArrayLike, higher_is_better: ArrayLike) -> NDArray[np.float64]:
    """Return the share of the rows that are better than each row: its weighted mean over the columns.

    In each column it is a share of the rows that have a value, so that columns with many and with few of them count
    alike. Parameters are those of `weighted_ranks`.

    Returns
    -------
    NDArray
        Shape (rows,); 0 for a row that none is better than in any column, NaN for one without any value.
    """
    signed = _signed(values, higher_is_better)
    better = rankdata(signed, method="min", axis=0, nan_policy="omit") - 1
    return _weighted_means(better / np.maximum(np.count_nonzero(~np.isnan(signed), axis=0), 1), weights)


def _signed(values: ArrayLike, higher_is_better: ArrayLike) -> NDArray[np.float64]:
    """Return values of which the smallest is the best."""
    signs = np.where(np.asarray(higher_is_better, dtype=bool), -1.0, 1.0)
    signed: NDArray[np.float64] = signs * np.asarray(values, dtype=np.float64)
    return signed


def _weighted_means(values: NDArray[np.float64], weights: ArrayLike) -> NDArray[np.float64]:
    """Return the weighted mean of each row, over the columns where it is not NaN."""
    used = np.where(np.isnan(values), 0.0, np.asarray(weights, dtype=np.float64))
    sums, totals = (np.nan_to_num(values) * used).sum(axis=1), used.sum(axis=1)
    means: NDArray[np.float64] = np.divide(sums, totals, out=np.full(len(values), np.nan), where=totals > 0)
    return means


def _known(values: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(values, dtype=np.float64)
    known: NDArray[np.float64] = array[~np.isnan(array)]
    return known
