"""Pictures of a replay: maximum-intensity projections with masks and clicks, as PNG."""

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray

from lesionclick.evaluation.jobs import read_volume
from lesionclick.evaluation.replay import Replay, Step
from lesionclick.images import Grid
from lesionclick.prompts.points import BACKGROUND, TUMOR, indices_zyx

SUV_WINDOW = (0.0, 10.0)

# Okabe and Ito's palette, which readers with any kind of colour vision can tell apart
LABEL_COLOUR = "#E69F00"
PREDICTION_COLOUR = "#56B4E9"
TUMOR_COLOUR = "#D55E00"
BACKGROUND_COLOUR = "#009E73"
_CURVE_COLOURS = ("#0072B2", "#CC79A7", "#000000", "#E69F00", "#009E73")

CORONAL, SAGITTAL = 1, 2
"""Array axis (z, y, x) along which each view projects."""

_PREDICTION_TINT = to_rgba(PREDICTION_COLOUR, 0.75)
MM_PER_INCH = 190.0
"""Scale of the views of a body."""

GAP_MM = 12.0
"""Width of what lies between two views."""


def draw_projection(axes: Axes, replay: Replay, step: Step, along: int) -> None:
    """Draw one projection of the PET with the label's outline, the predicted mask and the step's clicks.

    The PET is inverted grey over `SUV_WINDOW`; lengths are true, by the spacing. Where the image lies along the
    patient's axes the head is up, the patient's left is on the right of the coronal view and the front on the left of
    the sagittal one; an oblique image is drawn along its own axes.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where to draw.
    replay : Replay
        The case.
    step : Step
        The step whose mask and clicks are drawn.
    along : int
        Array axis to project along: `CORONAL` or `SAGITTAL`.
    """
    grid = replay.pet.grid
    across = SAGITTAL if along == CORONAL else CORONAL
    height, width = (grid.shape_zyx[axis] * grid.spacing_zyx[axis] for axis in (0, across))
    extent = (0.0, width, 0.0, height)

    low, high = SUV_WINDOW
    pet = replay.pet.array.max(axis=along)
    axes.imshow(pet, cmap="gray_r", vmin=low, vmax=high, extent=extent, origin="lower", interpolation="bilinear")
    predicted = read_volume(step.mask).array.max(axis=along) > 0
    axes.imshow(tint(predicted, _PREDICTION_TINT), extent=extent, origin="lower", interpolation="nearest")
    if replay.label is not None and replay.label.array.any():
        outline = (replay.label.array.max(axis=along) > 0).astype(float)
        axes.contour(outline, levels=[0.5], colors=LABEL_COLOUR, linewidths=1.0, extent=extent, origin="lower")
    for name, marker, colour in ((BACKGROUND, "x", BACKGROUND_COLOUR), (TUMOR, "+", TUMOR_COLOUR)):
        points_mm = (indices_zyx(step.clicks, name, grid.shape_zyx) + 0.5) * grid.spacing_zyx
        axes.plot(
            points_mm[:, across],
            points_mm[:, 0],
            marker,
            color=colour,
            markersize=6.5,
            markeredgewidth=1.6,
            path_effects=[withStroke(linewidth=3.2, foreground="white")],
        )
    frame(axes, grid, (across, (0, width)), (0, (0, height)))


def frame(
    axes: Axes, grid: Grid, horizontal: tuple[int, tuple[float, float]], vertical: tuple[int, tuple[float, float]]
) -> None:
    """Show a part of an image, given in mm from its first voxel's corner, the way round that `draw_projection` tells.

    Parameters
    ----------
    axes : matplotlib.axes.Axes
        Where the image is drawn.
    grid : Grid
        The image's.
    horizontal, vertical : (int, (float, float))
        Array axis (z, y, x) in each direction, and the ends of the part. With y upwards, as an axial image is shown,
        the patient's front is up.
    """
    sign_zyx = np.diag(np.reshape(grid.direction, (3, 3)))[::-1]
    for (axis, ends), is_vertical, limit in ((horizontal, False, axes.set_xlim), (vertical, True, axes.set_ylim)):
        is_reversed = (sign_zyx[axis] < 0) != (is_vertical and axis == CORONAL)
        limit(*(ends[::-1] if is_reversed else ends))
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)


