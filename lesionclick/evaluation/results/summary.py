"""Runs summed up: means with intervals, a run against another, the challenge's ranking, and the worst cases."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from lesionclick.errors import InputError
from lesionclick.evaluation.measures import MEASURES, Scores, mean
from lesionclick.evaluation.results.challenge import CHALLENGES, Column
from lesionclick.evaluation.results.runs import ALL, OTHER, CaseResult, RunResult
from lesionclick.evaluation.results.statistics import (
    Comparison,
    Interval,
    compare,
    holm,
    interval_of_mean,
    shares_better,
    weighted_ranks,
)


@dataclass(frozen=True)
class GroupSummary:
    """Means over some cases of a run.

    Attributes
    ----------
    name
        Of the group.
    n_cases, n_lesions
        Cases with scores, and those of them whose label has a lesion.
    columns
        Of the challenge's table, by their keys.
    steps
        By the number of the step and the key of the measure.
    """

    name: str
    n_cases: int
    n_lesions: int
    columns: Mapping[str, Interval]
    steps: Mapping[int, Mapping[str, Interval]]


@dataclass(frozen=True)
class ColumnComparison:
    """Two runs in one column.

    Attributes
    ----------
    column
        Of the challenge's table.
    found
        The second run against the first.
    p_holm
        Corrected for all tests that are shown together.
    """

    column: Column
    found: Comparison
    p_holm: float

    @property
    def better(self) -> int:
        """In how many cases the second run is the better one."""
        return self.found.larger if self.column.measure.higher_is_better else self.found.smaller

    @property
    def worse(self) -> int:
        """In how many cases the second run is the worse one."""
        return self.found.smaller if self.column.measure.higher_is_better else self.found.larger


@dataclass(frozen=True)
class Place:
    """A run in the ranking.

    Attributes
    ----------
    place
        From 1 on; runs that nothing tells apart share one.
    run
        Its name.
    rank
        Weighted mean of its ranks.
    means
        Over the cases that all runs have, by the columns' keys.
    """

    place: int
    run: str
    rank: float
    means: Mapping[str, float]


def summarise(run: RunResult, seed: int) -> list[GroupSummary]:
    """Return the summary of each group of a run's cases and, last, that of all.

    A run whose cases all belong to one group has only that of all.

    Parameters
    ----------
    run
        With at least one case that has scores.
    seed
        Of the resamples. Each interval draws its own, so that none changes when another is left out.
    """
    names = sorted({case.group for case in run.scored}, key=lambda name: (name == OTHER, name))
    groups = {name: [case for case in run.scored if case.group == name] for name in names} if len(names) > 1 else {}
    return [_summarise_group(name, cases, run, seed) for name, cases in {**groups, ALL: run.scored}.items()]


def _summarise_group(name: str, cases: Sequence[CaseResult], run: RunResult, seed: int) -> GroupSummary:
    challenge = CHALLENGES[run.task]

    def interval(values: Sequence[float]) -> Interval:
        return interval_of_mean(values, np.random.default_rng(seed))

    table = [challenge.values(case.steps) for case in cases]
    steps = {}
    for number in sorted({number for case in cases for number in case.steps}):
        scores = [case.steps[number] for case in cases if number in case.steps]
        keys = {key: None for one in scores for key in one}
        steps[number] = {key: interval([one.get(key, math.nan) for one in scores]) for key in keys}
    columns = {column.key: interval([row[column.key] for row in table]) for column in challenge.columns}
    return GroupSummary(name, len(cases), sum(_has_lesion(case) for case in cases), columns, steps)


def _has_lesion(case: CaseResult) -> bool:
    return not math.isnan(case.steps[max(case.steps)].get("dsc", math.nan))


def shared_cases(runs: Sequence[RunResult]) -> list[str]:
    """Return the names of the cases that every run has scores of, in their order."""
    names = [{case.name for case in run.scored} for run in runs]
    return sorted(set.intersection(*names))


def values_of(run: RunResult, names: Sequence[str]) -> dict[str, NDArray[np.float64]]:
    """Return the values of some cases, shape (n,), by the keys of the columns."""
    challenge = CHALLENGES[run.task]
    rows = [challenge.values(steps) for steps in _steps_of(run, names)]
    return {column.key: np.array([row[column.key] for row in rows]) for column in challenge.columns}


def last_steps(runs: Sequence[RunResult]) -> list[int]:
    """Return the numbers of the steps that the cases with scores end with; runs that can be summed up have one."""
    return sorted({max(case.steps) for run in runs for case in run.scored})


def columns_with_values(runs: Sequence[RunResult]) -> list[Column]:
    """Return the columns that have a value in any case of any run, which are of one task."""
    challenge = CHALLENGES[runs[0].task]
    table = [challenge.values(case.steps) for run in runs for case in run.scored]
    return [column for column in challenge.columns if any(not math.isnan(row[column.key]) for row in table)]


def require_values(run: RunResult) -> None:
    """Refuse a run that there is nothing to sum up of.

    Raises
    ------
    InputError
        If no case has scores, or none of them counts in the ranking.
    """
    if not run.scored:
        raise InputError(f"{run.name}: expected cases with scores, found none; were there labels?")
    if not any(column.weight for column in columns_with_values([run])):
        wanted = dict.fromkeys(column.measure.title for column in CHALLENGES[run.task].columns if column.weight)
        last = [case.steps[max(case.steps)] for case in run.scored]
        keys = {key for scores in last for key, value in scores.items() if not math.isnan(value)}
        found = ", ".join(measure.title for key, measure in MEASURES.items() if key in keys) or "none at all"
        raise InputError(f"{run.name}: expected any of {', '.join(wanted)} at the last step, found {found}")


def compare_runs(first: RunResult, others: Sequence[RunResult], seed: int) -> list[list[ColumnComparison]]:
    """Compare runs with the first one, in each column that counts in the ranking, case by case.

    The p values of all tests together are corrected by Holm's method.
    """
    columns = [column for column in columns_with_values([first, *others]) if column.weight]
    found = []
    for other in others:
        a, b = (values_of(run, shared_cases([first, other])) for run in (first, other))
        found.append([compare(a[column.key], b[column.key], np.random.default_rng(seed)) for column in columns])
    corrected = iter(holm([one.p for row in found for one in row]))
    return [
        [ColumnComparison(column, one, next(corrected)) for column, one in zip(columns, row, strict=True)]
        for row in found
    ]


def rank_runs(runs: Sequence[RunResult]) -> list[Place]:
    """Rank runs of one task by the challenge's rule, over the cases that all of them have; the best one first.

    The means of each column that every run has are ranked, and the ranks are averaged with the columns' weights. Equal
    means share the mean of their ranks; of runs with an equal average the one with the higher DSC at the last step
    comes first.

    Raises
    ------
    InputError
        If no column has a value in every run.
    """
    challenge, names = CHALLENGES[runs[0].task], shared_cases(runs)
    means = [mean([Scores(challenge.values(case)) for case in _steps_of(run, names)]) for run in runs]
    columns = [column for column in challenge.columns if not any(math.isnan(one[column.key]) for one in means)]
    if not any(column.weight for column in columns):
        found = ", ".join(run.name for run in runs)
        raise InputError(f"ranking: expected a measure with a value in each run, found none in {found}")
    values = [[one[column.key] for column in columns] for one in means]
    ranks = weighted_ranks(
        values, [column.weight for column in columns], [column.measure.higher_is_better for column in columns]
    )
    # rounded, so that sums of the same ranks in another order are equal
    tie = challenge.columns[0].key
    order = [(round(rank, 9), -np.nan_to_num(one[tie])) for rank, one in zip(ranks.tolist(), means, strict=True)]
    places = [
        Place(1 + sum(other < one for other in order), run.name, one[0], by_key)
        for run, one, by_key in zip(runs, order, means, strict=True)
    ]
    return sorted(places, key=lambda place: place.place)


def worst_first(run: RunResult) -> list[CaseResult]:
    """Return the cases with scores, the worst one first.

    A case is placed by how many of the others are better: the share of them in each column that is defined for it,
    averaged with the challenge's weights. So a case without lesions is placed by its false positives alone.
    """
    challenge = CHALLENGES[run.task]
    values = [[*challenge.values(case.steps).values()] for case in run.scored]
    if not values:
        return []
    columns = challenge.columns
    better = shares_better(
        values, [column.weight for column in columns], [column.measure.higher_is_better for column in columns]
    )
    order = sorted(zip(better.tolist(), run.scored, strict=True), key=lambda pair: (-pair[0], pair[1].name))
    return [case for _, case in order]


def with_names(runs: Sequence[RunResult]) -> list[RunResult]:
    """Return the runs, those of one task and one name numbered, so that a reader can tell them apart."""
    named: list[RunResult] = []
    for run in runs:
        taken = {other.name for other in named if other.task == run.task}
        names = itertools.chain([run.name], (f"{run.name} ({number})" for number in itertools.count(2)))
        named.append(replace(run, name=next(name for name in names if name not in taken)))
    return named


def _steps_of(run: RunResult, names: Sequence[str]) -> list[Mapping[int, Scores]]:
    by_name = {case.name: case.steps for case in run.cases}
    return [by_name[name] for name in names]
