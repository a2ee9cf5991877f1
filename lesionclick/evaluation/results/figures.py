"""Figures over many cases, as SVG on a transparent ground, for light and for dark paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from lesionclick.evaluation.figures import CURVE_COLOURS, Theme, dress, panels, plain, save
from lesionclick.evaluation.measures import Measure
from lesionclick.evaluation.results.challenge import Column
from lesionclick.evaluation.results.statistics import Interval

Curve = Mapping[int, Mapping[str, Interval]]
"""Means of a run or of a group, by the number of the step and the key of the measure."""

_MARKERS = "osD^v"


@dataclass(frozen=True)
class Values:
    """Values of a run, one for each case.

    Attributes
    ----------
    name
        Of the run.
    by_column
        Arrays of shape (n,), by the columns' keys.
    """

    name: str
    by_column: Mapping[str, NDArray[np.float64]]


def curves_svg(curves: Mapping[str, Curve], measures: Sequence[Measure[Any]], theme: Theme) -> bytes:
    """Draw means over the steps, one panel for each measure, with their intervals as bands.

    Parameters
    ----------
    curves
        By their names for the legend.
    measures
        What to draw.
    theme
        Of the paper.

    Returns
    -------
    bytes
        An SVG file, with its text as outlines.
    """
    figure = panels(len(measures), 2.75 if len(curves) > 1 else 2.4)
    for index, measure in enumerate(measures):
        axes = figure.add_subplot(1, len(measures), index + 1)
        for curve, colour, marker in zip(curves.values(), cycle(CURVE_COLOURS), cycle(_MARKERS), strict=False):
            _draw_curve(axes, curve, measure, color=colour, marker=marker)
        numbers = sorted({number for curve in curves.values() for number in curve})
        axes.set_xticks([number for number in numbers if number % 5 == 0] if len(numbers) > 5 else numbers)
        axes.set_xlabel("step", fontsize=8.5, color=theme.ink)
        axes.set_ylim(0, measure.largest or max(1.0, 1.05 * axes.get_ylim()[1]))
        dress(axes, measure.heading, theme)
        axes.grid(axis="y", color=theme.grid)
    if len(curves) > 1:
        figure.legend(
            figure.axes[0].lines,
            [plain(name) for name in curves],
            loc="outside lower left",
            ncols=4,
            frameon=False,
            fontsize=9,
            labelcolor=theme.ink,
        )
    return save(figure, "svg", transparent=True)


def _draw_curve(axes: Axes, curve: Curve, measure: Measure[Any], **style: Any) -> None:
    points = [(number, means[measure.key]) for number, means in sorted(curve.items()) if measure.key in means]
    numbers = [number for number, _ in points]
    axes.plot(numbers, [one.mean for _, one in points], markersize=4, clip_on=False, zorder=3, **style)
    axes.fill_between(
        numbers,
        [one.low for _, one in points],
        [one.high for _, one in points],
        color=style["color"],
        alpha=0.16,
        linewidth=0,
    )


def pairs_svg(columns: Sequence[Column], first: Values, second: Values, theme: Theme) -> bytes:
    """Draw the values of two runs against each other, a point for each case, one panel for each column.

    Below the diagonal the second run, upward, has the smaller value. Measures without a largest value are drawn on axes
    that are linear up to 1 and logarithmic from there on.

    Parameters
    ----------
    columns
        What to draw.
    first, second
        Values of the same cases in the same order.
    theme
        Of the paper.

    Returns
    -------
    bytes
        An SVG file, with its text as outlines.
    """
    figure = panels(len(columns), 3.3)
    for index, column in enumerate(columns):
        axes = figure.add_subplot(1, len(columns), index + 1)
        a, b = first.by_column[column.key], second.by_column[column.key]
        known = ~(np.isnan(a) | np.isnan(b))
        a, b = a[known], b[known]
        highest = column.measure.largest or float(1.3 * max(1.0, *a, *b))
        if column.measure.largest is None:
            axes.set_xscale("symlog", linthresh=1)
            axes.set_yscale("symlog", linthresh=1)
        axes.plot([0, highest], [0, highest], color=theme.grid, linewidth=1, zorder=1)
        axes.scatter(a, b, s=20, color=CURVE_COLOURS[index % len(CURVE_COLOURS)], alpha=0.65, linewidth=0, zorder=3)
        margin = 0.03 * (column.measure.largest or 3)
        axes.set(xlim=(-margin, highest), ylim=(-margin, highest), aspect="equal")
        axes.set_xlabel(plain(first.name), fontsize=8.5, color=theme.ink)
        axes.set_ylabel(plain(second.name), fontsize=8.5, color=theme.ink)
        dress(axes, column.heading, theme)
        axes.grid(color=theme.grid, linewidth=0.5)
    return save(figure, "svg", transparent=True)
