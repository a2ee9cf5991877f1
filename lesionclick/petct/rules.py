"""The rules after the network: what was clicked counts, and once all is marked, nothing else counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import cc3d
import numpy as np
from numpy.typing import NDArray

from lesionclick.petct.neighbourhood import boxes_around
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts, are_in_strokes, group_points
from lesionclick.prompts.spec import Rules

LENGTH_MM = 12.0
"""Standard deviation of the correction around a click in mm, about the distance between two readers' contours."""
REACH_MM = 4 * LENGTH_MM
"""Distance at which a correction ends."""
SURE_LOGIT = 1.0
"""Logit that a corrected click gets: sure enough to survive resampling, and no more."""
REPEATS = 2
"""Number of further clicks on lesions that were clicked before, from which on all lesions are taken to be marked. One
may come from two lesions that the mask joins.
"""
NO_LESION_FROM = 6
"""Number of background clicks apart from each other, without a tumour click, from which on there is no lesion. The
challenge shows background clicks alone where there is none; autoPET V shows no more than five strokes of any kind.
"""


@dataclass(frozen=True)
class RulesActed:
    """How often the rules acted.

    Attributes
    ----------
    tumor, background
        Numbers of points of each kind.
    corrected_tumor, corrected_background
        Numbers of those that the network alone had on the wrong side.
    removed
        Number of components that were removed because all lesions are marked, or because there is none.
    """

    tumor: int = 0
    background: int = 0
    corrected_tumor: int = 0
    corrected_background: int = 0
    removed: int = 0

    def __str__(self) -> str:
        return (
            f"corrected {self.corrected_tumor} of {self.tumor} tumour and {self.corrected_background} of "
            f"{self.background} background points, removed {self.removed} unmarked components"
        )


def apply_rules(
    lesion_logit: NDArray[np.float32],
    prompts: Prompts,
    spacing_zyx: Sequence[float],
    rules: Rules,
    *,
    within: Sequence[tuple[slice, ...]] | None = None,
) -> tuple[NDArray[np.bool_], RulesActed]:
    """Correct the network's logits around the points that they contradict, threshold them, and drop what is unmarked.

    With ``none``, voxels above zero are the mask, and nothing else is done.

    With ``clicks``, points on the wrong side are residuals of a Gaussian process over the logits: a smooth correction
    with standard deviation `LENGTH_MM` brings each of them to `SURE_LOGIT` on its own side, and fades out around it
    (simple kriging; Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, equation 2.23). Points on
    the right side are residuals of zero, so that a correction does not turn them over. Beside such a point kriging goes
    too far on the other side; so nowhere is more corrected than one of the wrong points would correct there alone. The
    voxels of the points themselves are set in any case; where one voxel is marked as both, tumour wins.

    With ``challenge``, each lesion is clicked once, in its centre, before any is clicked again, on its rim. The second
    round tells that all lesions are marked: from `REPEATS` such clicks on, components without a tumour point are
    removed. Strokes are none, and the rule asks for as many background points as tumour points, as the challenge's
    readers set them: strokes hardly ever come out even, not even those that are too short to be told from clicks.
    Readers of the challenge who find no lesion set background clicks alone: with `NO_LESION_FROM` of them the mask is
    empty.

    Parameters
    ----------
    lesion_logit
        The lesion's logit minus the background's, shape (z, y, x).
    prompts
        Points on whole voxels inside the image.
    spacing_zyx
        Voxel size in mm.
    rules
        Which of them act.
    within
        Parts of the image where the mask is wanted, for a look that takes no time for the rest; not with ``challenge``,
        which looks at all of it. By default all of it.

    Returns
    -------
    mask : NDArray
        Shape (z, y, x), bool; nothing is said of voxels that are not wanted.
    acted : RulesActed
        How often the rules acted.

    Raises
    ------
    ValueError
        If a part is wanted with the rules ``challenge``.
    """
    if within is not None and rules == "challenge":
        raise ValueError("expected no part of the image with the rules 'challenge', which look at all of it")
    tumor, background = (prompts.voxels_zyx(kind) for kind in (TUMOR, BACKGROUND))
    if within is None:
        mask = lesion_logit > 0
    else:
        mask = np.zeros(lesion_logit.shape, dtype=bool)
        for window in within:
            mask[window] = lesion_logit[window] > 0
    if rules == "none":
        return mask, RulesActed(len(tumor), len(background))
    points = np.concatenate([tumor, background])
    side = np.repeat([1.0, -1.0], [len(tumor), len(background)])
    clicked_logit = lesion_logit[tuple(points.T)]
    agreement = side * clicked_logit
    wrong = (clicked_logit > 0) != (side > 0)
    residual = np.where(wrong, side * (SURE_LOGIT - agreement), 0.0)
    clicked_in_turn = rules == "challenge" and len(tumor) == len(background)
    if residual.any():
        for box, correction in _corrections(points, residual, lesion_logit.shape, spacing_zyx, within=within):
            mask[box] = lesion_logit[box] + correction > 0
        mask[tuple(background.T)] = False
        mask[tuple(tumor.T)] = True
    if clicked_in_turn:
        removed = _remove_unmarked(mask, tumor, ~are_in_strokes(tumor, spacing_zyx))
    elif rules == "challenge" and not len(tumor) and _has_no_lesion(background, spacing_zyx):
        removed = cc3d.connected_components(mask, connectivity=26, return_N=True)[1]
        mask[:] = False
    else:
        removed = 0
    corrected = [int(wrong[side == one].sum()) for one in (1.0, -1.0)]
    return mask, RulesActed(len(tumor), len(background), corrected[0], corrected[1], removed)


