"""A look at lesions: their patches in the follow-up, what the network says of them, and which voxels are theirs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.budget import Plan
from lesionclick.images import AIR_HU, Volume, indices_from_points, points_from_indices
from lesionclick.longitudinal.lesions import REACH_MM, Lesion
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.longitudinal.patches import ZOOMS, Patch, choose_zoom

SURE = 0.95
"""Probability that a lesion which nobody clicked must reach somewhere; chosen on phantoms of seeds 9,000,000 to
9,000,005, where all of 67 lesions that were still there reached it."""
CLICK_REACH_MM = 6.0
CLICK_DROP = 1.0
"""A clicked lesion with an empty mask gets the voxels whose logit is at most this below the highest within
`CLICK_REACH_MM` of the click."""
SEEN_ALIKE, SEEN_CLEARLY, SEEN_ALONE = 2.3, 4.0, 1.6
"""Where nobody knows how large a lesion is, a look at a zoom above the third counts less if the next smaller patch does
not show the lesion at the same volume, up to the first as a factor, or if its mean logit is below the second; chosen in
docs/ablation.md."""
CLOSE_ALIKE = 1.3
"""A close look counts if its volume is that of the look before, up to this factor; chosen in docs/ablation.md."""
NOT_THE_LESION = -20.0
"""Lesion logit beyond a patch, and of voxels that are not the lesion's."""


@dataclass(frozen=True)
class Look:
    """What was seen of a lesion.

    Attributes
    ----------
    window
        Part of the follow-up, along z, y, x.
    lesion_logit
        In that part, float32; `NOT_THE_LESION` in voxels that are not the lesion's.
    zoom
        Size of the patch, see `lesionclick.longitudinal.patches.ZOOMS`.
    found
        Whether the network sees a lesion there.
    """

    window: tuple[slice, ...]
    lesion_logit: NDArray[np.float32]
    zoom: float
    found: bool

    @property
    def voxels(self) -> int:
        """How many voxels of the follow-up are the lesion's."""
        return int(np.count_nonzero(self.lesion_logit > NOT_THE_LESION))


NOTHING = Look((slice(0, 0),) * 3, np.zeros((0, 0, 0), dtype=np.float32), 1.0, found=False)
"""A look at a lesion that has vanished."""


def find_boxes(lesions: Sequence[Lesion]) -> dict[int, tuple[slice, ...]]:
    """Return the bounding box of each lesion that has voxels in its baseline's mask, by the lesion's number."""
    found = {}
    baselines = {id(lesion.baseline): lesion.baseline for lesion in lesions if lesion.baseline and not lesion.new}
    for baseline in baselines.values():
        boxes = ndimage.find_objects(baseline.lesions.array)
        for lesion in lesions:
            if lesion.baseline is baseline and lesion.number <= len(boxes) and boxes[lesion.number - 1] is not None:
                found[lesion.number] = boxes[lesion.number - 1]
    return found


def look(
    ct: Volume, lesions: Sequence[Lesion], boxes: Mapping[int, tuple[slice, ...]], model: LongitudinalModel
) -> list[Look]:
    """Look at lesions, all at once, and at each in patches of several sizes, of which the surest counts.

    Parameters
    ----------
    ct
        The follow-up.
    lesions
        What is known of them.
    boxes
        Bounding boxes in their baseline's masks, of those that have one, by number.
    model
        What predicts.
    """
    searches = [_Search(ct, lesion, _first_zooms(lesion, boxes.get(lesion.number), model), model) for lesion in lesions]
    while left := [search for search in searches if search.zooms]:
        lesion_logits = model.predict_lesion_logits([search.cut() for search in left], model.first_plan)
        for search, lesion_logit in zip(left, lesion_logits, strict=True):
            search.see(lesion_logit)
    return [search.seen for search in searches]


def look_closely(
    ct: Volume, lesions: Sequence[Lesion], looks: Sequence[Look], model: LongitudinalModel, *, plan: Plan
) -> list[Look]:
    """Take the looks that count once more, by more folds and mirrored versions.

    Parameters
    ----------
    ct
        The follow-up.
    lesions
        Those that were found.
    looks
        What was seen of them.
    model, plan
        What predicts, and how often.

    Returns
    -------
    list of Look
        In patches of the same size. Where these do not see a lesion of much the same volume (`CLOSE_ALIKE`), the look
        before counts: their mean is then one of a lesion and of none.
    """
    cuts = [_channels(ct, lesion, seen.zoom, model) for lesion, seen in zip(lesions, looks, strict=True)]
    lesion_logits = model.predict_lesion_logits([channels for _, channels in cuts], plan)
    closer = []
    for lesion, seen, (patch, _), lesion_logit in zip(lesions, looks, cuts, lesion_logits, strict=True):
        distance_mm = _distances_mm(ct, lesion, patch, seen.zoom * np.asarray(model.spacing_zyx))
        kept = _component(lesion_logit, distance_mm, lesion.clicked)
        new = NOTHING if kept is None else _take(patch, lesion_logit, kept, ct=ct, zoom=seen.zoom, found=True)
        closer.append(new if max(new.voxels, seen.voxels) <= CLOSE_ALIKE * min(new.voxels, seen.voxels) else seen)
    return closer


