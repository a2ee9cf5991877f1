"""Simulated follow-up: from one CT with lesions, the same patient before and after.

A follow-up is the CT seen through a smooth random displacement, in which each lesion has a course of its own: it grows,
shrinks, vanishes, or was not there before. What is not there is healed: its voxels are filled with the tissue around
it. Works on whole bodies and on patches alike. Arrays are (z, y, x), displacements in voxels of the array.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import AIR_HU

Status = Literal["present", "vanished", "new"]
Floats = NDArray[np.float32]
Numbers = NDArray[np.uint16]

GROWTH = (0.25, 4.0)
"""Range of the ratio of a lesion's volumes, whose logarithm is uniform; `VOLUME_ML` comes before it."""
VOLUME_ML = (0.15, 90.0)
"""Follow-up volumes that a course leads to: smaller lesions than these grow, and larger ones shrink."""
EVENLY_BELOW = 0.125
"""Growth below which the tissue around a lesion is stretched evenly; stretched smoothly, it would fold below 0.12."""
VANISHED_SHARE, NEW_SHARE = 0.15, 0.15
LONG_MM, SHORT_MM = 45.0, 14.0
"""Distances between the random values of the warp."""
_BODY_HU = -200.0


@dataclass(frozen=True)
class Course:
    """What becomes of one lesion: its status, and the ratio of its volumes where it is present in both scans."""

    status: Status
    growth: float = 1.0