def projections_png(replay: Replay, step: Step) -> bytes:
    """Draw the coronal and the sagittal projection of one step side by side.

    Returns
    -------
    bytes
        A PNG file.
    """
    depth, breadth, height = _size_mm(replay)
    total = breadth + GAP_MM + depth
    figure = Figure(figsize=(total / MM_PER_INCH, height / MM_PER_INCH), dpi=130, facecolor="white")
    draw_projection(figure.add_axes((0, 0, breadth / total, 1)), replay, step, CORONAL)
    draw_projection(figure.add_axes((1 - depth / total, 0, depth / total, 1)), replay, step, SAGITTAL)
    return png(figure)


def write_picture(path: Path, replays: Sequence[Replay]) -> None:
    """Write one wide figure: each case's coronal view at its first and last step, and the curves of DSC and FPV."""
    steps = [(replay, step) for replay in replays for step in (replay.steps[0], replay.steps[-1])]
    ratios = [breadth / height for _, breadth, height in (_size_mm(replay) for replay, _ in steps)]
    size = (3.9 * (sum(ratios) + 1.4), 4.8)
    figure = Figure(figsize=size, dpi=130, facecolor="white", layout="constrained")
    layout = figure.add_gridspec(2, len(steps) + 1, width_ratios=[*ratios, 1.3])
    for column, (replay, step) in enumerate(steps):
        axes = figure.add_subplot(layout[:, column])
        draw_projection(axes, replay, step, CORONAL)
        n_tumor, n_background = (sum(click.name == name for click in step.clicks) for name in (TUMOR, BACKGROUND))
        axes.set_title(f"{_title(replay)}\n{n_tumor} + {n_background} clicks", fontsize=9)
    for row, (measure, title) in enumerate((("dsc", "DSC"), ("fpv_ml", "FPV (ml)"))):
        axes = figure.add_subplot(layout[row, -1])
        axes.set_title(title, fontsize=9, loc="left")
        _draw_curves(axes, replays, measure)
    figure.axes[-1].set_xlabel("click pairs", fontsize=9)
    figure.legend(handles=_legend(), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    path.write_bytes(png(figure))


def _draw_curves(axes: Axes, replays: Sequence[Replay], measure: str) -> None:
    for replay, marker, colour in zip(replays, cycle("osD^v"), cycle(_CURVE_COLOURS), strict=False):
        points = [(step.number, getattr(step.scores, measure)) for step in replay.steps if step.scores]
        known = [(number, value) for number, value in points if not np.isnan(value)]
        if known:
            axes.plot(*zip(*known, strict=True), marker=marker, markersize=4, color=colour, label=_title(replay))
    axes.set_ylim(0, 1 if measure == "dsc" else None)
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(frameon=False, fontsize=8)


def _title(replay: Replay) -> str:
    return replay.name.replace("_", " ")


def _legend() -> list[Patch | Line2D]:
    marks = (("tumour click", "+", TUMOR_COLOUR), ("background click", "x", BACKGROUND_COLOUR))
    return [
        Line2D([], [], color=LABEL_COLOUR, label="label (outline)"),
        Patch(facecolor=_PREDICTION_TINT, label="prediction"),
        *(Line2D([], [], color=c, marker=m, linestyle="", markeredgewidth=1.6, label=text) for text, m, c in marks),
    ]


def tint(mask: NDArray[np.bool_], rgba: tuple[float, float, float, float]) -> NDArray[np.float64]:
    """Return an RGBA image, shape (..., 4), of a colour where the mask is and of nothing elsewhere."""
    tinted: NDArray[np.float64] = mask[..., None] * np.array(rgba)
    return tinted


def _size_mm(replay: Replay) -> tuple[float, float, float]:
    """Depth (y), breadth (x) and height (z) of the image."""
    height, depth, breadth = np.multiply(replay.pet.grid.shape_zyx, replay.pet.grid.spacing_zyx)
    return float(depth), float(breadth), float(height)


def png(figure: Figure) -> bytes:
    """Return a figure as a PNG file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()
