"""Pictures of a longitudinal case, baseline and follow-up side by side, as PNG.

The CT is grey over `HU_WINDOW`; what is given or true is outlined, what was found is tinted. Lengths are true by the
spacing; the patient's left is on the right, the head or the front up, except that an oblique image is drawn along its
own axes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.evaluation.figures import (
    CORONAL,
    GAP_MM,
    LABEL_COLOUR,
    MM_PER_INCH,
    PREDICTION_COLOUR,
    SAGITTAL,
    TUMOR_COLOUR,
    frame,
    save,
    tint,
)
from lesionclick.evaluation.longitudinal_replay import LongitudinalReplay, followup_regions
from lesionclick.images import Volume, points_from_indices
from lesionclick.longitudinal.case import Baseline
from lesionclick.longitudinal.labels import LesionPoints

HU_WINDOW = (-160.0, 240.0)
"""A usual window for soft tissue: 400 HU wide around 40 HU."""

_AXIAL = 0
_TINT = to_rgba(PREDICTION_COLOUR, 0.5)
_FAINT_TINT = to_rgba(PREDICTION_COLOUR, 0.2)
_SMALLEST_HALF_MM, _MARGIN_MM, _LARGEST_HALF_MM = 25.0, 12.0, 90.0
_CROP_INCHES = 1.7

Numbers = NDArray[np.integer]


@dataclass(frozen=True)
class Scene:
    """One CT with what is drawn on it.

    Attributes
    ----------
    title
        Above the CT.
    ct
        In HU.
    outlined, tinted
        Arrays (z, y, x): numbers of the lesions that are given or true, and of those found, on the CT's grid.
    points
        Points that the step saw on this CT, by the number of the lesion.
    """

    title: str
    ct: Volume
    outlined: Numbers | None
    tinted: Numbers | None
    points: LesionPoints

    @cached_property
    def outlined_places(self) -> dict[int, "_Place"]:
        """Where the outlined lesions are, by number."""
        return _find_places(self.outlined)

    @cached_property
    def tinted_places(self) -> dict[int, "_Place"]:
        """Where the tinted lesions are, by number."""
        return _find_places(self.tinted)


@dataclass(frozen=True)
class _Place:
    """Centre of gravity and size of the bounding box of a lesion, in voxels (x, y, z)."""

    centre_xyz: NDArray[np.float64]
    size_xyz: NDArray[np.float64]


def baseline_scene(baseline: Baseline) -> Scene:
    """Return what a baseline shows: its mask and its points."""
    return Scene("baseline", baseline.ct, baseline.lesions.array, None, baseline.points)


def followup_scenes(replay: LongitudinalReplay) -> dict[str, tuple[Scene, ...]]:
    """Return what the follow-up of each region shows at each step."""
    return {
        followup.region: tuple(
            Scene(
                f"follow-up, step {step.number}",
                followup.ct,
                replay.labels[region.mask.socket].array if replay.labels else None,
                Volume.read(step.masks[region.mask.socket]).array,
                followup.points if step.points else {},
            )
            for step in replay.steps
        )
        for followup, region in zip(replay.case.followups, followup_regions(replay.case), strict=True)
    }


def coronal_png(scenes: Sequence[Scene]) -> bytes:
    """Draw the bodies side by side: a coronal plane through the lesions, with all of them projected onto it.

    Returns
    -------
    bytes
        A PNG file.
    """
    sizes_mm = [np.multiply(scene.ct.grid.shape_zyx, scene.ct.grid.spacing_zyx) for scene in scenes]
    height = max(float(size[_AXIAL]) for size in sizes_mm)
    width = sum(float(size[SAGITTAL]) for size in sizes_mm) + GAP_MM * (len(scenes) - 1)
    title_mm = 26.0
    total = height + title_mm
    figure = Figure(figsize=(width / MM_PER_INCH, total / MM_PER_INCH), dpi=130, facecolor="white")
    left = 0.0
    for scene, size in zip(scenes, sizes_mm, strict=True):
        box = (left / width, (height - size[_AXIAL]) / total, size[SAGITTAL] / width, size[_AXIAL] / total)
        axes = figure.add_axes(box)
        draw_coronal(axes, scene)
        axes.set_title(scene.title, fontsize=7, pad=2)
        left += size[SAGITTAL] + GAP_MM
    return save(figure, "png")


def draw_coronal(axes: Axes, scene: Scene) -> None:
    """Draw a coronal plane of a scene with every lesion projected onto it, and the number beside each."""
    grid = scene.ct.grid
    depth = _coronal_plane(scene)
    outlined, tinted = (None if mask is None else mask.max(axis=CORONAL) for mask in (scene.outlined, scene.tinted))
    _draw_plane(axes, scene, CORONAL, depth, outlined=outlined, tinted=tinted)
    for number, place in (scene.tinted_places | scene.outlined_places).items():
        x, _, z = (place.centre_xyz + 0.5) * grid.spacing_xyz
        axes.annotate(
            str(number),
            (x, z),
            (6, 5),
            textcoords="offset points",
            fontsize=6.5,
            color="black",
            path_effects=[withStroke(linewidth=2, foreground="white")],
        )
    depth_mm, _, breadth_mm = np.multiply(grid.shape_zyx, grid.spacing_zyx)
    frame(axes, grid, (SAGITTAL, (0.0, breadth_mm)), (_AXIAL, (0.0, depth_mm)))


def lesion_png(then: Scene | None, now: Sequence[Scene], number: int) -> bytes:
    """Draw one lesion in axial crops of one size: the baseline, and the follow-up at each step.

    The crops of the follow-up lie in one place: where the label has the lesion, else where its point is, else where it
    was found. A crop is left empty where the lesion has no place.

    Returns
    -------
    bytes
        A PNG file.
    """
    scenes = [then, *now]
    half_mm = _half_width_mm([scene for scene in scenes if scene], number)
    centre_then = None if then is None else _find_centre([then], number)
    centres = [centre_then, *([_find_centre(now, number)] * len(now))]
    gap = 0.04
    width, title = len(scenes) + gap * (len(scenes) - 1), 0.12
    figure = Figure(figsize=(width * _CROP_INCHES, (1 + title) * _CROP_INCHES), dpi=110, facecolor="white")
    for column, (scene, centre) in enumerate(zip(scenes, centres, strict=True)):
        axes = figure.add_axes((column * (1 + gap) / width, 0, 1 / width, 1 / (1 + title)))
        axes.set_title("baseline" if scene is None else scene.title, fontsize=7, pad=2)
        if scene is None or centre is None:
            axes.text(0.5, 0.5, "not there", ha="center", va="center", fontsize=7, transform=axes.transAxes)
            axes.set(xticks=[], yticks=[])
        else:
            draw_axial(axes, scene, centre, half_mm, number=number)
    return save(figure, "png")


def draw_axial(axes: Axes, scene: Scene, centre_xyz: NDArray[np.float64], half_mm: float, *, number: int) -> None:
    """Draw a square of twice `half_mm` around a voxel index (x, y, z), with lesion `number` before the others."""
    grid = scene.ct.grid
    depth = int(np.clip(np.rint(centre_xyz[2]), 0, grid.size_xyz[2] - 1))
    outlined, tinted = (None if mask is None else mask[depth] for mask in (scene.outlined, scene.tinted))
    _draw_plane(axes, scene, _AXIAL, depth, outlined=outlined, tinted=tinted, number=number)
    if number in scene.points:
        x, y, _ = (np.array(scene.points[number]) + 0.5) * grid.spacing_xyz
        axes.plot(x, y, "+", color=TUMOR_COLOUR, markersize=7, markeredgewidth=1.4)
    x, y, _ = (centre_xyz + 0.5) * grid.spacing_xyz
    frame(axes, grid, (SAGITTAL, (x - half_mm, x + half_mm)), (CORONAL, (y - half_mm, y + half_mm)))
    axes.set_facecolor("black")  # beyond the image


def _draw_plane(
    axes: Axes,
    scene: Scene,
    along: int,
    depth: int,
    *,
    outlined: Numbers | None,
    tinted: Numbers | None,
    number: int | None = None,
) -> None:
    """Draw a plane of the CT and planes of the masks, all lesions alike or `number` before the others."""
    grid = scene.ct.grid
    rows, columns = (axis for axis in (_AXIAL, CORONAL, SAGITTAL) if axis != along)
    height, width = (grid.shape_zyx[axis] * grid.spacing_zyx[axis] for axis in (rows, columns))
    extent = (0.0, float(width), 0.0, float(height))

    def show(image: NDArray[Any], interpolation: str) -> None:
        axes.imshow(image, "gray", vmin=low, vmax=high, interpolation=interpolation, extent=extent, origin="lower")

    low, high = HU_WINDOW
    show(np.take(scene.ct.array, depth, axis=along), "bilinear")
    if tinted is not None:
        chosen = tinted > 0 if number is None else tinted == number
        show(tint(chosen, _TINT), "nearest")
        show(tint((tinted > 0) & ~chosen, _FAINT_TINT), "nearest")
    if outlined is not None:
        chosen = outlined > 0 if number is None else outlined == number
        for mask, linewidth in ((chosen, 1.1), ((outlined > 0) & ~chosen, 0.5)):
            if mask.any():
                axes.contour(
                    mask.astype(float),
                    levels=[0.5],
                    colors=LABEL_COLOUR,
                    linewidths=linewidth,
                    extent=extent,
                    origin="lower",
                )


def _coronal_plane(scene: Scene) -> int:
    """Return the array index of the coronal plane through the middle of the lesions, else of the image."""
    for mask in (scene.outlined, scene.tinted):
        if mask is not None and mask.any():
            return int(np.median(np.nonzero(mask)[CORONAL]))
    return scene.ct.grid.shape_zyx[CORONAL] // 2


def _find_centre(scenes: Sequence[Scene], number: int) -> NDArray[np.float64] | None:
    """Return the voxel index (x, y, z) at which scenes of one CT show a lesion."""
    last = scenes[-1]
    if number in last.outlined_places:
        return last.outlined_places[number].centre_xyz
    if number in last.points:
        return np.array(last.points[number])
    found = (scene.tinted_places[number] for scene in reversed(scenes) if number in scene.tinted_places)
    return next((place.centre_xyz for place in found), None)


def _half_width_mm(scenes: Sequence[Scene], number: int) -> float:
    """Return half the width of crops that hold a lesion in all scenes, unless it is very large."""
    half = _SMALLEST_HALF_MM
    for scene in scenes:
        for places in (scene.outlined_places, scene.tinted_places):
            if number in places:
                size_mm = places[number].size_xyz * scene.ct.grid.spacing_xyz
                half = max(half, size_mm[:2].max() / 2 + _MARGIN_MM)
    return float(min(half, _LARGEST_HALF_MM))


def _find_places(mask: Numbers | None) -> dict[int, _Place]:
    places: dict[int, _Place] = {}
    for number, box in enumerate([] if mask is None else ndimage.find_objects(mask), start=1):
        if box is not None and mask is not None:
            indices_zyx = np.argwhere(mask[box] == number) + [part.start for part in box]
            size_zyx = [part.stop - part.start for part in box]
            places[number] = _Place(points_from_indices(indices_zyx.mean(axis=0)), points_from_indices(size_zyx))
    return places
