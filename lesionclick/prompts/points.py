"""Prompts: what was clicked or drawn on an image, in order. Pure.

Points are voxel indices in (x, y, z), as the platform gives them, and need not be whole; array indices are (z, y, x).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy  # whose parts are imported when they are first used, most of them never
from numpy.typing import ArrayLike, NDArray

from lesionclick.images import are_inside, indices_from_points, points_from_indices

TUMOR = "tumor"
BACKGROUND = "background"

SAME_LESION_MM = 50.0
"""Distance below which two tumour clicks are taken for clicks on one lesion; most lesions are smaller."""
STROKE_POINTS = 11
"""Number of linked points from which on they are a stroke: one more than the challenge's clicks of a kind, so that its
clicks are never taken for a stroke, wherever they lie.
"""
STROKE_LINK_MM = 8.0
"""Largest distance of linked points: the diagonal of a PET's pixel of 5.5 mm, the largest in use, is 7.8 mm."""


@dataclass(frozen=True)
class Point:
    """A point that was clicked, or one of those that were drawn in one stroke.

    Attributes
    ----------
    kind
        What it marks: in Task 1 `TUMOR` or `BACKGROUND`, in Task 2 the number of a lesion.
    point_xyz
        Voxel index along x, y, z.
    stroke
        Number of the stroke that it was drawn with; None for a click.
    """

    kind: str
    point_xyz: tuple[float, float, float]
    stroke: int | None = None