def _has_no_lesion(background_zyx: NDArray[np.int64], spacing_zyx: Sequence[float]) -> bool:
    """Tell from the background clicks of a case without tumour clicks whether a reader has found no lesion."""
    return len(background_zyx) > 0 and int(group_points(background_zyx, spacing_zyx).max()) + 1 >= NO_LESION_FROM


def _remove_unmarked(mask: NDArray[np.bool_], tumor_zyx: NDArray[np.int64], is_click: NDArray[np.bool_]) -> int:
    """Remove components without a point from `mask` where clicks say that all are marked, and return their number."""
    places = np.unique(tumor_zyx[is_click], axis=0)
    if len(places) <= REPEATS:
        return 0
    box = _box(mask)  # the clicks have made sure that there is a voxel
    part = mask[box]
    numbers, count = cc3d.connected_components(part, connectivity=26, return_N=True)
    low = [axis.start for axis in box]
    if len(places) - len(np.unique(numbers[tuple((places - low).T)])) < REPEATS:
        return 0
    marked = np.unique(numbers[tuple((tumor_zyx - low).T)])
    stays = np.zeros(count + 1, dtype=bool)
    stays[marked] = True
    part[part] = stays[numbers[part]]
    return int(count - len(marked))


def _box(mask: NDArray[np.bool_]) -> tuple[slice, ...]:
    """Return the part of a mask, with a voxel in it, that holds all of its voxels."""
    box: tuple[slice, ...] = ()
    for axis in range(mask.ndim):  # all of the image along the first axis alone, which lies best in memory
        part = mask[box]
        inside = np.flatnonzero(part.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        box += (slice(int(inside[0]), int(inside[-1]) + 1),)
    return box


def _corrections(
    points: NDArray[np.int64],
    residual: NDArray[np.float64],
    shape: tuple[int, ...],
    spacing_zyx: Sequence[float],
    *,
    within: Sequence[tuple[slice, ...]] | None,
) -> Iterator[tuple[tuple[slice, ...], NDArray[np.float32]]]:
    """Interpolate the residuals at the points smoothly, and yield the boxes around them with what is added there.

    What is added lies between the lowest and the highest that a point would add alone. Boxes are parts of the image
    along z, y, x, and do not overlap; what is added has the shape of its box. Boxes beside all that is wanted are left
    out.
    """
    points, first = np.unique(points, axis=0, return_index=True)
    scaled = points * np.asarray(spacing_zyx) / LENGTH_MM
    # axis by axis, since all differences at once take three times as much
    kernel = np.zeros((len(points), len(points)))
    for axis in scaled.T:
        kernel += (axis[:, None] - axis) ** 2
    kernel = np.exp(-kernel / 2)
    kernel[np.diag_indices_from(kernel)] += 1e-2
    residual = residual[first]
    weights = np.linalg.solve(kernel, residual)
    reach = np.ceil(REACH_MM / np.asarray(spacing_zyx)).astype(int)
    for box in boxes_around(points, reach, shape):
        if within is not None and not any(_overlap(box, window) for window in within):
            continue
        low, high = np.array([[axis.start, axis.stop] for axis in box]).T
        field, lowest, highest = np.zeros((3, *(high - low)), dtype=np.float32)
        inside = ((points >= low) & (points < high)).all(axis=1)
        for place, weight, alone in zip(points[inside] - low, weights[inside], residual[inside], strict=True):
            window = tuple(
                slice(max(p - r, 0), min(p + r + 1, n)) for p, r, n in zip(place, reach, field.shape, strict=True)
            )
            z, y, x = (
                np.exp(-(((np.arange(axis.start, axis.stop) - p) * s / LENGTH_MM) ** 2) / 2)
                for axis, p, s in zip(window, place, spacing_zyx, strict=True)
            )
            near = (z[:, None, None] * y[:, None] * x).astype(np.float32)
            field[window] += np.float32(weight) * near
            if alone:
                extreme, limit = (np.maximum, highest) if alone > 0 else (np.minimum, lowest)
                extreme(limit[window], np.float32(alone) * near, out=limit[window])
        yield box, field.clip(lowest, highest)


def _overlap(one: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    return all(a.start < b.stop and b.start < a.stop for a, b in zip(one, other, strict=True))
