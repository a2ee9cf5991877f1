"""The transform of Task 2's training: a CT with lesions becomes a lesion's baseline and follow-up."""

from collections.abc import Mapping, Sequence
from typing import Any

import cc3d
import numpy as np
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial.transform import Rotation
from torch.nn import functional

from lesionclick.longitudinal.patches import ZOOMS, Patch, choose_zoom
from lesionclick.prompts.encodings import LesionPair
from lesionclick.simulation.courses import Pair, draw_course, make_pair

PROPAGATED_SHARE = 0.4
"""Share of the follow-up points that are as far off as a registration leaves them; the others were clicked."""
PROPAGATED_MM, CLICKED_MM = 4.0, 1.0
"""Spread of these two along each axis, in mm."""
ANYWHERE_SHARE = 0.25
"""Share of the clicked follow-up points that lie anywhere in the lesion and not near its centre of gravity."""
NO_BASELINE_SHARE = 0.1
"""Share of the samples without baseline: no CT, no mask, no point."""
VANISHED_SHARE = 0.3
"""Share of the lesions that have vanished, twice that of the simulated cases: to tell that is hard to learn."""
TURN_DEGREES = 8.0
GROWTH = (0.04, 4.0)
"""Range of the ratio of a lesion's volumes, wider than that of the simulated cases: the follow-up decides, and not
what its baseline would let one expect."""
VARIED_SHARE = 0.5
"""Share of the samples that another body is made of, so that a few real patients are not learnt by heart."""
VARIED_TURN_DEGREES = (45.0, 15.0, 15.0)
"""Largest turn of such a sample about z, y and x."""
STRETCH = 0.12
"""Spread of the logarithm of its stretch along each axis."""
VARIED_GAIN, VARIED_HU = (0.9, 1.1), 12.0
"""Range of the factor on its HU, and the largest offset."""
_MARGIN = 1.2
"""What becomes a pair, in units of the patch: room for displacement and turn."""
_VARIED_MARGIN = 1.3
"""What becomes another body first, in units of that: room for its turn, which a crop has not at the largest zoom."""
_COARSE_ZOOM = 2.0
"""Zoom from which on a pair is made of voxels of twice the size, in an eighth of the time; the patch's are larger."""