@dataclass(frozen=True)
class Prompts:
    """Points in the order in which they were set; repeated ones are kept, because the challenge's steps count them."""

    points: tuple[Point, ...] = ()

    def __len__(self) -> int:
        return len(self.points)

    def __iter__(self) -> Iterator[Point]:
        return iter(self.points)

    @classmethod
    def from_indices(cls, *, tumor_zyx: ArrayLike = (), background_zyx: ArrayLike = ()) -> Prompts:
        """Return clicks at array indices (z, y, x), each of shape (n, 3), tumour first."""
        kinds = ((TUMOR, tumor_zyx), (BACKGROUND, background_zyx))
        return cls(
            tuple(
                Point(kind, (float(x), float(y), float(z)))
                for kind, indices in kinds
                for z, y, x in np.asarray(indices, dtype=np.float64).reshape(-1, 3).tolist()
            )
        )

    def of(self, kind: str) -> Prompts:
        """Return the points of one kind."""
        return Prompts(tuple(point for point in self.points if point.kind == kind))

    def indices_zyx(self, kind: str | None = None) -> NDArray[np.float64]:
        """Return the array indices (z, y, x) of the points of a kind, or of all, shape (n, 3)."""
        places = [point.point_xyz for point in self.points if kind in (None, point.kind)]
        return indices_from_points(np.array(places, dtype=np.float64).reshape(-1, 3))

    def at_step(self, step: int) -> Prompts:
        """Return the points that step `step` of the challenge shows: the first so many of each kind, in their order."""
        seen: Counter[str] = Counter()
        kept = []
        for point in self.points:
            seen[point.kind] += 1
            if seen[point.kind] <= step:
                kept.append(point)
        return Prompts(tuple(kept))

    def followed_by(self, others: Iterable[Point]) -> Prompts:
        """Return these points and then the others."""
        return Prompts((*self.points, *others))

    def on_grid(self, shape_zyx: Sequence[int]) -> Prompts:
        """Return the points on whole voxels, rounded half to even, without those outside an array of `shape_zyx`."""
        rounded = self.moved(np.rint)
        inside = are_inside(rounded.indices_zyx(), tuple(shape_zyx))
        return Prompts(tuple(point for point, kept in zip(rounded, inside, strict=True) if kept))

    def voxels_zyx(self, kind: str) -> NDArray[np.int64]:
        """Return `indices_zyx` as integers; the points have to be whole, see `on_grid`."""
        return self.indices_zyx(kind).astype(np.int64)

    def moved(self, move: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> Prompts:
        """Return the points at other places; `move` takes and gives array indices (z, y, x) of shape (n, 3)."""
        places = points_from_indices(move(self.indices_zyx())).tolist()
        return Prompts(
            tuple(replace(point, point_xyz=(x, y, z)) for point, (x, y, z) in zip(self.points, places, strict=True))
        )


def pairs_within(places: NDArray[np.number], distance: float) -> NDArray[np.int64]:
    """Return the numbers of the places that lie within a distance of each other, two and two.

    Parameters
    ----------
    places
        Shape (n, 3) or (n, 2), n at least 1.
    distance
        In the unit of `places`.

    Returns
    -------
    NDArray
        Shape (pairs, 2), the lower number first.
    """
    # The tree splits places at the next larger number. That of zero is denormal: where PyTorch flushes these to zero,
    # as our training asks it to, the tree never ends. So no coordinate is zero.
    tree = scipy.spatial.KDTree(places - places.min(axis=0) + 1.0)
    pairs: NDArray[np.int64] = tree.query_pairs(distance, output_type="ndarray")
    return pairs


def are_in_strokes(points_zyx: NDArray[np.number], spacing_zyx: Sequence[float]) -> NDArray[np.bool_]:
    """Tell the points of strokes from clicks: they hang together, `STROKE_POINTS` of them or more.

    Two points are linked that lie within `STROKE_LINK_MM` of each other. Only places count, because a click file has no
    numbers of strokes; a stroke of fewer points passes for clicks.

    Parameters
    ----------
    points_zyx
        Voxel indices of the points of one kind, shape (n, 3).
    spacing_zyx
        Voxel size in mm.

    Returns
    -------
    NDArray
        Shape (n,), bool.
    """
    if len(points_zyx) < STROKE_POINTS:
        return np.zeros(len(points_zyx), dtype=bool)
    groups = group_points(points_zyx, spacing_zyx)
    inside: NDArray[np.bool_] = np.bincount(groups)[groups] >= STROKE_POINTS
    return inside


def group_points(points_zyx: NDArray[np.number], spacing_zyx: Sequence[float]) -> NDArray[np.int64]:
    """Return the number of the group of each point, from 0 on; points hang together as in `are_in_strokes`.

    The parameters are those of `are_in_strokes`; there is a point at least.
    """
    # each place once, since many points on one voxel would be many more pairs
    places, numbers = np.unique(np.asarray(points_zyx) * np.asarray(spacing_zyx), axis=0, return_inverse=True)
    pairs, count = pairs_within(places, STROKE_LINK_MM), len(places)
    links = scipy.sparse.coo_array((np.ones(len(pairs), dtype=bool), tuple(pairs.T)), shape=(count, count))
    groups: NDArray[np.int64] = scipy.sparse.csgraph.connected_components(links, directed=False)[1].astype(np.int64)
    return groups[numbers.ravel()]


def is_first_on_lesion(points_zyx: NDArray[np.number], spacing_zyx: Sequence[float]) -> NDArray[np.bool_]:
    """Tell the first click on each lesion from the further ones, which have an earlier one within `SAME_LESION_MM`.

    The challenge's first click on a lesion is its centre, and further ones lie on its rim: the one says where the mask
    has to grow, the others where it has to end. The points of a stroke (`are_in_strokes`) all count as first clicks,
    because a stroke is drawn through what is missing in the mask.

    Parameters
    ----------
    points_zyx
        Voxel indices of tumour points in the order in which they were made, shape (n, 3).
    spacing_zyx
        Voxel size in mm.

    Returns
    -------
    NDArray
        Shape (n,), bool.
    """
    places = np.asarray(points_zyx) * np.asarray(spacing_zyx)
    # one by one, since the pairs of some thousand points in one lesion take gigabytes
    further = [
        bool((np.linalg.norm(places[:n] - place, axis=-1) < SAME_LESION_MM).any()) for n, place in enumerate(places)
    ]
    return ~np.array(further, dtype=bool) | are_in_strokes(points_zyx, spacing_zyx)


def describe_oddities(prompts: Prompts, shape_zyx: Sequence[int]) -> list[str]:
    """Say what is odd about points and tolerated, one sentence for each kind of oddity.

    These are: coordinates that are not whole (rounded half to even), points outside the image (ignored), and points on
    a voxel that was clicked before (kept).
    """
    points, places = prompts.points, np.rint(prompts.indices_zyx())
    fractional = [point for point in points if any(v != int(v) for v in point.point_xyz)]
    outside = [point for point, inside in zip(points, are_inside(places, tuple(shape_zyx)), strict=True) if not inside]
    firsts = set(np.unique(places, axis=0, return_index=True)[1].tolist())
    repeated = [point for n, point in enumerate(points) if n not in firsts]
    size_xyz = tuple(shape_zyx[::-1])
    return [
        f"{len(odd)} of {len(points)} clicks {what}, such as {odd[0].kind} {odd[0].point_xyz}"
        for odd, what in (
            (fractional, "have coordinates that are not whole, which are rounded half to even"),
            (outside, f"lie outside the image of {size_xyz} voxels (x, y, z) and are ignored"),
            (repeated, "are on a voxel that was clicked before, and are kept"),
        )
        if odd
    ]
