"""A case as it comes from the platform, read and checked, and where its masks go.

What is not as promised is refused; nothing is repaired. Tolerated with one warning each: two images of a pair whose
grids differ by rounding (the one that the clicks are on is used), a PET that looks like Bq/ml, what
`lesionclick.prompts.points.warn_about_clicks` lists, and points of Task 2 that lie outside or do not go with the mask.
"""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import KDTree

from lesionclick.errors import InputError
from lesionclick.grand_challenge.image_files import ImageFile, require_writable
from lesionclick.grand_challenge.interfaces import (
    CT,
    LESION_CLICKS,
    PET,
    REGIONS,
    Region,
    Socket,
    find_interface,
    interfaces_of,
    locate,
)
from lesionclick.images import Volume, require_same_grid
from lesionclick.prompts.points import (
    Click,
    is_inside,
    points_from_indices,
    read_clicks,
    read_lesion_points,
    warn_about_clicks,
)

logger = logging.getLogger(__name__)

MAX_SUV = 1000.0
"""Uptake above which a PET is taken for one in Bq/ml: even a full bladder stays a few times below it."""

MAX_COMPONENT_MM = 50.0
"""Distance up to which a component of a binary mask belongs to a point; most lesions are smaller."""

Points = Mapping[int, tuple[float, float, float]]
"""Voxel index (x, y, z), which need not be whole, by the number of the lesion."""


@dataclass(frozen=True)
class PetCtCase:
    """The input of Task 1.

    Attributes
    ----------
    ct
        CT in HU, float32, on the PET's grid.
    pet
        PET in SUV, float32.
    clicks
        In the order of the file; those outside the image are among them.
    stem
        Name of the CT's file without its ending, which the mask takes over.
    """

    ct: Volume
    pet: Volume
    clicks: tuple[Click, ...]
    stem: str

    @classmethod
    def read(cls, input_dir: Path) -> PetCtCase:
        """Read and check the case that the platform laid out in `input_dir`.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        find_interface(input_dir, interfaces_of("task1"))
        ct_file, pet_file = (ImageFile.find(input_dir, socket) for socket in (CT, PET))
        require_same_grid(ct_file.grid, pet_file.grid, str(ct_file), str(pet_file))
        clicks = read_clicks(locate(input_dir, LESION_CLICKS.relative_path))
        ct, pet = _moved(ct_file.read(), ct_file, pet_file), pet_file.read()
        _check_uptake(pet.array, str(pet_file))
        warn_about_clicks(clicks, pet.grid.shape_zyx, LESION_CLICKS.slug)
        return cls(ct, pet, clicks, ct_file.path.stem)


@dataclass(frozen=True)
class Baseline:
    """The earlier CT of a body region in Task 2, with its lesions.

    Attributes
    ----------
    region
        ``primary`` or ``secondary``.
    ct
        CT in HU, float32.
    lesions
        The number of the lesion in each of its voxels and 0 elsewhere, uint16, on the grid of the CT.
    points
        A point in the image for every lesion; a lesion may have no voxel.
    """

    region: str
    ct: Volume
    lesions: Volume
    points: Points

    @classmethod
    def read(cls, input_dir: Path, region: Region) -> Baseline:
        """Read and check the baseline of a region, and bring its points and its mask together.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        ct_file, mask_file = (
            ImageFile.find(input_dir, socket) for socket in (region.baseline_ct, region.baseline_mask)
        )
        require_same_grid(mask_file.grid, ct_file.grid, str(mask_file), str(ct_file))
        points = read_lesion_points(locate(input_dir, region.baseline_clicks.relative_path))
        ct, mask = ct_file.read(), _moved(mask_file.read_labels(), mask_file, ct_file)
        return cls(region.name, ct, *_match(mask, points, region))