class MakePair(BasicTransform):  # type: ignore[misc]
    """Turn a crop around a lesion into the channels of its baseline and follow-up, and the follow-up's mask.

    Channels: follow-up CT, baseline CT, and those of `lesionclick.prompts.encodings.LesionPair`. The crop, in the
    network's voxels, should be of `crop_size`; the lesion nearest to its centre counts.

    Parameters
    ----------
    encoding
        The encoding of mask and points.
    patch_size
        Shape (z, y, x) of the result.
    spacing_zyx
        Voxel size in mm.
    intensities
        nnU-Net's intensity properties of the CT, by which the crop is normalised.
    """

    def __init__(
        self,
        encoding: LesionPair,
        patch_size: tuple[int, ...],
        spacing_zyx: tuple[float, ...],
        intensities: Mapping[str, float],
    ) -> None:
        super().__init__()
        self.encoding = encoding
        self.patch_size = patch_size
        self.spacing = np.asarray(spacing_zyx)
        self.spacing_zyx = spacing_zyx
        self.mean, self.std = intensities["mean"], max(intensities["std"], 1e-8)
        self.low, self.high = intensities["percentile_00_5"], intensities["percentile_99_5"]

    def apply(self, data_dict: dict[str, Any], **_: Any) -> dict[str, Any]:
        """Replace ``image`` (1, z, y, x) and ``segmentation`` (1, z, y, x) by those of the pair."""
        rng = np.random.default_rng(np.random.randint(2**31))
        crop, lesions = data_dict["image"][0].numpy(), data_dict["segmentation"][0].numpy() > 0
        inside = _lesion_in_the_middle(_number(lesions))
        if not len(inside):  # a crop at random
            return self._without_lesion(rng)
        extent, patch = (np.multiply(size, self.spacing) for size in (np.ptp(inside, axis=0) + 1, self.patch_size))
        course = draw_course(len(inside) * float(np.prod(self.spacing)) / 1000, rng, VANISHED_SHARE, GROWTH)
        blind = rng.uniform() < NO_BASELINE_SHARE
        needed = [choose_zoom(extent * size, patch) for size in (1.0, course.growth ** (1 / 3))]
        unsized = blind or course.status == "new"  # no mask tells how large the lesion is
        zoom = float(rng.choice(ZOOMS if unsized else needed))
        whole = max(*needed, zoom)  # at which neither of the two lesions is cut
        coarse = 2 if zoom >= _COARSE_ZOOM else 1
        centre = inside.mean(axis=0)
        ct, lesions = self._body(crop, lesions, centre, zoom=whole, coarse=coarse, rng=rng)
        spacing = self.spacing * coarse
        numbers = _number(lesions)
        inside = _lesion_in_the_middle(numbers)
        if not len(inside):  # too thin for larger voxels, or another body's
            return self._without_lesion(rng)
        target = int(numbers[tuple(inside[0])])
        centre = inside.mean(axis=0)
        part = self._part(numbers.shape, centre, whole / coarse)
        pair = make_pair(
            ct[part],
            numbers[part],
            tuple(spacing),
            rng,
            courses={target: course},
            shift_mm=0.0,
            turn_degrees=TURN_DEGREES,
        )
        origin = centre - [axis.start for axis in part]
        image, label = self._channels(pair, target, origin, spacing=spacing, zoom=zoom / coarse, blind=blind, rng=rng)
        return self._result(image, label, rng)

    def _body(
        self,
        crop: NDArray[np.float32],
        lesions: NDArray[np.bool_],
        centre: NDArray[np.float64],
        *,
        zoom: float,
        coarse: int,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cut out what a patch of this zoom needs, in HU, with voxels `coarse` times as large; vary some samples."""
        varied = rng.uniform() < VARIED_SHARE
        part = self._part(crop.shape, centre, zoom * _VARIED_MARGIN if varied else zoom)
        ct, lesions = crop[part] * self.std + self.mean, lesions[part]
        if coarse > 1:
            ct, lesions = _pool(ct, coarse), _pool(lesions.astype(np.float32), coarse) >= 0.5
        if varied:
            return vary(ct, lesions, tuple(self.spacing * coarse), rng, air=self.low)
        return ct, lesions

    def _part(self, shape: tuple[int, ...], centre: NDArray[np.float64], zoom: float) -> tuple[slice, ...]:
        half = np.ceil(zoom * _MARGIN * np.asarray(self.patch_size) / 2).astype(int)
        low = np.maximum(np.rint(centre).astype(int) - half, 0)
        high = np.minimum(np.rint(centre).astype(int) + half + 1, shape)
        return tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))

    def _channels(
        self,
        pair: Pair,
        target: int,
        origin: NDArray[np.float64],
        *,
        spacing: NDArray[np.float64],
        zoom: float,
        blind: bool,
        rng: np.random.Generator,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Cut both scans around their points, or where `blind` the follow-up alone.

        `origin` is the lesion's centre in the CT that the pair was made of, `spacing` its voxel size in mm, and `zoom`
        the size of the patch's voxels in units of these.
        """
        before, after = pair.baseline_lesions == target, pair.followup_lesions == target
        place = np.argwhere(after).mean(axis=0) if after.any() else pair.carry(origin)
        if not after.any() or rng.uniform() < PROPAGATED_SHARE:
            followup_point = place + rng.normal(scale=PROPAGATED_MM, size=3) / spacing
        elif rng.uniform() < ANYWHERE_SHARE:
            followup_point = rng.choice(np.argwhere(after)).astype(np.float64)
        else:
            followup_point = place + rng.normal(scale=CLICKED_MM, size=3) / spacing
        followup = Patch.at_index(followup_point, self.patch_size, zoom)
        label = followup.cut_mask(pair.followup_lesions, target)
        followup_ct = self._normalise(followup.cut(pair.followup_ct, self.low))
        if blind:
            return np.stack([followup_ct, *self._without_baseline(followup.to_patch(followup_point))]), label
        # a new lesion has no point in the baseline; its place there is known by registration
        spread = CLICKED_MM if before.any() else PROPAGATED_MM
        baseline_point = (np.argwhere(before).mean(axis=0) if before.any() else origin) + rng.normal(
            scale=spread, size=3
        ) / spacing
        baseline = Patch.at_index(baseline_point, self.patch_size, zoom)
        channels = self.encoding.encode(
            self._normalise(baseline.cut(pair.baseline_ct, self.low)),
            baseline.cut_mask(pair.baseline_lesions, target),
            followup_zyx=followup.to_patch(followup_point),
            baseline_zyx=baseline.to_patch(baseline_point) if before.any() else None,
            spacing_zyx=self.spacing_zyx,
        )
        return np.stack([followup_ct, *channels]), label

    def _without_lesion(self, rng: np.random.Generator) -> dict[str, Any]:
        image = np.concatenate([np.zeros((1, *self.patch_size)), self._without_baseline()])
        return self._result(image, np.zeros(self.patch_size, dtype=bool), rng)

    def _without_baseline(self, followup_zyx: NDArray[np.float64] | None = None) -> NDArray[np.float32]:
        return self.encoding.encode(
            np.zeros(self.patch_size, dtype=np.float32),
            np.zeros(self.patch_size, dtype=bool),
            followup_zyx=followup_zyx,
            baseline_zyx=None,
            spacing_zyx=self.spacing_zyx,
        )

    def _normalise(self, ct: NDArray[np.float32]) -> NDArray[np.float32]:
        normalised: NDArray[np.float32] = (np.clip(ct, self.low, self.high) - self.mean) / self.std
        return normalised

    def _result(
        self, image: NDArray[np.floating], label: NDArray[np.bool_], rng: np.random.Generator
    ) -> dict[str, Any]:
        flips = [axis for axis in (1, 2, 3) if rng.uniform() < 0.5]
        return {
            "image": torch.from_numpy(image.astype(np.float32)).flip(flips),
            "segmentation": torch.from_numpy(label[None].astype(np.int16)).flip(flips),
        }


def vary(
    ct: NDArray[np.float32],
    lesions: NDArray[np.bool_],
    spacing_zyx: tuple[float, ...],
    rng: np.random.Generator,
    *,
    air: float,
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Turn and stretch a crop about its middle, and change its HU, as `VARIED_TURN_DEGREES` and what follows it say.

    Parameters
    ----------
    ct
        HU, shape (z, y, x).
    lesions
        True in lesions, of the same shape.
    spacing_zyx
        Voxel size in mm.
    rng
        The only source of randomness.
    air
        HU of what comes in from outside the crop, before they are changed.

    Returns
    -------
    tuple of NDArray
        CT and lesions, of the shape that they had.
    """
    angles = np.deg2rad([rng.uniform(-limit, limit) for limit in VARIED_TURN_DEGREES])
    stretch = np.exp(rng.normal(scale=STRETCH, size=3))
    turn = Rotation.from_euler("zyx", angles).as_matrix()[::-1, ::-1]  # SciPy's axes are x, y, z
    spacing = np.asarray(spacing_zyx)
    matrix = turn * stretch * spacing / spacing[:, None]
    middle = (np.array(ct.shape) - 1) / 2
    offset = middle - matrix @ middle
    turned = ndimage.affine_transform(ct, matrix, offset, order=1, mode="constant", cval=air)
    inside = ndimage.affine_transform(lesions.astype(np.float32), matrix, offset, order=1, mode="constant") >= 0.5
    varied: NDArray[np.float32] = turned * np.float32(rng.uniform(*VARIED_GAIN))
    varied += np.float32(rng.uniform(-VARIED_HU, VARIED_HU))
    return varied, inside


def crop_size(patch_size: Sequence[int]) -> tuple[int, ...]:
    """Return the shape of the crop that holds a patch at any zoom, displaced and turned."""
    return tuple(int(np.ceil(ZOOMS[-1] * _MARGIN * n)) for n in patch_size)


def _pool(array: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    """Return the means of blocks of `size` voxels along each axis; what is left at the end is dropped."""
    pooled: NDArray[np.float32] = functional.avg_pool3d(torch.from_numpy(array)[None], size)[0].numpy()
    return pooled


def _number(lesions: NDArray[np.bool_]) -> NDArray[np.uint16]:
    numbers: NDArray[np.uint16] = cc3d.connected_components(lesions).astype(np.uint16)
    return numbers


def _lesion_in_the_middle(numbers: NDArray[np.uint16]) -> NDArray[np.int64]:
    """Return the voxels of the lesion that is nearest to the middle, shape (n, 3), none where there is none."""
    lesions = np.argwhere(numbers > 0)  # NumPy finds true faster than not zero
    if not len(lesions):
        return lesions
    middle = (np.array(numbers.shape) - 1) / 2
    nearest = lesions[((lesions - middle) ** 2).sum(axis=1).argmin()]
    return np.argwhere(numbers == numbers[tuple(nearest)])