def _first_zooms(lesion: Lesion, box: tuple[slice, ...] | None, model: LongitudinalModel) -> Sequence[float]:
    """Return the zoom that fits the lesion's baseline; all of them for a click on what nobody knows the size of."""
    if box is None or lesion.baseline is None:
        return ZOOMS if lesion.clicked else (1.0,)
    size_xyz = points_from_indices([axis.stop - axis.start for axis in box])
    extent_mm = indices_from_points(np.abs(lesion.baseline.ct.grid.axes_mm) @ size_xyz)
    return (choose_zoom(extent_mm, np.multiply(model.patch_size, model.spacing_zyx)),)


class _Search:
    """The looks at one lesion: `zooms` are those of the next, and `seen` is what counts so far.

    What reaches the border of its patch is looked at in the next larger one too, what fits a smaller patch in that, and
    a clicked lesion that is not found in all of them. Of the looks that found it whole, the one with the highest mean
    logit counts; where its size is not known, those come first that a smaller patch bears out.
    """

    def __init__(self, ct: Volume, lesion: Lesion, zooms: Sequence[float], model: LongitudinalModel) -> None:
        self.ct, self.lesion, self.model = ct, lesion, model
        self.zooms = list(zooms)
        self.seen = NOTHING
        self._unsized = len(zooms) > 1  # only where nobody knows the size is there more to try from the start
        self._tried: list[float] = []
        self._patch: Patch
        self._volumes: dict[float, float] = {}
        self._surest = (False, False, -np.inf, -np.inf)
        """Of what counts so far: whether it is whole, whether it is borne out, its mean logit, and the negative zoom:
        small voxels show more."""

    def cut(self) -> NDArray[np.float32]:
        """Return the channels of the patch at the first of `zooms`, shape (5, z, y, x)."""
        self._tried.append(self.zooms.pop(0))
        self._patch, channels = _channels(self.ct, self.lesion, self._tried[-1], self.model)
        return channels

    def see(self, lesion_logit: NDArray[np.float32]) -> None:
        """Take the lesion logit that the network gives that patch, shape (z, y, x)."""
        zoom = self._tried[-1]
        spacing = zoom * np.asarray(self.model.spacing_zyx)
        distance_mm = _distances_mm(self.ct, self.lesion, self._patch, spacing)
        kept = _component(lesion_logit, distance_mm, self.lesion.clicked)
        wanted: Sequence[float] = ()
        if kept is not None:
            whole = not any(kept.take(end, axis).any() for axis in range(3) for end in (0, -1))
            self._volumes[zoom] = float(np.count_nonzero(kept) * np.prod(spacing))
            mean = float(lesion_logit[kept].mean())
            sureness = whole, self._borne_out(zoom, mean), mean, -zoom
            if sureness > self._surest:
                self._surest = sureness
                self.seen = _take(self._patch, lesion_logit, kept, ct=self.ct, zoom=zoom, found=True)
            extent_mm = (np.ptp(np.argwhere(kept), axis=0) + 1) * spacing
            needed = choose_zoom(extent_mm, np.multiply(self.model.patch_size, self.model.spacing_zyx))
            wanted = [min(needed, zoom)] if whole else [other for other in ZOOMS if other > zoom][:1]
        elif self.lesion.clicked and not self._volumes:
            wanted = ZOOMS
            if len(self._tried) == 1:
                likeliest = _likeliest(lesion_logit, distance_mm)
                self.seen = _take(self._patch, lesion_logit, likeliest, ct=self.ct, zoom=zoom, found=False)
        self.zooms += [other for other in wanted if other not in (*self._tried, *self.zooms)]

    def _borne_out(self, zoom: float, mean: float) -> bool:
        """Tell whether a look is clear and the next smaller patch shows much the same volume, where that is asked."""
        if zoom <= SEEN_ALONE or not self._unsized:
            return True
        here, smaller = self._volumes[zoom], self._volumes.get(max(other for other in ZOOMS if other < zoom), 0.0)
        return mean >= SEEN_CLEARLY and max(smaller, here) <= SEEN_ALIKE * min(smaller, here)