@dataclass(frozen=True)
class Followup:
    """The later CT of a body region in Task 2, whose lesions are wanted.

    Attributes
    ----------
    region
        ``primary`` or ``secondary``.
    ct
        CT in HU, float32.
    points
        Points in the image, none in the first step.
    stem
        Name of the CT's file without its ending, which the mask takes over.
    output
        Where the mask goes.
    """

    region: str
    ct: Volume
    points: Points
    stem: str
    output: Socket

    @classmethod
    def read(cls, input_dir: Path, region: Region) -> Followup:
        """Read and check the follow-up of a region.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        file = ImageFile.find(input_dir, region.followup_ct)
        points = read_lesion_points(locate(input_dir, region.followup_clicks.relative_path))
        inside = _inside(points, file.grid.shape_zyx)
        what = f"the point lies outside the image of {file.grid.size_xyz} voxels (x, y, z) and is ignored"
        _warn(region.followup_clicks, points.keys() - inside, what)
        return cls(region.name, file.read(), inside, file.path.stem, region.mask)


@dataclass(frozen=True)
class LongitudinalCase:
    """The input of Task 2: one or two of each, the primary region first."""

    baselines: tuple[Baseline, ...]
    followups: tuple[Followup, ...]

    @classmethod
    def read(cls, input_dir: Path) -> LongitudinalCase:
        """Read and check the case that the platform laid out in `input_dir`.

        Raises
        ------
        InputError
            If anything is missing, broken, or not what the platform promises.
        """
        inputs = find_interface(input_dir, interfaces_of("task2")).inputs
        return cls(
            tuple(Baseline.read(input_dir, region) for region in REGIONS if region.baseline_ct in inputs),
            tuple(Followup.read(input_dir, region) for region in REGIONS if region.followup_ct in inputs),
        )


def read_case(input_dir: Path) -> PetCtCase | LongitudinalCase:
    """Read and check the case in `input_dir`, of whichever task it is.

    Raises
    ------
    InputError
        If anything is missing, broken, or not what the platform promises.
    """
    is_task1 = find_interface(input_dir).task == "task1"
    return PetCtCase.read(input_dir) if is_task1 else LongitudinalCase.read(input_dir)


def _moved(volume: Volume, file: ImageFile, target: ImageFile) -> Volume:
    """Give a volume the grid of the image that it belongs to, which was found to be the same up to rounding."""
    if volume.grid != target.grid:
        logger.warning("%s and %s: grids differ by rounding, the second is used", file, target)
    return Volume(volume.array, target.grid)


def _check_uptake(pet: NDArray[np.float32], name: str) -> None:
    low, high = pet.min(), pet.max()
    if low == high:
        raise InputError(f"{name}: expected a PET, found the value {low} in every voxel")
    if high > MAX_SUV:
        logger.warning("%s: the maximum is %.4g, which looks like Bq/ml; expected SUV, and went on", name, high)


def _match(mask: Volume, points: Points, region: Region) -> tuple[Volume, Points]:
    """Bring a mask and its points together, so that every lesion has a number and a point in the image."""
    inside = _inside(points, mask.grid.shape_zyx)
    boxes = _find_labels(mask.array)
    if list(boxes) == [1] and inside and list(points) != [1]:
        mask = _number_components(mask, inside, region.baseline_mask)
        boxes = _find_labels(mask.array)
    outside, labels = points.keys() - inside, boxes.keys()
    centre = "its centre of gravity is used"
    for odd, what in (
        (labels & outside, f"the point lies outside the image, {centre}"),
        (outside - labels, "the point lies outside the image, there is no voxel in the mask, the lesion is left out"),
        (labels - points.keys(), f"there is no point, {centre}"),
        (inside.keys() - labels, "there is no voxel in the mask, the lesion is known by its point alone"),
    ):
        _warn(region.baseline_clicks, odd, what)
    centres = {number: _centre_xyz(mask.array, number, boxes[number]) for number in labels - inside.keys()}
    return mask, dict(sorted((inside | centres).items()))


def _inside(points: Points, shape_zyx: tuple[int, ...]) -> dict[int, tuple[float, float, float]]:
    return {number: point for number, point in points.items() if is_inside(point, shape_zyx)}


def _warn(socket: Socket, lesions: Collection[int], what: str) -> None:
    if lesions:
        logger.warning("%s: lesions %s: %s", socket.slug, reprlib.repr(sorted(lesions)), what)


def _find_labels(mask: NDArray[np.integer]) -> dict[int, tuple[slice, ...]]:
    """Return the bounding box of every label that a mask has."""
    return {number: box for number, box in enumerate(ndimage.find_objects(mask), start=1) if box is not None}


def _centre_xyz(mask: NDArray[np.uint16], number: int, box: tuple[slice, ...]) -> tuple[float, float, float]:
    """Return the centre of gravity of a label, as a voxel index (x, y, z)."""
    corner = [part.start for part in box]
    centre_zyx = np.add(ndimage.center_of_mass(mask[box] == number), corner)
    x, y, z = points_from_indices(centre_zyx).tolist()
    return x, y, z


def _number_components(mask: Volume, points: Points, socket: Socket) -> Volume:
    """Give each component (26 neighbours) of a binary mask the number of the point nearest to any of its voxels.

    Components further than `MAX_COMPONENT_MM` from all points are left out. One point may have several components.
    """
    components, count = ndimage.label(mask.array, structure=np.ones((3, 3, 3)))
    tree, numbers = KDTree(mask.grid.to_physical(list(points.values()))), list(points)
    number_of = np.zeros(count + 1, dtype=np.uint16)
    for component, box in _find_labels(components).items():
        indices_zyx = np.argwhere(components[box] == component) + [part.start for part in box]
        distance, point = map(np.asarray, tree.query(mask.grid.to_physical(points_from_indices(indices_zyx))))
        if distance.min() <= MAX_COMPONENT_MM:
            number_of[component] = numbers[point[distance.argmin()]]
    logger.warning(
        "%s: expected a number for every lesion, found a binary mask: %d of %d components take the number of the "
        "nearest point, those further than %g mm from all points are left out",
        socket.slug,
        np.count_nonzero(number_of),
        count,
        MAX_COMPONENT_MM,
    )
    return Volume(number_of[components], mask.grid)


def mask_path(output_dir: Path, socket: Socket, stem: str) -> Path:
    """Return where the platform wants the mask of an image that is called `stem`."""
    return output_dir / socket.relative_path / f"{stem}.mha"


def prepare_output(output_dir: Path, sockets: Iterable[Socket]) -> None:
    """Make the folders of the masks and try to write into them, so that a case does not fail after all the work.

    Raises
    ------
    InputError
        If either fails.
    """
    for socket in sockets:
        require_writable(output_dir / socket.relative_path)
