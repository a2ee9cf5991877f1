"""Lesions by number: the labels of a mask and the points of a click file, brought together. No files."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Collection, Mapping
from typing import TypeAlias

import numpy as np
import scipy  # whose parts are imported when they are first used
from numpy.typing import NDArray

from lesionclick.images import Volume, are_inside, indices_from_points, points_from_indices

logger = logging.getLogger(__name__)

LesionPoints: TypeAlias = Mapping[int, tuple[float, float, float]]
"""Voxel index (x, y, z), which need not be whole, by the number of the lesion."""

MAX_COMPONENT_MM = 50.0
"""Distance up to which a component of a binary mask belongs to a point; most lesions are smaller."""


def match_points(mask: Volume, points: LesionPoints, points_name: str, mask_name: str) -> tuple[Volume, LesionPoints]:
    """Bring a mask and its points together, so that every lesion has a number and a point in the image.

    A binary mask is numbered by its points, see `_number_components`; a lesion without a point in the image gets its
    centre of gravity, and one without a point and a voxel is left out.

    Parameters
    ----------
    mask
        Numbers of lesions, shape (z, y, x).
    points
        As they were given.
    points_name, mask_name
        What to call them in warnings.
    """
    inside = points_inside(points, mask.grid.shape_zyx)
    boxes = _find_labels(mask.array)
    if list(boxes) == [1] and inside and list(points) != [1]:
        mask = _number_components(mask, inside, mask_name)
        boxes = _find_labels(mask.array)
    outside, labels = points.keys() - inside, boxes.keys()
    centre = "its centre of gravity is used"
    for odd, what in (
        (labels & outside, f"the point lies outside the image, {centre}"),
        (outside - labels, "the point lies outside the image, there is no voxel in the mask, the lesion is left out"),
        (labels - points.keys(), f"there is no point, {centre}"),
        (inside.keys() - labels, "there is no voxel in the mask, the lesion is known by its point alone"),
    ):
        warn_about_lesions(points_name, odd, what)
    centres = {number: _centre_xyz(mask.array, number, boxes[number]) for number in labels - inside.keys()}
    return mask, dict(sorted((inside | centres).items()))


def points_inside(points: LesionPoints, shape_zyx: tuple[int, ...]) -> dict[int, tuple[float, float, float]]:
    """Return the points that are rounded, half to even, to a voxel of an image of `shape_zyx`."""
    return {
        number: point for number, point in points.items() if are_inside(indices_from_points(point), shape_zyx).all()
    }


def warn_about_lesions(name: str, lesions: Collection[int], what: str) -> None:
    """Log one warning about some lesions of a file, if there are any."""
    if lesions:
        logger.warning("%s: lesions %s: %s", name, reprlib.repr(sorted(lesions)), what)


def _find_labels(mask: NDArray[np.integer]) -> dict[int, tuple[slice, ...]]:
    """Return the bounding box of every label that a mask has."""
    return {number: box for number, box in enumerate(scipy.ndimage.find_objects(mask), start=1) if box is not None}


def _centre_xyz(mask: NDArray[np.uint16], number: int, box: tuple[slice, ...]) -> tuple[float, float, float]:
    """Return the centre of gravity of a label, as a voxel index (x, y, z)."""
    corner = [part.start for part in box]
    centre_zyx = np.add(scipy.ndimage.center_of_mass(mask[box] == number), corner)
    x, y, z = points_from_indices(centre_zyx).tolist()
    return x, y, z


def _number_components(mask: Volume, points: LesionPoints, name: str) -> Volume:
    """Give each component (26 neighbours) of a binary mask the number of the point nearest to any of its voxels.

    Components further than `MAX_COMPONENT_MM` from all points are left out. One point may have several components.
    """
    components, count = scipy.ndimage.label(mask.array, structure=np.ones((3, 3, 3)))
    tree, numbers = scipy.spatial.KDTree(mask.grid.to_physical(list(points.values()))), list(points)
    number_of = np.zeros(count + 1, dtype=np.uint16)
    for component, box in _find_labels(components).items():
        indices_zyx = np.argwhere(components[box] == component) + [part.start for part in box]
        distance, point = map(np.asarray, tree.query(mask.grid.to_physical(points_from_indices(indices_zyx))))
        if distance.min() <= MAX_COMPONENT_MM:
            number_of[component] = numbers[point[distance.argmin()]]
    logger.warning(
        "%s: expected a number for every lesion, found a binary mask: %d of %d components take the number of the "
        "nearest point, those further than %g mm from all points are left out",
        name,
        np.count_nonzero(number_of),
        count,
        MAX_COMPONENT_MM,
    )
    return Volume(number_of[components], mask.grid)
