"""Where to click next: places where the mask is unsure or likely wrong, by what several views of the network say.

Pure NumPy. A view is the network's word on the image as it is or mirrored, by one fold. Where views differ, or agree on
something between yes and no, the mask is unsure; where uptake is high and the mask has nothing, it may be wrong however
sure they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.petct.rules import LENGTH_MM
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts

SURE_PROBABILITY = 0.02
"""Probability to be a lesion below which a voxel outside the mask is not asked, unless it is hot."""
HOT_SUV = 2.0
HOT_CONTRAST = 2.0
"""Uptake that is hot: above an SUV, and above that many times the mean within `SURROUNDINGS_MM`."""
SURROUNDINGS_MM = 60.0
"""Width of the cube around a voxel whose mean is its surroundings: larger than most lesions, smaller than the organs
whose uptake is high all over."""
HOT_PROBABILITY = 0.01
"""Least probability of hot uptake outside the mask to be a lesion, whatever the network says."""
APART_MM = 2 * LENGTH_MM
"""Least distance between two proposals: a click corrects what lies nearer."""


@dataclass(frozen=True)
class Suggestion:
    """A place to look at.

    Attributes
    ----------
    kind
        ``tumor`` outside the mask and ``background`` in it: what to click where the reader finds the mask wrong. Who
        finds it right may click the other.
    point_xyz
        Voxel on the PET.
    wrong_ml
        Volume that is expected to be wrong within a click's reach.
    probability
        That the place is a lesion: mean over the views, 0 to 1.
    spread
        Standard deviation of that over the views.
    suv
        At the place.
    reason
        A sentence for the reader.
    """

    kind: str
    point_xyz: tuple[int, int, int]
    wrong_ml: float
    probability: float
    spread: float
    suv: float
    reason: str


@dataclass(frozen=True)
class Findings:
    """What is known of a case before anybody is asked; arrays have shape (z, y, x).

    Attributes
    ----------
    mask
        Bool.
    probability
        To be a lesion, 0 to 1, before the rules.
    suv
        The PET.
    spacing_zyx
        Voxel size in mm.
    """

    mask: NDArray[np.bool_]
    probability: NDArray[np.floating]
    suv: NDArray[np.float32]
    spacing_zyx: Sequence[float]

    @cached_property
    def hot(self) -> NDArray[np.bool_]:
        """Where uptake is high, and higher than around it."""
        width = [max(round(SURROUNDINGS_MM / mm), 1) for mm in self.spacing_zyx]
        around = ndimage.uniform_filter(self.suv, width, mode="nearest")
        hot: NDArray[np.bool_] = (self.suv > HOT_SUV) & (self.suv > HOT_CONTRAST * around)
        return hot

    def doubtful(self) -> NDArray[np.int64]:
        """Return the voxels that may be wrong and that views are wanted of, shape (n, 3)."""
        return np.argwhere(self.mask | (self.probability > SURE_PROBABILITY) | self.hot)


def find_suggestions(
    findings: Findings, views: NDArray[np.floating], prompts: Prompts, *, count: int = 3, threshold: float = 0.5
) -> tuple[Suggestion, ...]:
    """Propose places to click.

    A voxel is wrong with the probability to be no lesion in the mask, and to be one outside it, where hot uptake has
    at least `HOT_PROBABILITY`. These, summed with Gaussian weights of `LENGTH_MM`, which is the reach of a click's
    correction, over the voxels on the same side of the mask's surface, are the volume that is expected to be wrong
    around a place. The places where it is highest, times their own probability of being wrong, are proposed, those in
    the mask each in another component, and none near a point that was set before.

    Parameters
    ----------
    findings
        Mask, probabilities and PET.
    views
        Probabilities of `findings.doubtful()` to be lesions by each view, shape (views, n).
    prompts
        Points that were set, on whole voxels inside the image.
    count
        How many to propose at most.
    threshold
        Probability above which a view sees a lesion: that of the logit zero.

    Returns
    -------
    tuple of Suggestion
        The highest of these products first; empty where nothing is doubtful.
    """
    voxels = findings.doubtful()
    mean, spread = views.mean(axis=0, dtype=np.float64), views.std(axis=0, dtype=np.float64)
    hot = findings.hot[tuple(voxels.T)]
    inside = findings.mask[tuple(voxels.T)]
    wrong = np.where(inside, 1 - mean, np.where(hot, np.maximum(mean, HOT_PROBABILITY), mean))
    wrong_ml = _expected_ml(findings, voxels, wrong, inside)
    score = np.where(inside | hot | (wrong > SURE_PROBABILITY), wrong * wrong_ml, 0.0)
    components = cc3d.connected_components(findings.mask, connectivity=26)
    numbers = components[tuple(voxels.T)]
    for place in prompts.indices_zyx():
        score[_distances_mm(voxels, place, findings.spacing_zyx) < LENGTH_MM] = 0
    found: list[Suggestion] = []
    while len(found) < count and score.size and score.max() > 0:
        best = int(score.argmax())
        z, y, x = (int(n) for n in voxels[best])
        said = views[:, best] > threshold
        suv = float(findings.suv[z, y, x])
        found.append(
            Suggestion(
                BACKGROUND if inside[best] else TUMOR,
                (x, y, z),
                float(wrong_ml[best]),
                float(mean[best]),
                float(spread[best]),
                suv,
                _reason(inside[best], mean[best], said, suv, hot=hot[best]),
            )
        )
        near = _distances_mm(voxels, voxels[best], findings.spacing_zyx) < APART_MM
        score[near | (inside[best] & (numbers == numbers[best]))] = 0
    return tuple(found)


def _expected_ml(
    findings: Findings, voxels: NDArray[np.int64], wrong: NDArray[np.float64], inside: NDArray[np.bool_]
) -> NDArray[np.float64]:
    """Return the volume expected to be wrong around each voxel on its side of the mask's surface, shape (n,)."""
    sigma = [LENGTH_MM / mm for mm in findings.spacing_zyx]
    kernel_ml = (2 * np.pi) ** 1.5 * LENGTH_MM**3 / 1000
    expected = np.zeros(len(voxels))
    for side in (True, False):
        on_side = inside == side
        field = np.zeros(findings.mask.shape, dtype=np.float32)
        field[tuple(voxels[on_side].T)] = wrong[on_side]
        smooth = ndimage.gaussian_filter(field, sigma, mode="constant", truncate=3.0)
        expected[on_side] = kernel_ml * smooth[tuple(voxels[on_side].T)]
    return expected


def _distances_mm(
    voxels: NDArray[np.int64], place: NDArray[np.number], spacing_zyx: Sequence[float]
) -> NDArray[np.float64]:
    distances: NDArray[np.float64] = np.linalg.norm((voxels - place) * np.asarray(spacing_zyx), axis=1)
    return distances


def _reason(inside: bool, probability: float, said: NDArray[np.bool_], suv: float, *, hot: bool) -> str:
    views = f"{said.sum()} of {len(said)} views see a lesion here"
    if inside:
        return f"in the mask, {probability:.0%} likely a lesion: {views}"
    if hot and probability < HOT_PROBABILITY:
        return f"not in the mask, but SUV {suv:.1f} is more than {HOT_CONTRAST:g} times its surroundings"
    return f"not in the mask, {probability:.0%} likely a lesion: {views}"
