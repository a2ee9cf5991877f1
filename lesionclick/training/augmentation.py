"""Transforms of interactive PET/CT training: light augmentation, misaligned images, clicks and strokes made on the fly.

Images are tensors (channel, z, y, x) with CT first and PET second, segmentations (1, z, y, x).
"""

from collections.abc import Sequence
from itertools import combinations
from typing import Any

import cc3d
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from numpy.typing import NDArray
from scipy import ndimage
from torch.nn import functional

from lesionclick.prompts.encodings import PointEncoding
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts, pairs_within
from lesionclick.simulation.readers import corrective_pair, hot_uptake, place_clicks
from lesionclick.simulation.strokes import Stroke, corrective_stroke
from lesionclick.training.losses import FIRST_ORGAN

MOST_CLICKS = 10
"""Largest number of simulated clicks of each kind, as in the challenge."""
NO_CLICKS_SHARE = 0.2
"""Share of the samples that get no click at all, beside those whose number of clicks is drawn as zero."""
CORRECTIVE_SHARE = 0.15
"""Share of the samples whose clicks correct a crude prediction instead of following the challenge's procedure."""
STROKES_SHARE = 0.15
"""Share of the samples that get strokes instead of clicks; autoPET V has scribbles for clicks."""
MOST_STROKES = 5
"""Largest number of simulated strokes, as in autoPET V."""
DENSE_SHARE = 0.5
"""Share of the strokes that get a point halfway between neighbours: they are drawn on a PET of half the voxel size."""
UNPAIRED_SHARE = 0.1
"""Share of the samples whose numbers of tumour and background clicks are independent of each other."""
WITHHELD_SHARE = 0.5
"""Share of the samples in which lesions go without clicks, each by itself, so that clicked and missed ones stand side
by side; otherwise a network learns that what is not clicked is no lesion.
"""
WHOLE_CASE_SHARE = 0.7
"""Share of the samples that are treated as whole cases; in the others some clicks fall outside the patch."""


ZOOM_MARGIN = 1.25
"""Largest zoom of `LightAugmentation`, and the size of the patches that it is given, in units of the patch."""
WARP_SHARE = 0.4
"""Share of the samples that are zoomed and tilted."""
STRETCH = 0.1
"""Spread of the logarithm of the zoom of each axis by itself."""
TILT = 0.26
"""Largest angle about each axis in radians: 15 degrees."""
MIRROR_SHARES = (0.15, 0.15, 0.5)
"""Shares of the samples that are mirrored over z, y, x: bodies are nearly the same from left to right."""
TURN_SHARE = 0.15
GAIN_SPREAD = 0.15
"""Spread of the logarithm of the PET's gain."""
ORGAN_SHARE = 0.3
"""Share of the samples of drawn patients in which each organ gets a gain of its own."""
ORGAN_SPREAD = 0.35
"""Spread of the logarithm of these."""
NOISE = (0.15, 0.04)
"""Largest standard deviation of the noise in CT and PET, after normalisation."""
NOISE_SHARE = 0.4
FULL_WEIGHT_VOXELS = 300
"""Lesions of fewer voxels count as if they had that many, up to `LARGEST_WEIGHT` times their own."""
LARGEST_WEIGHT = 16
RIM_VOXELS = 2
"""How far from a lesion its weight reaches."""


class MisalignCT(ImageOnlyTransform):  # type: ignore[misc]
    """Shift the CT against the PET, as breathing and motion between the two scans do.

    Parameters
    ----------
    max_shift_mm
        Largest shift along each axis, in mm.
    spacing_zyx
        Voxel size in mm.
    probability
        Share of the samples that are shifted.
    """

    def __init__(self, max_shift_mm: float, spacing_zyx: tuple[float, ...], probability: float) -> None:
        super().__init__()
        self.max_shift = max_shift_mm / np.asarray(spacing_zyx)
        self.probability = probability

    def get_parameters(self, **_: Any) -> dict[str, Any]:
        """Draw the shift in voxels, or None for a sample that stays aligned."""
        shifted = np.random.uniform() < self.probability
        return {"shift": np.random.uniform(-self.max_shift, self.max_shift) if shifted else None}

    def _apply_to_image(self, img: torch.Tensor, shift: NDArray[np.float64] | None, **_: Any) -> torch.Tensor:
        if shift is not None:
            img[0] = torch.from_numpy(ndimage.shift(img[0].numpy(), shift, order=1, mode="nearest"))
        return img


