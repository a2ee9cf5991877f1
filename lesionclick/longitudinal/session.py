"""Task 2: a longitudinal CT case becomes a labelled mask of each follow-up, lesion by lesion.

Each lesion is looked at in a patch around its point, and in a patch of the baseline around its point there. Only
patches are computed, so that the cost grows with the number of lesions and not with the body.

Rules (`docs/rules.md` tells them to users):

- Where the follow-up comes with points, they say which lesions are there. Without points, every lesion of the baseline
  is looked for where the registration expects it.
- A lesion keeps the component of its mask that its point hits, else the nearest one within `REACH_MM`.
- A lesion that is looked for, whose highest probability in that component stays below `SURE`, has vanished. One that
  was clicked is there: if its mask is empty, the likeliest voxels around the click are taken, and if all of these are
  surer another lesion's, the clicked voxel.
- A voxel that two lesions claim is the one's with the higher probability, in percent; ties go to the nearer point. Two
  lesions that have merged are both sure of the whole, and so share it out by their points.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.budget import Budget
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.patches import ZOOMS, Patch, choose_zoom
from lesionclick.longitudinal.registration import MIN_OVERLAP, register
from lesionclick.petct.case import Baseline, Followup, LongitudinalCase
from lesionclick.petct.model import LesionModel
from lesionclick.prompts.encodings import encode_pair
from lesionclick.prompts.points import indices_from_points, points_from_indices

logger = logging.getLogger(__name__)

REACH_MM = 15.0
"""Distance from its point within which a lesion may begin: clicks are nearer, and registration errs by a few mm."""
SURE = 0.95
"""Probability that a lesion which nobody clicked must reach somewhere; chosen on phantoms of seeds 9,000,000 to
9,000,005, where all of 67 lesions that were still there reached it."""
CLICK_REACH_MM = 6.0
CLICK_DROP = 1.0
"""A clicked lesion with an empty mask gets the voxels whose logit is at most this below the highest within
`CLICK_REACH_MM` of the click."""
REGISTRATION_SHARE = 0.6
"""Part of the time left that registration may use."""
REST_S, REST_S_PER_VOXEL = 1.0, 1e-7
"""Time that is kept for writing the masks, in all and per voxel. `docs/deadline.md` has the measurement."""
AIR_HU = -1000.0
_OUTSIDE = -20.0  # margin beyond a patch: no lesion


@dataclass(frozen=True)
class Lesion:
    """What is known of a lesion before its follow-up is looked at.

    Attributes
    ----------
    number
        Its number in both masks.
    place_mm
        Where it is, or is looked for, in the follow-up: (x, y, z) in mm.
    clicked
        Whether that was clicked; otherwise the registration says so.
    baseline
        The scan in which it was, or would have been; None where no baseline shows the place.
    baseline_mm
        Its place there.
    new
        Whether the baseline does not know it.
    """

    number: int
    place_mm: NDArray[np.float64]
    clicked: bool
    baseline: Baseline | None
    baseline_mm: NDArray[np.float64] | None
    new: bool


def segment_followups(case: LongitudinalCase, model: LesionModel, budget: Budget | None = None) -> tuple[Volume, ...]:
    """Return one mask per follow-up, on its grid: the number of the lesion in each voxel, 0 elsewhere.

    Numbers up to 255 come as uint8, larger ones as uint16. Registration may use
    `REGISTRATION_SHARE` of the budget. Where that runs out, clicked lesions that were not looked at get the clicked
    voxel, and others nothing.
    """
    voxels = sum(followup.ct.array.size for followup in case.followups)
    limit = (budget or Budget()).without(REST_S + REST_S_PER_VOXEL * voxels)
    alignments = _align(case, limit)
    masks = []
    for followup, sources in zip(case.followups, alignments, strict=True):
        lesions = find_lesions(followup, sources)
        masks.append(segment_lesions(followup, lesions, model, limit))
    return tuple(masks)


def _align(case: LongitudinalCase, budget: Budget) -> list[list[tuple[Baseline, Alignment]]]:
    """Return for each follow-up the baselines that show the same part of the body, the best first.

    A baseline counts for the follow-up that it overlaps most; a follow-up that gets none that way takes the baseline
    that overlaps it most.
    """
    pairs = len(case.baselines) * len(case.followups)
    each_s = REGISTRATION_SHARE * budget.left_s / pairs
    table = [
        [register(baseline.ct, followup.ct, budget.within(each_s)) for baseline in case.baselines]
        for followup in case.followups
    ]
    chosen: list[list[tuple[Baseline, Alignment]]] = []
    for row, followup in zip(table, case.followups, strict=True):
        found = [
            (baseline, alignment)
            for column, (baseline, alignment) in enumerate(zip(case.baselines, row, strict=True))
            if alignment.overlap == max(other[column].overlap for other in table)
        ]
        if not found:
            best = int(np.argmax([alignment.overlap for alignment in row]))
            found = [(case.baselines[best], row[best])]
        found.sort(key=lambda pair: -pair[1].overlap)
        for baseline, alignment in found:
            message = "%s follow-up: belongs to the %s baseline, overlap %.2f, %s registration"
            logger.info(message, followup.region, baseline.region, alignment.overlap, alignment.kind)
            if alignment.overlap < MIN_OVERLAP:
                message = "%s follow-up and %s baseline: expected the same part of the body, found an overlap of %.2f"
                logger.warning(message, followup.region, baseline.region, alignment.overlap)
        chosen.append(found)
    return chosen


def find_lesions(followup: Followup, sources: Sequence[tuple[Baseline, Alignment]]) -> list[Lesion]:
    """List the lesions to look at in a follow-up, by number.

    Parameters
    ----------
    followup
        The follow-up; its points, where there are any, say which lesions are there.
    sources
        Its baselines with the maps of their places, the best first. A number that an earlier one has is not taken from
        a later one.
    """
    known: dict[int, tuple[Baseline, Alignment]] = {}
    for baseline, alignment in sources:
        for number in baseline.points:
            known.setdefault(number, (baseline, alignment))
    usable = [(baseline, alignment) for baseline, alignment in sources if alignment.overlap >= MIN_OVERLAP]
    if followup.points:
        if absent := sorted(known.keys() - followup.points.keys()):
            logger.info("%s follow-up: lesions %s have no point: taken to have vanished", followup.region, absent)
        return [
            _clicked(number, followup.ct.grid.to_physical(point)[0], known, usable)
            for number, point in sorted(followup.points.items())
        ]
    lesions = []
    for number, (baseline, alignment) in sorted(known.items()):
        if alignment.overlap < MIN_OVERLAP:
            message = "%s follow-up: lesion %d cannot be looked for, as its baseline shows another part of the body"
            logger.warning(message, followup.region, number)
            continue
        baseline_mm = baseline.ct.grid.to_physical(baseline.points[number])[0]
        place_mm = alignment.to_followup(baseline_mm)[0]
        if (outside_mm := _distance_outside_mm(followup.ct.grid, place_mm)) > REACH_MM:
            message = "%s follow-up: lesion %d is expected %.0f mm outside the image and is left out"
            logger.info(message, followup.region, number, outside_mm)
            continue
        lesions.append(Lesion(number, place_mm, False, baseline, baseline_mm, new=False))
    return lesions


def _clicked(
    number: int,
    place_mm: NDArray[np.float64],
    known: Mapping[int, tuple[Baseline, Alignment]],
    usable: Sequence[tuple[Baseline, Alignment]],
) -> Lesion:
    if number in known:
        baseline, _ = known[number]
        baseline_mm = baseline.ct.grid.to_physical(baseline.points[number])[0]
        return Lesion(number, place_mm, True, baseline, baseline_mm, new=False)
    for baseline, alignment in usable:
        baseline_mm = alignment.to_baseline(place_mm)[0]
        if _shows(baseline.ct.grid, baseline_mm):
            return Lesion(number, place_mm, True, baseline, baseline_mm, new=True)
    return Lesion(number, place_mm, True, None, None, new=True)


def _shows(grid: Grid, place_mm: NDArray[np.float64]) -> bool:
    index = np.rint(grid.to_index(place_mm)[0])
    return bool(((index >= 0) & (index < grid.size_xyz)).all())


def _distance_outside_mm(grid: Grid, place_mm: NDArray[np.float64]) -> float:
    """Return the distance of a place from the nearest voxel, 0 inside the image."""
    index = grid.to_index(place_mm)[0]
    nearest = np.clip(index, 0, np.array(grid.size_xyz) - 1)
    return float(np.linalg.norm(grid.axes_mm @ (index - nearest)))


def _index_zyx(grid: Grid, place_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return indices_from_points(grid.to_index(place_mm)[0])


def segment_lesions(
    followup: Followup, lesions: Sequence[Lesion], model: LesionModel, budget: Budget | None = None
) -> Volume:
    """Return the mask of a follow-up with each of `lesions` under its number; see the rules of this module."""
    budget = budget or Budget()
    longest_s = 0.0
    grid = followup.ct.grid
    largest = max((lesion.number for lesion in lesions), default=0)
    mask = np.zeros(grid.shape_zyx, dtype=np.uint8 if largest <= np.iinfo(np.uint8).max else np.uint16)
    percent = np.zeros(grid.shape_zyx, dtype=np.uint8)
    places = {lesion.number: lesion.place_mm for lesion in lesions}
    boxes = dict(_find_boxes(lesions))
    for index, lesion in enumerate(lesions):
        begin = budget.now()
        if longest_s > budget.left_s:
            late = [one.number for one in lesions[index:]]
            logger.warning("%s follow-up: no time to look at the lesions %s", followup.region, late)
            break
        window, margin = _look(followup.ct, lesion, boxes.get(lesion.number), model)
        chance = 100 / (1 + np.exp(-margin))
        part, best = mask[window], percent[window]
        claimed = np.rint(np.where(margin > _OUTSIDE, chance, 0)).astype(np.uint8)
        wins = (margin > _OUTSIDE) & ((part == 0) | (claimed > best))
        ties = np.argwhere((margin > _OUTSIDE) & (part > 0) & (claimed == best))
        if len(ties):
            at_mm = grid.to_physical(points_from_indices(ties + [axis.start for axis in window]))
            owners = np.array([places[number] for number in part[tuple(ties.T)].tolist()])
            nearer = np.linalg.norm(at_mm - lesion.place_mm, axis=1) < np.linalg.norm(at_mm - owners, axis=1)
            wins[tuple(ties[nearer].T)] = True
        part[wins] = lesion.number
        best[wins] = claimed[wins]
        message = "lesion %d, %s, %s: %.2f ml: %.1f s"
        ml = float(np.count_nonzero(wins)) * grid.voxel_ml
        kind, how = "new" if lesion.new else "known", "clicked" if lesion.clicked else "looked for"
        logger.info(message, lesion.number, kind, how, ml, budget.now() - begin)
        longest_s = max(longest_s, budget.now() - begin)
    left = np.bincount(mask.ravel(), minlength=largest + 1)
    for lesion in lesions:
        if lesion.clicked and not left[lesion.number]:  # all of it is surer another's
            clicked = np.rint(_index_zyx(grid, lesion.place_mm)).clip(0, np.array(mask.shape) - 1).astype(int)
            mask[tuple(clicked)] = lesion.number
    return Volume(mask, grid)


def _find_boxes(lesions: Sequence[Lesion]) -> Iterator[tuple[int, tuple[slice, ...]]]:
    """Yield number and bounding box of each lesion that has voxels in its baseline's mask."""
    baselines = {id(lesion.baseline): lesion.baseline for lesion in lesions if lesion.baseline and not lesion.new}
    for baseline in baselines.values():
        boxes = ndimage.find_objects(baseline.lesions.array)
        for lesion in lesions:
            if lesion.baseline is baseline and lesion.number <= len(boxes) and boxes[lesion.number - 1] is not None:
                yield lesion.number, boxes[lesion.number - 1]