def _take(
    patch: Patch, lesion_logit: NDArray[np.float32], kept: NDArray[np.bool_], *, ct: Volume, zoom: float, found: bool
) -> Look:
    """Return the look that takes the voxels `kept` of a patch for the lesion's, in the window that they fill."""
    below = NOT_THE_LESION / 2 - float(lesion_logit[kept].min())
    lesion_logit = lesion_logit + max(below, 0.0)  # so that what is kept lies well above the mark of all else
    level = float(lesion_logit[kept].min())
    # interpolation decides on the border: of a lesion at the logit zero, of what was taken for one half-way to the rest
    near, lowest = (ndimage.binary_dilation(kept), 0.0) if found else (kept, level - 1)
    only = np.where(near, lesion_logit, np.minimum(lesion_logit, lowest - 1))
    window, values = patch.paste(only, ct.array.shape, NOT_THE_LESION)
    values[values < lowest] = NOT_THE_LESION
    boxes = ndimage.find_objects((values > NOT_THE_LESION).view(np.uint8)) if values.size else []
    if not boxes:
        return Look(NOTHING.window, NOTHING.lesion_logit, zoom, found)
    filled = tuple(
        slice(part.start + box.start, part.start + box.stop) for part, box in zip(window, boxes[0], strict=True)
    )
    return Look(filled, values[boxes[0]].copy(), zoom, found)


def _distances_mm(ct: Volume, lesion: Lesion, patch: Patch, spacing: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the distance of each voxel of a patch from the lesion's place, shape (z, y, x)."""
    offsets = np.indices(patch.shape).reshape(3, -1).T - patch.to_patch(ct.grid.to_index_zyx(lesion.place_mm)[0])
    distances_mm: NDArray[np.float64] = np.linalg.norm(offsets * spacing, axis=1).reshape(patch.shape)
    return distances_mm


def _channels(ct: Volume, lesion: Lesion, zoom: float, model: LongitudinalModel) -> tuple[Patch, NDArray[np.float32]]:
    """Cut the patch of a lesion in the follow-up, and return it with the five channels of the network."""
    spacing = zoom * np.asarray(model.spacing_zyx)
    patch = Patch.around(ct.grid, lesion.place_mm, model.patch_size, spacing)
    baseline_ct = np.full(patch.shape, AIR_HU, np.float32)
    inside = np.zeros(patch.shape, dtype=bool)
    followup_zyx = patch.to_patch(ct.grid.to_index_zyx(lesion.place_mm)[0])
    baseline_zyx = None
    if lesion.baseline is not None and lesion.baseline_mm is not None:
        grid = lesion.baseline.ct.grid
        beside = Patch.around(grid, lesion.baseline_mm, model.patch_size, spacing)
        baseline_ct = beside.cut(lesion.baseline.ct.array, AIR_HU)
        if not lesion.new:
            inside = beside.cut_mask(lesion.baseline.lesions.array, lesion.number)
            baseline_zyx = beside.to_patch(grid.to_index_zyx(lesion.baseline_mm)[0])
    channels = model.encoding.encode(
        model.normalise(baseline_ct),
        inside,
        followup_zyx=followup_zyx,
        baseline_zyx=baseline_zyx,
        spacing_zyx=model.spacing_zyx,
    )
    followup_ct = model.normalise(patch.cut(ct.array, AIR_HU))
    return patch, np.concatenate([followup_ct[None], channels])


def _component(
    lesion_logit: NDArray[np.float32], distance_mm: NDArray[np.float64], clicked: bool
) -> NDArray[np.bool_] | None:
    """Return the voxels of the patch that are the lesion's, or None where it is not found.

    `distance_mm` is the distance from the lesion's place, of the shape of the patch.
    """
    numbers, count = ndimage.label(lesion_logit > 0, np.ones((3, 3, 3)))
    if not count:
        return None
    nearest = np.where(numbers > 0, distance_mm, np.inf)
    first = np.unravel_index(int(nearest.argmin()), lesion_logit.shape)
    kept: NDArray[np.bool_] = numbers == numbers[first]
    sure = clicked or lesion_logit[kept].max() >= np.log(SURE / (1 - SURE))
    return kept if nearest[first] <= REACH_MM and sure else None


def _likeliest(lesion_logit: NDArray[np.float32], distance_mm: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return the voxels to take where a clicked lesion is not found; see `CLICK_DROP`. All are of the patch's shape."""
    around = distance_mm <= max(CLICK_REACH_MM, float(distance_mm.min()))
    return np.asarray(around & (lesion_logit >= lesion_logit[around].max() - CLICK_DROP), dtype=bool)
