"""What the pictures of both tasks share: colours, the way round, and curves of measures over the steps."""

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any, Literal

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from lesionclick.evaluation.measures import Measure
from lesionclick.evaluation.steps import Result
from lesionclick.images import Grid

# Okabe and Ito's palette, which readers with any kind of colour vision can tell apart
LABEL_COLOUR = "#E69F00"
PREDICTION_COLOUR = "#56B4E9"
TUMOR_COLOUR = "#D55E00"
BACKGROUND_COLOUR = "#009E73"
CURVE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00")

CORONAL, SAGITTAL = 1, 2
"""Array axis (z, y, x) along which each view projects."""

MM_PER_INCH = 190.0
"""Scale of the views of a body."""

GAP_MM = 12.0
"""Width of what lies between two views."""


@dataclass(frozen=True)
class Picture:
    """An image file inside a page.

    Attributes
    ----------
    data
        The file.
    kind
        Its media type after ``image/``.
    caption
        What it shows, in words.
    """

    data: bytes
    kind: Literal["png", "svg+xml"]
    caption: str

    @property
    def uri(self) -> str:
        """The file as a data URI."""
        return f"data:image/{self.kind};base64,{base64.b64encode(self.data).decode('ascii')}"


@dataclass(frozen=True)
class Theme:
    """Colours of a figure's text and of its grid."""

    ink: str
    grid: str


LIGHT = Theme(ink="#1d2429", grid="#dfe3e5")
DARK = Theme(ink="#e8ecee", grid="#343d43")
"""As in `templates/style.css`. The colours of the curves stand out from the paper of both."""


def curves_svg(result: Result[Any], theme: Theme) -> bytes:
    """Draw the measures of a replay over its steps side by side, on a transparent ground.

    The values at the ticks and at the last step are written beside their points.

    Returns
    -------
    bytes
        An SVG file, with its text as outlines.
    """
    figure = panels(len(result.measures), 2.2)
    for index, measure in enumerate(result.measures):
        axes = figure.add_subplot(1, len(result.measures), index + 1)
        dress(axes, measure.heading, theme, pad=14)
        axes.set_xlabel("step", fontsize=8.5, color=theme.ink)
        points = draw_curve(axes, measure, result, color=CURVE_COLOURS[index % len(CURVE_COLOURS)], clip_on=False)
        for step, value in points:
            if step in (*axes.get_xticks(), points[-1][0]):
                axes.annotate(
                    measure.text(value),
                    (step, value),
                    (0, 6),
                    textcoords="offset points",
                    ha="center",
                    fontsize=8.5,
                    color=theme.ink,
                )
        if not points:
            axes.text(0.5, 0.5, "not defined", ha="center", transform=axes.transAxes, fontsize=9, color=theme.ink)
        axes.grid(axis="y", color=theme.grid)
    return save(figure, "svg", transparent=True)


def panels(count: int, height: float) -> Figure:
    """Return a figure for so many panels side by side, of a height in inches."""
    return Figure(figsize=(3.7 * count, height), layout=ConstrainedLayoutEngine(w_pad=0.15))


def dress(axes: Axes, title: str, theme: Theme, *, pad: float = 10) -> None:
    """Give a panel its title, `pad` points above it, and the look of all others: no frame, no ticks, a grid below."""
    axes.set_title(title, fontsize=9.5, fontweight="bold", loc="left", color=theme.ink, pad=pad)
    axes.tick_params(which="both", labelsize=8.5, length=0, labelcolor=theme.ink)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)


def plain(name: str) -> str:
    """Return a name as a text that matplotlib takes for no formula, and that a legend does not leave out."""
    return f" {name}".replace("$", r"\$")


def draw_curve(axes: Axes, measure: Measure[Any], result: Result[Any], **style: Any) -> list[tuple[int, float]]:
    """Draw one measure of a replay over its steps, and return the points (step, value) where it is defined.

    The axis begins at 0 and ends at the largest possible value where there is one.
    """
    values = [(step.number, step.scores[measure.key]) for step in result.steps if step.scores]
    points = [(number, value) for number, value in values if not np.isnan(value)]
    if points:
        axes.plot(*zip(*points, strict=True), **{"marker": "o", "markersize": 4, **style})
    last = result.steps[-1].number
    axes.set_xticks((0, 1) if last <= 1 else (0, 5) if last <= 5 else (0, 5, 10))
    highest = max((value for _, value in points), default=0.0)
    axes.set_ylim(0, measure.largest or max(1.0, axes.get_ylim()[1], 1.15 * highest))
    return points


def draw_curves(axes: Axes, measure: Measure[Any], results: Sequence[Result[Any]]) -> None:
    """Draw one measure of many replays in one plot with a legend."""
    for result, marker, colour in zip(results, cycle("osD^v"), cycle(CURVE_COLOURS), strict=False):
        draw_curve(axes, measure, result, marker=marker, color=colour, label=plain(result.name.replace("_", " ")))
    axes.set_title(measure.heading, fontsize=9, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def frame(
    axes: Axes, grid: Grid, horizontal: tuple[int, tuple[float, float]], vertical: tuple[int, tuple[float, float]]
) -> None:
    """Show a part of an image the way round that readers expect.

    Where the image lies along the patient's axes, the patient's left is on the right, and the head or the front is up;
    in a sagittal view the front is on the left. An oblique image is shown along its own axes.

    Parameters
    ----------
    axes
        Where the image is drawn, in mm from its first voxel's corner.
    grid
        The image's.
    horizontal, vertical
        Array axis (z, y, x) in each direction, and the ends of the part in mm.
    """
    sign_zyx = np.diag(np.reshape(grid.direction, (3, 3)))[::-1]
    for (axis, ends), is_vertical, limit in ((horizontal, False, axes.set_xlim), (vertical, True, axes.set_ylim)):
        is_reversed = (sign_zyx[axis] < 0) != (is_vertical and axis == CORONAL)
        limit(*(ends[::-1] if is_reversed else ends))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def tint(mask: NDArray[np.bool_], rgba: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Return an RGBA image, shape (..., 4), of a colour where the mask is and of nothing elsewhere."""
    tinted: NDArray[np.float64] = mask[..., None] * np.array(rgba)
    return tinted


def save(figure: Figure, kind: Literal["png", "svg"], *, transparent: bool = False) -> bytes:
    """Return a figure as a file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, transparent=transparent)
    return buffer.getvalue()
