"""Tables of finished runs as values, which a page and a model card show alike."""

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby
from typing import Any

from lesionclick.evaluation.measures import DASH, Measure
from lesionclick.evaluation.results.challenge import Challenge, Column, Kind
from lesionclick.evaluation.results.runs import ALL, CaseResult, RunResult
from lesionclick.evaluation.results.statistics import Interval
from lesionclick.evaluation.results.summary import ColumnComparison, GroupSummary, Place
from lesionclick.evaluation.tables import Cell, Row, Table, number

_KINDS: Mapping[Kind, str] = {"last": "Last step", "area": "Area under the curve (AUC)"}
_HASH_SHOWN = 12


def runs_table(runs: Sequence[RunResult]) -> Table:
    """Return where the scores of each run come from; what no run tells has no column."""
    texts = {
        "Data": [run.origin.data for run in runs],
        "Split": [run.origin.split for run in runs],
        "Seed": [run.origin.seed for run in runs],
        "Model": [run.origin.model[:_HASH_SHOWN] for run in runs],
    }
    told = {title: column for title, column in texts.items() if any(column)}
    rows: list[Row] = [
        [run.name, *(column[index] or DASH for column in told.values()), str(len(run.cases)), str(len(run.failed))]
        for index, run in enumerate(runs)
    ]
    return Table(["Run", *told, "Cases", "Failed"], rows, n_texts=1 + len(told))


def scores_table(summaries: Mapping[str, Sequence[GroupSummary]], columns: Sequence[Column]) -> Table:
    """Return the challenge's table: means with intervals, of each group and of all cases, for each run.

    Parameters
    ----------
    summaries
        By the name of the run.
    columns
        To show.
    """
    several = len(summaries) > 1
    names = list(dict.fromkeys(group.name for groups in summaries.values() for group in groups if group.name != ALL))
    rows: list[Row] = []
    for name in (*names, ALL):
        for run, groups in summaries.items():
            for group in (group for group in groups if group.name == name):
                head = [*([name] if names else []), *([run] if several else [])]
                cells = [interval_cell(column, group.columns[column.key]) for column in columns]
                rows.append([*head, str(group.n_cases), str(group.n_lesions), *cells])
    head = [*(["Group"] if names else []), *(["Run"] if several else []), "Cases", "with lesions"]
    split = len(rows) - len(summaries)
    titles = _head(columns)
    return Table(
        [*head, *titles.head],
        rows[:split],
        rows[split:],
        groups=[("", len(head)), *titles.groups],
        n_texts=len(head) - 2,
    )


def interval_cell(column: Column, interval: Interval) -> Cell:
    """Return a mean with its interval below."""
    return Cell(column.measure.text(interval.mean), note=interval_text(column, interval))


def interval_text(column: Column, interval: Interval) -> str:
    """Return the bounds of a mean in words, empty where there are none."""
    if math.isnan(interval.low):
        return ""
    return f"{column.measure.text(interval.low)} to {column.measure.text(interval.high)}"


def ranking_table(places: Sequence[Place], columns: Sequence[Column]) -> Table:
    """Return the runs, the best one first, with the means that they are ranked by."""
    ranked = [column for column in columns if column.weight]
    titles = _head(ranked)
    rows: list[Row] = [
        [
            str(place.place),
            place.run,
            f"{place.rank:.3f}",
            *(column.measure.text(place.means[column.key]) for column in ranked),
        ]
        for place in places
    ]
    weights = [f"{title}, {100 * column.weight:g} %" for title, column in zip(titles.head, ranked, strict=True)]
    return Table(["Place", "Run", "Mean rank", *weights], rows, groups=[("", 3), *titles.groups], n_texts=2)


def comparison_table(first: str, second: str, compared: Sequence[ColumnComparison]) -> Table:
    """Return a row for each column that two runs are compared in."""
    rows: list[Row] = []
    for one in compared:
        measure, found = one.column.measure, one.found
        difference = found.difference
        rows.append(
            [
                one.column.heading,
                str(difference.n),
                measure.text(found.first),
                measure.text(found.second),
                Cell(number(difference.mean, measure.digits), note=interval_text(one.column, difference)),
                str(one.better),
                str(one.worse),
                p_text(found.p),
                p_text(one.p_holm),
            ]
        )
    return Table(["", "Cases", first, second, "Difference", "Better", "Worse", "p", "p, Holm"], rows)


def p_text(p: float) -> str:
    """Return a p value with three decimals, or that it is smaller."""
    return "< 0.001" if p < 0.001 else number(p, 3)


def cases_table(cases: Sequence[CaseResult], challenge: Challenge, columns: Sequence[Column]) -> Table:
    """Return a row for each case, in the given order."""
    rows: list[Row] = [
        [str(place), case.name, case.group, *_cells(case, challenge, columns)]
        for place, case in enumerate(cases, start=1)
    ]
    titles = _head(columns)
    return Table(["", "Case", "Group", *titles.head], rows, groups=[("", 3), *titles.groups], n_texts=3)


def case_table(in_runs: Mapping[str, CaseResult | None], challenge: Challenge, columns: Sequence[Column]) -> Table:
    """Return a row for each run that has scores of a case, by the run's name."""
    rows: list[Row] = [[name, *_cells(case, challenge, columns)] for name, case in in_runs.items() if case is not None]
    titles = _head(columns)
    return Table(["Run", *titles.head], rows, groups=[("", 1), *titles.groups])


def failed_table(runs: Sequence[RunResult]) -> Table | None:
    """Return the cases that failed, with their errors; None where all went well."""
    rows: list[Row] = [[run.name, case.name, case.error or ""] for run in runs for case in run.failed]
    return Table(["Run", "Case", "Error"], rows, n_texts=3) if rows else None


def _cells(case: CaseResult, challenge: Challenge, columns: Iterable[Column]) -> list[Cell]:
    values = challenge.values(case.steps)
    return [Cell(column.measure.text(values[column.key])) for column in columns]


def _head(columns: Sequence[Column]) -> Table:
    """Return the titles of columns, with their kinds above them."""
    kinds = [(_KINDS[kind], len(list(some))) for kind, some in groupby(columns, key=lambda column: column.kind)]
    return Table([column.heading for column in columns], [], groups=kinds)


def steps_table(group: GroupSummary, measures: Sequence[Measure[Any]]) -> Table:
    """Return a row of means over the steps for each measure."""
    numbers = sorted(group.steps)
    rows: list[Row] = [
        [measure.heading, *(measure.text(group.steps[number][measure.key].mean) for number in numbers)]
        for measure in measures
    ]
    return Table(["Step", *map(str, numbers)], rows)
