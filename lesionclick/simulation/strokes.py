"""Simulated strokes: how autoPET V draws a corrective scribble into the largest error of a mask. Pure.

Arrays are (z, y, x), voxel indices have shape (n, 3) in the order z, y, x. Distances are in voxels. A stroke lies in
one axial slice, in which diagonal neighbours touch.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra
from skimage.draw import line
from skimage.morphology import skeletonize

from lesionclick.prompts.points import BACKGROUND, TUMOR, pairs_within

Indices = NDArray[np.int64]
Mask = NDArray[np.bool_]
Way = Literal["centre line", "line", "rim"]

TRIMMED_SHARE = 0.1
"""Share of a centre line that is cut off at each of its ends (autoPET V)."""
RIM_SHARE = 0.2
"""Share of the rim that is drawn (autoPET V)."""
_IN_PLANE = np.array([np.zeros((3, 3)), np.ones((3, 3)), np.zeros((3, 3))])


@dataclass(frozen=True)
class Stroke:
    """What was drawn.

    Attributes
    ----------
    kind
        `TUMOR` through what a mask misses, `BACKGROUND` through what it adds.
    voxels_zyx
        Voxel indices, shape (n, 3), each once, at least one.
    """

    kind: str
    voxels_zyx: Indices


def corrective_stroke(label: Mask, prediction: Mask, rng: np.random.Generator) -> Stroke | None:
    """Draw the next stroke in the largest error of a prediction.

    A stroke of each kind is drawn in the largest component of its errors in any axial slice, both in one of the three
    ways, which is drawn at random; the one with more voxels counts, and the tumour's where they are equal.

    Parameters
    ----------
    label, prediction
        True and predicted tumour voxels, shape (z, y, x).
    rng
        The only source of randomness.

    Returns
    -------
    Stroke or None
        None where there is no error.

    Raises
    ------
    ValueError
        If the arrays differ in shape.
    """
    if label.shape != prediction.shape or label.ndim != 3:
        raise ValueError(f"expected two (z, y, x) arrays of one shape, found {label.shape} and {prediction.shape}")
    way: Way = get_args(Way)[rng.integers(3)]
    strokes = []
    for kind, error in ((TUMOR, label & ~prediction), (BACKGROUND, prediction & ~label)):
        if (found := largest_in_slices(error)) is not None:
            z, region = found
            strokes.append(Stroke(kind, np.insert(draw(region, way, rng), 0, z, axis=1)))
    return max(strokes, key=lambda stroke: len(stroke.voxels_zyx), default=None)


def largest_in_slices(region: Mask) -> tuple[int, Mask] | None:
    """Return the largest component of any axial slice: the slice, and the component's voxels, shape (y, x).

    Of equal ones, the first counts. None where `region`, shape (z, y, x), is empty.
    """
    window = ndimage.find_objects(region.astype(np.int8))
    if not window:
        return None
    numbers, _ = ndimage.label(region[window[0]], _IN_PLANE)
    largest = int(np.bincount(numbers.ravel())[1:].argmax()) + 1
    z = int(np.flatnonzero((numbers == largest).any(axis=(1, 2)))[0])
    component = np.zeros(region.shape[1:], dtype=bool)
    component[window[0][1:]] = numbers[z] == largest
    return z + window[0][0].start, component


def draw(region: Mask, way: Way, rng: np.random.Generator) -> Indices:
    """Draw a stroke into a component of one slice.

    Parameters
    ----------
    region
        Shape (y, x), one component in which diagonal neighbours touch.
    way
        ``centre line``: the longest path along the skeleton, without `TRIMMED_SHARE` of its pixels at each end.
        ``line``: straight from one random pixel to another, as far as it lies inside. ``rim``: `RIM_SHARE` of the
        pixels that have a neighbour outside, those nearest along the rim to a random one of them.
    rng
        The only source of randomness.

    Returns
    -------
    NDArray
        Pixel indices, shape (n, 2) in the order y, x, each once, at least one.
    """
    if way == "line":
        start, end = rng.choice(np.argwhere(region), 2)
        pixels = np.stack(line(*start, *end), axis=1).astype(np.int64)
        inside: Indices = pixels[region[tuple(pixels.T)]]
        return inside
    if way == "rim":
        rim = np.argwhere(region & ~ndimage.binary_erosion(region))
        distance, _ = _walk(rim, int(rng.integers(len(rim))))
        nearest: Indices = rim[np.argsort(distance, kind="stable")[: math.ceil(RIM_SHARE * len(rim))]]
        return nearest
    path = _longest_path(np.argwhere(skeletonize(region)))
    trimmed = int(TRIMMED_SHARE * len(path))
    return path[trimmed : len(path) - trimmed]


def _longest_path(pixels: Indices) -> Indices:
    """Return the way between the two ends of a line, shape (n, 2), that are farthest from each other along it."""
    distance, _ = _walk(pixels, 0)
    start = int(np.where(np.isfinite(distance), distance, -1.0).argmax())
    distance, before = _walk(pixels, start)
    path = [int(np.where(np.isfinite(distance), distance, -1.0).argmax())]
    while path[-1] != start:
        path.append(int(before[path[-1]]))
    return pixels[path]


def _walk(pixels: Indices, start: int) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Walk from one of some pixels to the others, over those that touch.

    Returns
    -------
    distance : NDArray
        Of each pixel, shape (n,); infinite where there is no way.
    before : NDArray
        The pixel from which each is reached, shape (n,).
    """
    pairs = pairs_within(pixels, 1.5)  # a diagonal is 1.41 long
    lengths = np.linalg.norm(pixels[pairs[:, 0]] - pixels[pairs[:, 1]], axis=1)
    touching = coo_array((lengths, tuple(pairs.T)), shape=(len(pixels), len(pixels))).tocsr()
    distance, before = dijkstra(touching, directed=False, indices=[start], return_predecessors=True)
    return distance[0], before[0]
