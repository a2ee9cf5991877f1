"""Tables of a replay as values, which a terminal and a page show alike."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from lesionclick.evaluation.measures import DASH, Measure, Scores, mean
from lesionclick.evaluation.steps import Result
from lesionclick.images import Grid


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes
    ----------
    text
        What it says.
    share
        Of 0 to 1 that a bar behind the text shows, if any.
    note
        A smaller text below it, if any.
    """

    text: str
    share: float | None = None
    note: str = ""


Row: TypeAlias = Sequence[Cell | str]


@dataclass(frozen=True)
class Table:
    """A head, rows below it, and rows that sum them up.

    Attributes
    ----------
    head
        Title of each column.
    rows, foot
        Each as long as the head.
    groups
        Titles above those of the columns, and how many columns each spans; empty where there are none.
    n_texts
        How many of the first columns hold words, which begin at the left.
    """

    head: Sequence[str]
    rows: Sequence[Row]
    foot: Sequence[Row] = ()
    groups: Sequence[tuple[str, int]] = ()
    n_texts: int = 1


def score_cells(measures: Sequence[Measure[Any]], scores: Scores | None, *, bars: bool = False) -> list[Cell]:
    """Return the cells of some scores, dashes where there are none, with bars where a measure has a largest value."""
    cells = []
    for measure in measures:
        value = math.nan if scores is None else scores.get(measure.key, math.nan)
        share = value / measure.largest if bars and measure.largest and not math.isnan(value) else None
        cells.append(Cell(measure.text(value), share))
    return cells


def number(value: float, digits: int) -> str:
    """Return a value with so many decimals, or a dash where it is NaN."""
    return DASH if math.isnan(value) else f"{value:.{digits}f}"


def describe_grid(grid: Grid) -> str:
    """Return the number of voxels and their size in words."""
    times = " \N{MULTIPLICATION SIGN} "
    size, spacing = (times.join(f"{value:g}" for value in row) for row in (grid.size_xyz, grid.spacing_xyz))
    return f"{size} voxels of {spacing} mm"


def steps_text(result: Result[Any]) -> str:
    """Return the scores of every step of a case as lines for a terminal, below the case's name."""
    head = ["step", "points", *(measure.heading for measure in result.measures), "seconds"]
    rows = [
        [
            str(step.number),
            str(step.n_points),
            *(cell.text for cell in score_cells(result.measures, step.scores)),
            number(step.seconds, 1),
        ]
        for step in result.steps
    ]
    return f"{result.name}\n{_aligned(head, rows)}"


def areas_text(results: Sequence[Result[Any]]) -> str:
    """Return the areas under the scores of cases, all of one kind, and their means as lines for a terminal."""
    measures = results[0].measures
    found = [(result.name, result.areas) for result in results]
    found.append(("mean", mean([areas for _, areas in found if areas is not None])))
    head = ["area", *(measure.heading for measure in measures)]
    rows = [[name, *(cell.text for cell in score_cells(measures, areas))] for name, areas in found]
    return _aligned(head, rows)


def _aligned(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    return "\n".join(_line(row, widths) for row in (head, *rows)).replace(DASH, "-")  # not all terminals know more


def _line(texts: Iterable[str], widths: Iterable[int]) -> str:
    return "  ".join(text.rjust(width) for text, width in zip(texts, widths, strict=True))