class LightAugmentation(BasicTransform):  # type: ignore[misc]
    """Cut a patch out of a larger one, zoomed and tilted at random, mirror, turn, and change gain and noise.

    Organs are labelled from `FIRST_ORGAN` on; their uptake changes each by itself in some samples, since no table of
    uptake is true of all scanners and patients. The PET is SUV but for a factor.

    Parameters
    ----------
    patch_size
        Shape (z, y, x) of the patch; what comes in is larger by `ZOOM_MARGIN`.
    spacing_zyx
        Voxel size in mm; patches are turned in planes in which it and the patch are square.
    """

    def __init__(self, patch_size: Sequence[int], spacing_zyx: Sequence[float]) -> None:
        super().__init__()
        self.patch_size = tuple(patch_size)
        self.extent = torch.tensor([n * mm for n, mm in zip(patch_size, spacing_zyx, strict=True)][::-1]) / 2
        shapes = list(zip(patch_size, spacing_zyx, strict=True))
        self.planes = [(a + 1, b + 1) for a, b in combinations(range(3), 2) if shapes[a] == shapes[b]]

    def apply(self, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Change ``image`` (channels, z, y, x) and ``segmentation`` alike; voxels outside the case become unknown."""
        rng = np.random.default_rng(np.random.randint(2**31))
        image, label = data_dict["image"], data_dict["segmentation"].clamp(min=0)
        if rng.uniform() < WARP_SHARE:
            image, label = self._warp(image, label, rng)
        else:
            window = tuple(
                slice((n - m) // 2, (n - m) // 2 + m) for n, m in zip(image.shape[1:], self.patch_size, strict=True)
            )
            image, label = image[:, *window], label[:, *window]
        axes = [axis + 1 for axis, share in enumerate(MIRROR_SHARES) if rng.uniform() < share]
        image, label = image.flip(axes), label.flip(axes)
        if self.planes and rng.uniform() < TURN_SHARE:
            plane, turns = self.planes[rng.integers(len(self.planes))], int(rng.integers(1, 4))
            image, label = image.rot90(turns, plane), label.rot90(turns, plane)
        gain = torch.tensor(rng.lognormal(0.0, GAIN_SPREAD), dtype=torch.float32)
        noise = torch.tensor(rng.uniform(0, NOISE) * (rng.uniform(size=2) < NOISE_SHARE), dtype=torch.float32)
        if rng.uniform() < ORGAN_SHARE:
            gain = gain * _organ_gains(label[0], rng)
        # NumPy's: nnU-Net's workers all begin with one state of torch's
        grain = torch.from_numpy(rng.standard_normal(tuple(image.shape), dtype=np.float32))
        image = torch.stack([image[0], image[1] * gain]) + noise[:, None, None, None] * grain
        return {**data_dict, "image": image, "segmentation": label}

    def _warp(
        self, image: torch.Tensor, label: torch.Tensor, rng: np.random.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return a patch that is zoomed, each axis a little by itself, and tilted about its centre."""
        tilt = torch.linalg.matrix_exp(_cross_product(rng.uniform(-TILT, TILT, 3)))
        zoom = rng.uniform(1 / ZOOM_MARGIN, ZOOM_MARGIN) * rng.lognormal(0.0, STRETCH, 3)
        larger = torch.tensor([m / n for m, n in zip(image.shape[1:], self.patch_size, strict=True)][::-1])
        matrix = (tilt * torch.from_numpy(zoom).float() * self.extent) / (self.extent * larger)[:, None]
        affine = torch.cat([matrix, torch.zeros(3, 1)], dim=1)[None]
        grid = functional.affine_grid(affine, [1, 1, *self.patch_size], align_corners=False)
        warped = functional.grid_sample(image[None], grid, align_corners=False)[0]
        nearest = functional.grid_sample(label[None].float(), grid, mode="nearest", align_corners=False)[0]
        return warped, nearest.to(label.dtype)


def _cross_product(vector: NDArray[np.float64]) -> torch.Tensor:
    """Return the matrix that multiplies by a vector; its exponential turns by the vector's length about it."""
    x, y, z = vector.tolist()
    return torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])


