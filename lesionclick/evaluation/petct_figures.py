"""Pictures of a PET/CT case: maximum-intensity projections with masks and clicks, as PNG."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke

from lesionclick.evaluation.figures import (
    BACKGROUND_COLOUR,
    CORONAL,
    GAP_MM,
    LABEL_COLOUR,
    MM_PER_INCH,
    PREDICTION_COLOUR,
    SAGITTAL,
    TUMOR_COLOUR,
    draw_curves,
    frame,
    plain,
    save,
    tint,
)
from lesionclick.evaluation.petct_replay import PetCtReplay, PetCtStep
from lesionclick.images import Volume
from lesionclick.prompts.points import BACKGROUND, TUMOR

SUV_WINDOW = (0.0, 10.0)
"""From white to black."""

_PREDICTION_TINT = to_rgba(PREDICTION_COLOUR, 0.75)


def draw_projection(axes: Axes, replay: PetCtReplay, step: PetCtStep, along: int) -> None:
    """Draw one projection of the PET with the label's outline, the predicted mask and the step's clicks.

    The PET is inverted grey over `SUV_WINDOW`; lengths are true, by the spacing.

    Parameters
    ----------
    axes
        Where to draw.
    replay
        The case.
    step
        The step whose mask and clicks are drawn.
    along
        Array axis to project along: `CORONAL` or `SAGITTAL`.
    """
    grid = replay.pet.grid
    across = SAGITTAL if along == CORONAL else CORONAL
    height, width = (grid.shape_zyx[axis] * grid.spacing_zyx[axis] for axis in (0, across))
    extent = (0.0, width, 0.0, height)

    low, high = SUV_WINDOW
    pet = replay.pet.array.max(axis=along)
    axes.imshow(pet, cmap="gray_r", vmin=low, vmax=high, extent=extent, origin="lower", interpolation="bilinear")
    predicted = Volume.read(step.mask).array.max(axis=along) > 0
    axes.imshow(tint(predicted, _PREDICTION_TINT), extent=extent, origin="lower", interpolation="nearest")
    if replay.label is not None and replay.label.array.any():
        outline = (replay.label.array.max(axis=along) > 0).astype(float)
        axes.contour(outline, levels=[0.5], colors=LABEL_COLOUR, linewidths=1.0, extent=extent, origin="lower")
    clicks = step.prompts.on_grid(grid.shape_zyx)
    for kind, marker, colour in ((BACKGROUND, "x", BACKGROUND_COLOUR), (TUMOR, "+", TUMOR_COLOUR)):
        points_mm = (clicks.indices_zyx(kind) + 0.5) * grid.spacing_zyx
        axes.plot(
            points_mm[:, across],
            points_mm[:, 0],
            marker,
            color=colour,
            markersize=6.5 if replay.points_are == "clicks" else 2.5,
            markeredgewidth=1.6,
            path_effects=[withStroke(linewidth=3.2, foreground="white")],
        )
    frame(axes, grid, (across, (0, width)), (0, (0, height)))


def projections_png(replay: PetCtReplay, step: PetCtStep) -> bytes:
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
    return save(figure, "png")


def write_picture(path: Path, replays: Sequence[PetCtReplay]) -> None:
    """Write one wide figure: each case's coronal view at its first and last step, and curves of the first measures.

    Parameters
    ----------
    path
        Of the PNG file.
    replays
        A few cases, at least one.
    """
    steps = [(replay, step) for replay in replays for step in (replay.steps[0], replay.steps[-1])]
    ratios = [breadth / height for _, breadth, height in (_size_mm(replay) for replay, _ in steps)]
    size = (3.9 * (sum(ratios) + 1.4), 4.8)
    figure = Figure(figsize=size, dpi=130, facecolor="white", layout="constrained")
    layout = figure.add_gridspec(2, len(steps) + 1, width_ratios=[*ratios, 1.3])
    for column, (replay, step) in enumerate(steps):
        axes = figure.add_subplot(layout[:, column])
        draw_projection(axes, replay, step, CORONAL)
        n_tumor, n_background = (len(step.prompts.of(kind)) for kind in (TUMOR, BACKGROUND))
        name = plain(replay.name.replace("_", " ")).strip()
        axes.set_title(f"{name}\n{n_tumor} + {n_background} {replay.points_are}", fontsize=9)
    for row, measure in enumerate(replays[0].measures[:2]):
        draw_curves(figure.add_subplot(layout[row, -1]), measure, [replay.result for replay in replays])
    figure.axes[-1].set_xlabel("step", fontsize=9)
    figure.legend(handles=_legend(replays[0].points_are), loc="outside lower left", ncols=4, frameon=False, fontsize=9)
    path.write_bytes(save(figure, "png"))


def _legend(points_are: str) -> list[Patch | Line2D]:
    marks = ((f"tumour {points_are}", "+", TUMOR_COLOUR), (f"background {points_are}", "x", BACKGROUND_COLOUR))
    return [
        Line2D([], [], color=LABEL_COLOUR, label="label (outline)"),
        Patch(facecolor=_PREDICTION_TINT, label="prediction"),
        *(Line2D([], [], color=c, marker=m, linestyle="", markeredgewidth=1.6, label=text) for text, m, c in marks),
    ]


def _size_mm(replay: PetCtReplay) -> tuple[float, float, float]:
    """Depth (y), breadth (x) and height (z) of the image."""
    height, depth, breadth = np.multiply(replay.pet.grid.shape_zyx, replay.pet.grid.spacing_zyx)
    return float(depth), float(breadth), float(height)