@dataclass(frozen=True)
class Pair:
    """Baseline and follow-up on one array shape.

    Attributes
    ----------
    baseline_ct, followup_ct
        HU, float32, (z, y, x).
    baseline_lesions, followup_lesions
        Number of the lesion in each voxel, uint16, 0 elsewhere.
    courses
        Course of each lesion by number.
    displacement
        Shape (3, z, y, x), float32, in voxels: follow-up voxel v shows what lay at v + displacement in the baseline.
    """

    baseline_ct: Floats
    baseline_lesions: Numbers
    followup_ct: Floats
    followup_lesions: Numbers
    courses: Mapping[int, Course]
    displacement: Floats

    def carry(self, index_zyx: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return where the tissue at a baseline index (z, y, x) lies in the follow-up, by fixed-point iteration."""
        goal = np.asarray(index_zyx, dtype=np.float64)
        place = goal
        for _ in range(40):  # halfway each time: where a lesion has shrunk, whole steps lead further and further off
            shift = [ndimage.map_coordinates(d, place[:, None], order=1, mode="nearest")[0] for d in self.displacement]
            place = (place + goal - shift) / 2
        return place


def draw_course(
    ml: float,
    rng: np.random.Generator,
    vanished_share: float = VANISHED_SHARE,
    growth: tuple[float, float] = GROWTH,
) -> Course:
    """Draw the course of a lesion.

    Parameters
    ----------
    ml
        Its volume in the CT that both scans are made of.
    rng
        The only source of randomness.
    vanished_share
        Probability that it has vanished.
    growth
        Range of the ratio of its volumes, within which `VOLUME_ML` keeps that of the follow-up.
    """
    chance = rng.uniform()
    if chance < vanished_share:
        return Course("vanished")
    if chance < vanished_share + NEW_SHARE:
        return Course("new")
    low, high = (float(np.clip(limit, *np.divide(VOLUME_ML, ml))) for limit in growth)
    return Course("present", float(np.exp(rng.uniform(np.log(low), np.log(high)))))


def make_pair(
    ct: Floats,
    lesions: Numbers,
    spacing_zyx: tuple[float, ...],
    rng: np.random.Generator,
    *,
    courses: Mapping[int, Course] | None = None,
    shift_mm: float = 15.0,
    turn_degrees: float = 4.0,
    warp_mm: float = 3.0,
) -> Pair:
    """Make a baseline and a follow-up of one CT.

    Parameters
    ----------
    ct
        HU, shape (z, y, x).
    lesions
        Number of the lesion in each voxel, 0 elsewhere.
    spacing_zyx
        Voxel size in mm.
    rng
        The only source of randomness.
    courses
        Course of lesions by number; drawn for those that are not in it.
    shift_mm, turn_degrees
        Largest shift along, and turn about, each axis.
    warp_mm
        Spread of the smooth displacement.

    Returns
    -------
    Pair
        Lesions with course ``new`` are absent from the baseline, ``vanished`` ones from the follow-up.
    """
    spacing = np.asarray(spacing_zyx)
    boxes = {n: box for n, box in enumerate(ndimage.find_objects(lesions), start=1) if box is not None}
    counts = np.bincount(lesions.ravel(), minlength=max(boxes, default=0) + 1)
    voxel_ml = float(np.prod(spacing)) / 1000
    drawn = {n: (courses or {}).get(n) or draw_course(counts[n] * voxel_ml, rng) for n in boxes}

    baseline_ct, source_ct = np.array(ct, dtype=np.float32), np.array(ct, dtype=np.float32)
    baseline_lesions, source_lesions = lesions.astype(np.uint16), lesions.astype(np.uint16)
    for number, course in drawn.items():
        if course.status != "present":
            image, numbers = (baseline_ct, baseline_lesions) if course.status == "new" else (source_ct, source_lesions)
            _heal(image, lesions, number, boxes[number], spacing=spacing, rng=rng)
            numbers[boxes[number]][numbers[boxes[number]] == number] = 0

    displacement = _displacement(ct.shape, spacing, rng, shift_mm=shift_mm, turn_degrees=turn_degrees, warp_mm=warp_mm)
    scaling = np.zeros_like(displacement)
    for number, course in drawn.items():
        if course.status == "present":
            _add_growth(
                scaling, displacement, lesions, number, box=boxes[number], growth=course.growth, spacing=spacing
            )
    displacement += scaling
    _brighten_lesions(source_ct, source_lesions, rng)
    places = displacement + np.indices(ct.shape, dtype=np.float32)
    followup_ct = ndimage.map_coordinates(source_ct, places, order=1, mode="constant", cval=AIR_HU)
    followup_lesions = _move_lesions(source_lesions, places)
    return Pair(
        baseline_ct,
        baseline_lesions,
        _rescan(followup_ct, rng),
        followup_lesions.astype(np.uint16),
        drawn,
        displacement,
    )


def _move_lesions(lesions: Numbers, places: Floats) -> Numbers:
    """Return the lesions seen at `places`: where linear interpolation says half or more, the nearest number."""
    share = ndimage.map_coordinates((lesions > 0).astype(np.float32), places, order=1, mode="constant", cval=0.0)
    grown = np.where(lesions > 0, lesions, ndimage.grey_dilation(lesions, size=(3, 3, 3)))
    moved = ndimage.map_coordinates(grown, places, order=0, mode="constant", cval=0)
    numbers: Numbers = np.where(share >= 0.5, moved, 0).astype(np.uint16)
    return numbers


def _heal(
    image: Floats,
    lesions: Numbers,
    number: int,
    box: tuple[slice, ...],
    *,
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
) -> None:
    """Fill a lesion with the mean of the tissue that touches it and with its noise, in place."""
    reach = np.ceil(12.0 / spacing).astype(int)
    window = tuple(
        slice(max(a.start - r, 0), min(a.stop + r, n)) for a, r, n in zip(box, reach, image.shape, strict=True)
    )
    part = image[window]
    inside = ndimage.binary_dilation(lesions[window] == number, iterations=1)
    shell = ndimage.binary_dilation(inside, iterations=2) & ~inside
    valid = (shell & (lesions[window] == 0)).astype(np.float32)
    radius_mm = (inside.sum() * np.prod(spacing) * 3 / (4 * np.pi)) ** (1 / 3)
    sigma = np.maximum(0.5 * radius_mm, 3.0) / spacing
    weight = ndimage.gaussian_filter(valid, sigma)
    mean = ndimage.gaussian_filter(part * valid, sigma) / np.maximum(weight, 1e-6)
    known = valid > 0
    if not known.any():
        return
    mean[weight < 1e-4] = np.median(part[known])
    filled = np.where(inside, mean, part)
    texture = filled - ndimage.gaussian_filter(filled, 1.0)
    pool = texture[known & (np.abs(texture) < 60)]
    noise = rng.choice(pool, size=part.shape) if pool.size else 0.0
    softness = ndimage.gaussian_filter(inside.astype(np.float32), 0.6)
    share = np.where(lesions[window] == number, 1.0, softness)
    part += share * (mean + noise - part)


def _displacement(
    shape: tuple[int, ...],
    spacing: NDArray[np.float64],
    rng: np.random.Generator,
    *,
    shift_mm: float,
    turn_degrees: float,
    warp_mm: float,
) -> Floats:
    """Return posture and breathing: a shift, a turn about the centre, and a smooth warp, in voxels."""
    shift = rng.uniform(-shift_mm, shift_mm, 3)
    a, b, c = np.deg2rad(rng.uniform(-turn_degrees, turn_degrees, 3))
    turn = np.array([[0, -c, b], [c, 0, -a], [-b, a, 0]])
    axes = [((np.arange(n) - (n - 1) / 2) * s).astype(np.float32) for n, s in zip(shape, spacing, strict=True)]
    offsets = np.meshgrid(*axes, indexing="ij", sparse=True)
    field = np.empty((3, *shape), dtype=np.float32)
    for axis in range(3):
        field[axis] = shift[axis] + sum(turn[axis, other] * offsets[other] for other in range(3))
        field[axis] += _warp(shape, spacing, warp_mm, rng)
        field[axis] /= spacing[axis]
    return field


def _warp(shape: tuple[int, ...], spacing: NDArray[np.float64], warp_mm: float, rng: np.random.Generator) -> Floats:
    """Return a smooth displacement along one axis in mm: most of it over `LONG_MM`, a quarter over `SHORT_MM`."""
    step = spacing / SHORT_MM
    coarse = np.ceil(shape * step).astype(int) + 2
    values = warp_mm * (_noise(coarse, SHORT_MM / LONG_MM, rng) + 0.25 * rng.normal(size=coarse))
    smooth: Floats = ndimage.affine_transform(values.astype(np.float32), step, output_shape=shape, order=1)
    return 1.5 * smooth  # linear interpolation takes a third of the spread


def _noise(shape: NDArray[np.int64], step: float, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return noise of unit spread whose random values lie 1 / `step` voxels apart, interpolated by cubic splines."""
    values = rng.normal(size=np.ceil(shape * step).astype(int) + 2)
    start = rng.uniform(size=3)
    return ndimage.affine_transform(values, np.full(3, step), start, tuple(shape), order=3, mode="nearest")


def _add_growth(
    scaling: Floats,
    displacement: Floats,
    lesions: Numbers,
    number: int,
    *,
    box: tuple[slice, ...],
    growth: float,
    spacing: NDArray[np.float64],
) -> None:
    """Add to `scaling` what makes one lesion grow or shrink about its centre, in place.

    Within the lesion's follow-up extent the displacement is a scaling; further out it goes down to zero, and nothing
    folds.
    """
    inside = np.argwhere(lesions[box] == number) + [axis.start for axis in box]
    centre = inside.mean(axis=0)
    extent = float(np.linalg.norm((inside - centre) * spacing, axis=1).max()) + float(spacing.max()) / 2
    nearest = [int(np.clip(round(c), 0, n - 1)) for c, n in zip(centre.tolist(), lesions.shape, strict=True)]
    moved = centre - [shift[tuple(nearest)] for shift in displacement]  # where the centre comes to lie, nearly
    inner = extent * growth ** (1 / 3)
    outer = max(1.9 * inner, 2.5 * extent)
    reach = np.ceil(outer / spacing).astype(int)
    low = np.clip(np.floor(moved).astype(int) - reach, 0, lesions.shape)
    high = np.clip(np.ceil(moved).astype(int) + reach + 1, 0, lesions.shape)
    if (high <= low).any():
        return
    window = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    offsets = np.meshgrid(*(np.arange(a, b) - m for a, b, m in zip(low, high, moved, strict=True)), indexing="ij")
    distance = np.sqrt(sum((o * s) ** 2 for o, s in zip(offsets, spacing, strict=True)))
    if growth < EVENLY_BELOW:
        seen = np.interp(distance, (0.0, inner, outer), (0.0, extent, outer))
        change = np.where(distance < outer, seen / np.maximum(distance, 1e-6) - 1, 0.0)
    else:
        fade = np.clip((outer - distance) / (outer - inner), 0, 1)
        change = (growth ** (-1 / 3) - 1) * fade * fade * (3 - 2 * fade)
    for axis, offset in enumerate(offsets):
        scaling[axis][window] += change * offset


def _brighten_lesions(ct: Floats, lesions: Numbers, rng: np.random.Generator) -> None:
    """Change the attenuation of each lesion a little, as treatment and another contrast phase do, in place."""
    table = rng.normal(scale=8.0, size=int(lesions.max()) + 1).astype(np.float32)
    table[0] = 0.0
    ct += table[lesions]


def _rescan(ct: Floats, rng: np.random.Generator) -> Floats:
    """Return the CT with another calibration and dose: gain and offset of tissue, and fresh noise in the body."""
    tissue = ct > _BODY_HU
    changed = np.where(tissue, ct * rng.uniform(0.95, 1.05) + rng.uniform(-8, 8), ct)
    noise = rng.normal(scale=rng.uniform(4.0, 12.0), size=ct.shape)
    rescanned: Floats = (changed + np.where(ct > AIR_HU + 100, noise, 0.0)).astype(np.float32)
    return rescanned