def _organ_gains(label: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Return a factor for each voxel (z, y, x) that is about the same within an organ and one elsewhere."""
    logs = torch.from_numpy(rng.normal(0.0, ORGAN_SPREAD, int(label.max()) + 1).astype(np.float32))
    logs[:FIRST_ORGAN] = 0.0
    smooth: torch.Tensor = functional.avg_pool3d(
        logs[label.long()][None], 3, stride=1, padding=1, count_include_pad=False
    )[0]
    return smooth.exp()


class OnlyLesions(SegOnlyTransform):  # type: ignore[misc]
    """Take the organs out of the labels."""

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **_: Any) -> torch.Tensor:
        return (segmentation == 1).to(segmentation.dtype)


class WeighLesions(BasicTransform):  # type: ignore[misc]
    """Append to the segmentation a channel with the weight of each voxel: small lesions weigh more, all else one.

    A lesion's weight holds for its rim as well: if only its own voxels had it, the network would draw it too large.
    """

    def apply(self, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Return ``segmentation`` with shape (2, z, y, x): labels and weights, whole numbers."""
        label = data_dict["segmentation"]
        numbers = cc3d.connected_components(label[0].numpy() == 1, connectivity=26)
        sizes = np.bincount(numbers.ravel())
        weights = np.clip(np.rint(FULL_WEIGHT_VOXELS / np.maximum(sizes, 1)), 1, LARGEST_WEIGHT)
        weights[0] = 1
        own = weights.astype(np.int16)[numbers]
        channel = torch.from_numpy(ndimage.maximum_filter(own, size=2 * RIM_VOXELS + 1, mode="nearest"))
        return {**data_dict, "segmentation": torch.stack([label[0], channel])}


class AppendClicks(BasicTransform):  # type: ignore[misc]
    """Simulate clicks or strokes on the augmented patch and append their channels to the image.

    Parameters
    ----------
    encoding
        How clicks become channels.
    spacing_zyx
        Voxel size of the patch in mm.
    jitter_voxels
        Each click, and each stroke as a whole, moves by up to this much along every axis, since they are placed on the
        PET grid and not on the network's.
    """

    def __init__(self, encoding: PointEncoding, spacing_zyx: tuple[float, ...], jitter_voxels: float = 0.6) -> None:
        super().__init__()
        self.encoding = encoding
        self.spacing_zyx = spacing_zyx
        self.jitter_voxels = jitter_voxels

    def apply(self, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Append `encoding.n_channels` channels to ``data_dict["image"]``, made from its PET and its segmentation."""
        rng = np.random.default_rng(np.random.randint(2**31))
        image = data_dict["image"]
        label = data_dict["segmentation"][0].numpy() == 1
        pet = image[1].numpy()
        strokes = rng.uniform() < STROKES_SHARE
        prompts = self._draw_strokes(label, pet, rng) if strokes else self._click(label, pet, rng)
        channels = self.encoding.encode(prompts, label.shape, self.spacing_zyx)
        return {**data_dict, "image": torch.cat([image, channels])}

    def _draw_strokes(self, label: NDArray[np.bool_], pet: NDArray[np.float32], rng: np.random.Generator) -> Prompts:
        kinds: dict[str, list[NDArray[np.float64]]] = {TUMOR: [np.empty((0, 3))], BACKGROUND: [np.empty((0, 3))]}
        for stroke in _corrective_strokes(label, pet, rng):
            points = stroke.voxels_zyx + rng.uniform(-1, 1, 3) * self.jitter_voxels
            kinds[stroke.kind].append(_between(points) if rng.uniform() < DENSE_SHARE else points)
        tumor, background = (np.concatenate(kinds[kind]) for kind in (TUMOR, BACKGROUND))
        return Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)

    def _click(self, label: NDArray[np.bool_], pet: NDArray[np.float32], rng: np.random.Generator) -> Prompts:
        steps = rng.integers(0, MOST_CLICKS + 1, size=2)
        if rng.uniform() >= UNPAIRED_SHARE:
            steps[:] = steps[0]
        if rng.uniform() < NO_CLICKS_SHARE:
            steps[:] = 0
        if rng.uniform() < CORRECTIVE_SHARE:
            kinds = _corrective(label, pet, steps, rng)
        else:
            local = steps if rng.uniform() < WHOLE_CASE_SHARE else _share_of_patch(label, steps, rng)
            shown = _withhold(label, rng) if rng.uniform() < WITHHELD_SHARE else label
            hot = hot_uptake(label, pet)
            kinds = (place_clicks(shown, rng, int(local[0])), place_clicks(hot, rng, int(local[1])))
        tumor, background = (points + rng.uniform(-1, 1, points.shape) * self.jitter_voxels for points in kinds)
        return Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)


def _withhold(label: NDArray[np.bool_], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Return the lesions that remain when each is left out with a probability that is drawn for the patch."""
    numbers, count = cc3d.connected_components(label, connectivity=26, return_N=True)
    kept = np.flatnonzero(rng.uniform(size=count) >= rng.uniform()) + 1
    remaining: NDArray[np.bool_] = np.isin(numbers, kept)
    return remaining


def _share_of_patch(label: NDArray[np.bool_], steps: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
    """Draw how many of a case's clicks fall into this patch, were it a part of a larger case."""
    here = int(ndimage.label(label, np.ones((3, 3, 3)))[1])
    elsewhere = int(rng.geometric(0.25))
    first = min(int(steps[0]), here + elsewhere)
    centres = rng.hypergeometric(here, elsewhere, first) if first else 0
    rim = rng.binomial(steps[0] - first, here / (here + elsewhere))
    return np.array([centres + rim, rng.binomial(steps[1], rng.uniform())])


def _corrective(
    label: NDArray[np.bool_], pet: NDArray[np.float32], steps: NDArray[np.int64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Place clicks in the errors of a crude prediction.

    A ball around each click counts as corrected, so that the next click goes elsewhere.
    """
    prediction = _predict_crudely(label, pet, rng)
    clicks: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for _ in range(int(steps.max())):
        pair = corrective_pair(label, prediction, rng)
        for kind, point in enumerate(pair):
            if point is not None and len(clicks[kind]) < steps[kind]:
                clicks[kind].append(point)
                around = tuple(slice(max(p - 4, 0), p + 5) for p in point)
                prediction[around] = label[around]
    return np.reshape(clicks[0], (-1, 3)).astype(np.int64), np.reshape(clicks[1], (-1, 3)).astype(np.int64)


def _corrective_strokes(label: NDArray[np.bool_], pet: NDArray[np.float32], rng: np.random.Generator) -> list[Stroke]:
    """Draw 1 to `MOST_STROKES` strokes, each in the largest error that a crude prediction still has.

    Parts of lesions and hot spots are left out of it, each by itself: a network misses lesions as a whole, and takes
    few of the hot organs for lesions. Around each stroke, all counts as corrected.
    """
    found = _predict_crudely(label, pet, rng)
    prediction = _withhold(found & label, rng) | _withhold(found & ~label, rng)
    strokes: list[Stroke] = []
    for _ in range(rng.integers(1, MOST_STROKES + 1)):
        if (stroke := corrective_stroke(label, prediction, rng)) is None:
            break
        strokes.append(stroke)
        low, high = stroke.voxels_zyx.min(axis=0) - 4, stroke.voxels_zyx.max(axis=0) + 5
        around = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
        prediction[around] = label[around]
    return strokes


def _predict_crudely(label: NDArray[np.bool_], pet: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.bool_]:
    """Take for tumour what is above a threshold between the uptake of tumour and of the rest."""
    level = np.quantile(pet[label], rng.uniform(0.05, 0.7)) if label.any() else np.quantile(pet, rng.uniform(0.95, 1))
    prediction: NDArray[np.bool_] = pet > level
    return prediction


def _between(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Add to the points of a stroke those halfway between neighbours, diagonal ones too."""
    first, second = pairs_within(points, 1.5).T
    return np.concatenate([points, np.unique((points[first] + points[second]) / 2, axis=0)])