def _look(
    ct: Volume, lesion: Lesion, box: tuple[slice, ...] | None, model: LesionModel
) -> tuple[tuple[slice, ...], NDArray[np.float32]]:
    """Return a part of the image and in it the margin of the voxels that belong to the lesion, `_OUTSIDE` elsewhere.

    A lesion that reaches the border of its patch is looked at again in the next larger one.
    """
    zoom = 1.0
    if box is not None and lesion.baseline is not None:
        grid = lesion.baseline.ct.grid
        size_xyz = points_from_indices([axis.stop - axis.start for axis in box])
        extent_mm = indices_from_points(np.abs(grid.axes_mm) @ size_xyz)
        zoom = choose_zoom(extent_mm, np.multiply(model.patch_size, model.spacing_zyx))
    for zoom in (other for other in ZOOMS if other >= zoom):
        patch, channels = _channels(ct, lesion, zoom, model)
        margin = model.predict_margin(channels)
        kept = _keep(margin, patch.to_patch(_index_zyx(ct.grid, lesion.place_mm)), lesion, zoom, model)
        if kept is None:
            return tuple(slice(0, 0) for _ in range(3)), np.zeros((0, 0, 0), dtype=np.float32)
        if not any(kept.take(end, axis).any() for axis in range(3) for end in (0, -1)):
            break
    assert kept is not None  # there is always a zoom to look at
    level = float(margin[kept].min())
    near = ndimage.binary_dilation(kept)  # where interpolation decides on the border
    window, values = patch.paste(np.where(near, margin, np.minimum(margin, level - 1)), ct.array.shape, _OUTSIDE)
    values[values < min(level, 0.0)] = _OUTSIDE
    return window, values


