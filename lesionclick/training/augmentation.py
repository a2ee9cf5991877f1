"""Transforms that interactive PET/CT training adds to nnU-Net's own: misaligned images, and clicks made on the fly.

Images are tensors (channel, z, y, x) with CT first and PET second, segmentations (1, z, y, x).
"""

from typing import Any

import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.prompts.encodings import PointEncoding
from lesionclick.prompts.points import Prompts
from lesionclick.simulation.readers import corrective_pair, simulate

MOST_CLICKS = 10
"""Largest number of simulated clicks of each kind, as in the challenge."""
NO_CLICKS_SHARE = 0.2
"""Share of the samples that get no click at all, beside those whose number of clicks is drawn as zero."""
CORRECTIVE_SHARE = 0.15
"""Share of the samples whose clicks correct a crude prediction instead of following the challenge's procedure."""
UNPAIRED_SHARE = 0.1
"""Share of the samples whose numbers of tumour and background clicks are independent of each other."""
WHOLE_CASE_SHARE = 0.7
"""Share of the samples that are treated as whole cases; in the others some clicks fall outside the patch."""


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


class AppendClicks(BasicTransform):  # type: ignore[misc]
    """Simulate clicks on the augmented patch and append their channels to the image.

    Parameters
    ----------
    encoding
        How clicks become channels.
    spacing_zyx
        Voxel size of the patch in mm.
    jitter_voxels
        Each click moves by up to this much along every axis, since clicks are placed on the PET grid and not on the
        network's.
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
        label = data_dict["segmentation"][0].numpy() > 0
        pet = image[1].numpy()
        steps = rng.integers(0, MOST_CLICKS + 1, size=2)
        if rng.uniform() >= UNPAIRED_SHARE:
            steps[:] = steps[0]
        if rng.uniform() < NO_CLICKS_SHARE:
            steps[:] = 0
        if rng.uniform() < CORRECTIVE_SHARE:
            kinds = _corrective(label, pet, steps, rng)
        else:
            local = steps if rng.uniform() < WHOLE_CASE_SHARE else _share_of_patch(label, steps, rng)
            kinds = (simulate(label, pet, rng, int(local[0]))[0], simulate(label, pet, rng, int(local[1]))[1])
        tumor, background = (points + rng.uniform(-1, 1, points.shape) * self.jitter_voxels for points in kinds)
        prompts = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
        channels = self.encoding.encode(prompts, label.shape, self.spacing_zyx)
        return {**data_dict, "image": torch.cat([image, channels])}


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
    """Place clicks in the errors of a crude prediction: a threshold between the uptake of tumour and of the rest.

    A ball around each click counts as corrected, so that the next click goes elsewhere.
    """
    level = np.quantile(pet[label], rng.uniform(0.05, 0.7)) if label.any() else np.quantile(pet, rng.uniform(0.95, 1))
    prediction = pet > level
    clicks: tuple[list[NDArray[np.int64]], list[NDArray[np.int64]]] = ([], [])
    for _ in range(int(steps.max())):
        pair = corrective_pair(label, prediction, rng)
        for kind, point in enumerate(pair):
            if point is not None and len(clicks[kind]) < steps[kind]:
                clicks[kind].append(point)
                around = tuple(slice(max(p - 4, 0), p + 5) for p in point)
                prediction[around] = label[around]
    return np.reshape(clicks[0], (-1, 3)).astype(np.int64), np.reshape(clicks[1], (-1, 3)).astype(np.int64)