def _channels(ct: Volume, lesion: Lesion, zoom: float, model: LesionModel) -> tuple[Patch, NDArray[np.float32]]:
    """Cut the patch of a lesion in the follow-up, and return it with the five channels of the network."""
    spacing = zoom * np.asarray(model.spacing_zyx)
    patch = Patch.around(ct.grid, lesion.place_mm, model.patch_size, spacing)
    images = [model.normalise(patch.cut(ct.array, AIR_HU)), model.normalise(np.full(patch.shape, AIR_HU, np.float32))]
    inside = np.zeros(patch.shape, dtype=bool)
    followup_zyx = patch.to_patch(_index_zyx(ct.grid, lesion.place_mm))
    baseline_zyx = None
    if lesion.baseline is not None and lesion.baseline_mm is not None:
        grid = lesion.baseline.ct.grid
        beside = Patch.around(grid, lesion.baseline_mm, model.patch_size, spacing)
        images[1] = model.normalise(beside.cut(lesion.baseline.ct.array, AIR_HU))
        if not lesion.new:
            inside = beside.cut_mask(lesion.baseline.lesions.array, lesion.number)
            baseline_zyx = beside.to_patch(_index_zyx(grid, lesion.baseline_mm))
    prompts = encode_pair(model.prompt, inside, followup_zyx, baseline_zyx, model.spacing_zyx)
    return patch, np.stack([*images, *prompts])


def _keep(
    margin: NDArray[np.float32], point_zyx: NDArray[np.float64], lesion: Lesion, zoom: float, model: LesionModel
) -> NDArray[np.bool_] | None:
    """Return the voxels of the patch that are the lesion's, or None where it has vanished."""
    offsets = np.indices(margin.shape).reshape(3, -1).T - point_zyx
    distance_mm = np.linalg.norm(offsets * (zoom * np.asarray(model.spacing_zyx)), axis=1).reshape(margin.shape)
    numbers, count = ndimage.label(margin > 0, np.ones((3, 3, 3)))
    if count:
        nearest = np.where(numbers > 0, distance_mm, np.inf)
        first = np.unravel_index(int(nearest.argmin()), margin.shape)
        kept: NDArray[np.bool_] = numbers == numbers[first]
        sure = lesion.clicked or margin[kept].max() >= np.log(SURE / (1 - SURE))
        if nearest[first] <= REACH_MM and sure:
            return kept
    if not lesion.clicked:
        return None
    around = distance_mm <= max(CLICK_REACH_MM, float(distance_mm.min()))
    likely = around & (margin >= margin[around].max() - CLICK_DROP)
    return np.asarray(likely, dtype=bool)
