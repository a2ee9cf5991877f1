"""Where a place of the baseline lies in the follow-up: shift, then affine, then deformable, on coarse voxels.

All of it happens in physical space, on grids whose axes are the patient's, so that flipped and oblique directions and
other voxel sizes make no difference. SimpleITK does the work; `docs/registration.md` says why, and how well.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import fft, ndimage

from lesionclick.budget import Budget
from lesionclick.images import Grid, Volume, itk_reason
from lesionclick.longitudinal.alignment import Alignment, Kind

logger = logging.getLogger(__name__)

Array = NDArray[np.float64]

COARSE_MM, FINE_MM = 8.0, 5.0
"""Voxels of the two levels. The shift and the affine are found on the first, the deformation on both."""
WINDOW_HU = (-1000.0, 300.0)
"""What lies above is bone or metal, which would count more than the tissue that lesions lie in."""
BODY_HU = -500.0
"""Air and lung lie below."""
MIN_PART = 0.1
"""Smallest part of the body mask, as a share of the largest: the other leg and arms count, the table's parts do not."""
MIN_COMMON = 0.3
"""Share of the smaller image that the two must have in common for a shift to be looked at."""
MIN_SIMILARITY = 0.5
"""Correlation of two CTs, affinely aligned, below which they do not show the same part of the body."""
MIN_OVERLAP = 0.15
"""Overlap below which callers take two CTs for different parts of the body. `docs/registration.md` has the evidence."""
SCALES = (0.7, 1.4)
"""Stretches that patients undergo, and no others."""
LOSSES = {"overlap": 0.5, "agreement": 0.05, "similarity": 0.01}
"""What a stage may lose of each measure of `_Fit`. Overlap also falls when an image that fills its field of view is
turned; agreement falls only when bodies are badly aligned.
"""
STAGE_SHARES: dict[Kind, float] = {"affine": 3.0, "deformable": 6.0}
"""Most that these stages take, in units of the time of all that comes before, on the benchmark's pairs."""
AFFINE_ITERATIONS = 30
AFFINE_SAMPLES = 30_000
"""Steps of the optimiser, and voxels in which it compares the CTs. `docs/registration.md` has what comes of them."""
DEMONS_ITERATIONS = (60, 40)
DEMONS_SMOOTHING_VOXELS = 1.5
"""Iterations on each of the two levels, and the spread of the Gaussian that smooths the field after each iteration."""
_RIM_VOXELS = 2
_NO_DATA = -5000.0


class _DivergedError(Exception):
    """A stage found nothing that can be right; the message says why."""


class _NoTimeError(_DivergedError):
    """There is no time for a stage."""


@dataclass(frozen=True, eq=False)
class _Scan:
    """A windowed CT on coarse voxels along the patient's axes, over its body and a rim of air.

    Attributes
    ----------
    array
        HU, shape (z, y, x), float32.
    scanned, body
        Voxels inside the field of view, and those in the body; bool.
    """

    array: NDArray[np.float32]
    scanned: NDArray[np.bool_]
    body: NDArray[np.bool_]
    grid: Grid

    @cached_property
    def near_body(self) -> NDArray[np.bool_]:
        """The body and a rim of air around it, inside the field of view."""
        near: NDArray[np.bool_] = ndimage.binary_dilation(self.body, iterations=_RIM_VOXELS) & self.scanned
        return near

    def image(self, array: NDArray[Any]) -> sitk.Image:
        """Return an array on this grid as an image."""
        return Volume(array, self.grid).to_image()


@dataclass(frozen=True)
class _Fit:
    """How well two scans agree.

    Attributes
    ----------
    overlap
        Share of the smaller body that the other covers.
    agreement
        Voxels in both bodies over those in either, where both are scanned, near the baseline's body.
    similarity
        Correlation of the HU in those in either.
    """

    overlap: float
    agreement: float
    similarity: float


def register(baseline: Volume, followup: Volume, budget: Budget | None = None) -> Alignment:
    """Find where the places of the baseline lie in the follow-up.

    The shift with the highest correlation of the images comes first, then an affine transform, then a diffeomorphic
    deformation. A stage that diverges is left out with all after it, with a warning.

    Parameters
    ----------
    baseline, followup
        CTs in HU, on any two grids and with any two fields of view.
    budget
        Stages that are not likely to end within it are left out. By default there is no limit.

    Returns
    -------
    Alignment
        The same for the same images, if there is time for all stages.
    """
    budget = budget or Budget()
    begin = budget.now()
    fixed, moving = _scan(baseline, COARSE_MM), _scan(followup, COARSE_MM)
    missing = [name for name, scan in (("baseline", fixed), ("follow-up", moving)) if not scan.body.any()]
    if missing:
        logger.warning("registration: no body in the %s; the centres of the images are aligned", " and ".join(missing))
        centres = [v.grid.to_physical((np.array(v.grid.size_xyz) - 1) / 2)[0] for v in (baseline, followup)]
        return Alignment("centre", 0.0, np.eye(3), centres[1] - centres[0])
    alignment = Alignment("centre", 0.0, np.eye(3), _best_shift(fixed, moving))
    fit = _fit(fixed, moving, alignment)
    try:
        _require_time(budget, begin, "affine")
        alignment, fit = _checked(fixed, moving, _affine(fixed, moving, alignment), fit)
        if fit.similarity < MIN_SIMILARITY:
            raise _DivergedError(f"the CTs do not look alike (similarity {fit.similarity:.2f} < {MIN_SIMILARITY})")
        _require_time(budget, begin, "deformable")
        fine = _scan(baseline, FINE_MM), _scan(followup, FINE_MM)
        alignment, fit = _checked(fixed, moving, _deformable((fixed, fine[0]), (moving, fine[1]), alignment), fit)
    except _DivergedError as error:
        logger.warning("registration: %s; the %s alignment counts", error, alignment.kind)
        alignment = replace(alignment, complete=not isinstance(error, _NoTimeError))
    alignment = replace(alignment, overlap=fit.overlap if fit.similarity >= MIN_SIMILARITY else 0.0)
    measures = f"overlap {alignment.overlap:.2f}, similarity {fit.similarity:.2f}"
    logger.info("registration: %s, %s, %.1f s", alignment.kind, measures, budget.now() - begin)
    return alignment


def _require_time(budget: Budget, begin: float, stage: Kind) -> None:
    """Raise unless a stage is likely to end in time, by what the ones before it took since `begin`."""
    expected_s = STAGE_SHARES[stage] * (budget.now() - begin)
    if expected_s > budget.left_s:
        raise _NoTimeError(f"no time for the {stage} stage, {expected_s:.1f} s, with {budget.left_s:.1f} s left")


def _scan(volume: Volume, voxel_mm: float) -> _Scan:
    """Return a CT on voxels of the given size."""
    low, high = WINDOW_HU
    image = Volume(np.clip(volume.array, low, high).astype(np.float32, copy=False), volume.grid).to_image()
    steps = [min(max(1, round(voxel_mm / s)), n) for s, n in zip(image.GetSpacing(), image.GetSize(), strict=True)]
    image = sitk.BinShrink(image, steps)

    ends = np.array([[-0.5] * 3, np.array(volume.grid.size_xyz) - 0.5])
    corners = volume.grid.to_physical(np.stack(np.meshgrid(*ends.T), axis=-1).reshape(-1, 3))
    origin, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    size = np.maximum(1, np.round(extent / voxel_mm)).astype(int)
    origin += (extent - (size - 1) * voxel_mm) / 2
    grid = Grid(tuple(size.tolist()), (voxel_mm,) * 3, tuple(origin.tolist()))
    target = Volume(np.empty(grid.shape_zyx, np.float32), grid).to_image()
    scanned = sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), sitk.sitkLinear, _NO_DATA)) >= low
    # beyond the field of view the border goes on, so that interpolation next to it sees no air
    array = sitk.GetArrayFromImage(
        sitk.Resample(image, target, sitk.Transform(), sitk.sitkLinear, useNearestNeighborExtrapolator=True)
    )
    body = _body(np.where(scanned, array, low))
    if not body.any():
        return _Scan(array, scanned, body, grid)
    box = tuple(slice(max(0, int(w.min()) - _RIM_VOXELS), int(w.max()) + 1 + _RIM_VOXELS) for w in np.nonzero(body))
    first_mm = grid.to_physical([part.start for part in box[::-1]])[0]
    grid = replace(grid, size_xyz=body[box].shape[::-1], origin_xyz=tuple(first_mm.tolist()))
    return _Scan(array[box], scanned[box], body[box], grid)


def _body(array: NDArray[np.float32]) -> NDArray[np.bool_]:
    """Return the voxels of the body, with what it encloses in each axial slice, such as lungs."""
    parts, count = ndimage.label(array > BODY_HU)
    if not count:
        return np.zeros(array.shape, dtype=np.bool_)
    sizes = np.bincount(parts.ravel())[1:]
    body = np.isin(parts, 1 + np.flatnonzero(sizes >= MIN_PART * sizes.max()))
    return np.stack([ndimage.binary_fill_holes(plane) for plane in body])


def _best_shift(fixed: _Scan, moving: _Scan) -> Array:
    """Return the shift (x, y, z) in mm from the baseline to the follow-up at which the images correlate best.

    All shifts by whole voxels are looked at, and only what both fields of view hold counts: masked normalised
    correlation by Fourier transforms (Padfield, IEEE Trans Image Process 21 (2012) 2706). Among shifts that explain the
    images equally well, those win at which more of the smaller one is explained.
    """
    shape = [a + b - 1 for a, b in zip(fixed.array.shape, moving.array.shape, strict=True)]
    padded = [fft.next_fast_len(n, real=True) for n in shape]

    def spectra(scan: _Scan) -> list[NDArray[np.complex128]]:
        mask = scan.near_body.astype(np.float64)
        values = (scan.array - WINDOW_HU[0]) / (WINDOW_HU[1] - WINDOW_HU[0]) * mask
        return [fft.rfftn(a, padded) for a in (mask, values, values**2)]

    mask_f, values_f, squares_f = (a.conj() for a in spectra(fixed))
    mask_m, values_m, squares_m = spectra(moving)

    def correlate(a: NDArray[np.complex128], b: NDArray[np.complex128]) -> Array:
        result: Array = fft.irfftn(a * b, padded)
        return result

    count = np.maximum(correlate(mask_f, mask_m), 1)
    mean_f, mean_m = correlate(values_f, mask_m) / count, correlate(mask_f, values_m) / count
    covariance = correlate(values_f, values_m) / count - mean_f * mean_m
    variance_f = correlate(squares_f, mask_m) / count - mean_f**2
    variance_m = correlate(mask_f, squares_m) / count - mean_m**2
    correlation = covariance / np.sqrt(np.maximum(variance_f, 1e-6) * np.maximum(variance_m, 1e-6))
    share = np.minimum(1, count / min(fixed.near_body.sum(), moving.near_body.sum()))
    score = np.where(share >= MIN_COMMON, correlation * np.sqrt(share), -1)
    best = np.array(np.unravel_index(score.argmax(), score.shape))
    voxels_zyx = np.where(best < moving.array.shape, best, best - padded)
    shift: Array = np.array(moving.grid.origin_xyz) - fixed.grid.origin_xyz + voxels_zyx[::-1] * COARSE_MM
    return shift


def _affine(fixed: _Scan, moving: _Scan, start: Alignment) -> Alignment:
    """Refine an alignment by the rigid and then the affine transform with the highest correlation near the body."""
    centre = fixed.grid.to_physical(np.argwhere(fixed.body).mean(axis=0)[::-1])[0].tolist()
    rigid = sitk.Euler3DTransform(centre, 0.0, 0.0, 0.0, start.offset_mm.tolist())
    with _stage("affine"):
        _optimise(fixed, moving, rigid)
        transform = sitk.AffineTransform(rigid.GetMatrix(), rigid.GetTranslation(), centre)
        _optimise(fixed, moving, transform)
    matrix = np.array(transform.GetMatrix()).reshape(3, 3)
    scales, volume = np.linalg.svd(matrix, compute_uv=False), np.linalg.det(matrix)
    if not (SCALES[0] <= scales.min() and scales.max() <= SCALES[1] and volume > 0):
        raise _DivergedError(
            f"the affine stage diverged (scales {np.round(scales, 2).tolist()}, expected {SCALES[0]} to {SCALES[1]}; "
            f"determinant {volume:.2f}, expected > 0)"
        )
    return Alignment("affine", 0.0, matrix, np.array(transform.TransformPoint((0.0, 0.0, 0.0))))


def _optimise(fixed: _Scan, moving: _Scan, transform: sitk.Transform) -> None:
    """Move the parameters of a transform to where the images correlate best near the body of the baseline."""
    method = sitk.ImageRegistrationMethod()
    method.SetNumberOfThreads(1)  # so that sums do not depend on the number of cores
    method.SetMetricAsCorrelation()
    method.SetMetricFixedMask(fixed.image(fixed.near_body.astype(np.uint8)))
    method.SetMetricMovingMask(moving.image(moving.scanned.astype(np.uint8)))
    method.SetMetricSamplingStrategy(method.REGULAR)
    # samples lie off the voxels' centres by chance; a seed of 0 would be the clock
    method.SetMetricSamplingPercentage(min(1.0, AFFINE_SAMPLES / fixed.array.size), seed=1)
    method.SetInterpolator(sitk.sitkLinear)
    method.SetOptimizerAsGradientDescentLineSearch(
        learningRate=1.0, numberOfIterations=AFFINE_ITERATIONS, convergenceMinimumValue=1e-5, convergenceWindowSize=5
    )
    method.SetOptimizerScalesFromPhysicalShift()
    method.SetInitialTransform(transform, inPlace=True)
    # ITK writes to stderr when a step of the line search leaves the image, which is no fault
    shown = sitk.ProcessObject.GetGlobalWarningDisplay()
    sitk.ProcessObject.SetGlobalWarningDisplay(False)
    try:
        method.Execute(fixed.image(fixed.array), moving.image(moving.array))
    finally:
        sitk.ProcessObject.SetGlobalWarningDisplay(shown)


def _deformable(fixed: tuple[_Scan, _Scan], moving: tuple[_Scan, _Scan], start: Alignment) -> Alignment:
    """Refine an affine alignment by diffeomorphic demons, on coarse voxels and then on finer ones."""
    affine = sitk.AffineTransform(start.matrix.ravel().tolist(), start.offset_mm.tolist())
    displacement = sitk.Image(fixed[0].grid.size_xyz, sitk.sitkVectorFloat64)
    displacement.CopyInformation(fixed[0].image(fixed[0].array))
    for a, b, iterations in zip(fixed, moving, DEMONS_ITERATIONS, strict=True):
        target = a.image(a.array)
        scanned = sitk.Resample(b.image(b.scanned.astype(np.uint8)), target, affine, sitk.sitkNearestNeighbor, 0)
        warped = sitk.GetArrayFromImage(sitk.Resample(b.image(b.array), target, affine, sitk.sitkLinear))
        # where either shows nothing, nothing pulls
        known = (sitk.GetArrayViewFromImage(scanned) > 0) & a.scanned
        warped[~known] = a.array[~known]
        displacement = sitk.Resample(
            displacement, target, sitk.Transform(), sitk.sitkLinear, 0.0, useNearestNeighborExtrapolator=True
        )
        with _stage("deformable"):
            displacement = _demons(target, a.image(warped), displacement, iterations)
    jacobian = sitk.GetArrayFromImage(sitk.DisplacementFieldJacobianDeterminant(displacement))[a.body]
    if not jacobian.min() > 0:
        raise _DivergedError(f"the deformable stage folds the body (Jacobian determinant {jacobian.min():.2f})")
    return replace(start, kind="deformable", displacement_mm=sitk.GetArrayFromImage(displacement), grid=a.grid)


def _demons(fixed: sitk.Image, moving: sitk.Image, start: sitk.Image, iterations: int) -> sitk.Image:
    """Return the displacement that takes places of one image to the other, from a first guess."""
    demons = sitk.DiffeomorphicDemonsRegistrationFilter()
    demons.SetSmoothDisplacementField(True)
    demons.SetStandardDeviations(DEMONS_SMOOTHING_VOXELS)
    demons.SetNumberOfIterations(iterations)
    return demons.Execute(fixed, moving, start)


@contextmanager
def _stage(name: str) -> Iterator[None]:
    """Turn SimpleITK's errors into those of a diverged stage."""
    try:
        yield
    except RuntimeError as error:
        raise _DivergedError(f"the {name} stage failed ({itk_reason(error)})") from error


def _checked(fixed: _Scan, moving: _Scan, alignment: Alignment, before: _Fit) -> tuple[Alignment, _Fit]:
    """Return an alignment and its fit, unless the fit is worse than that of the stage before."""
    after = _fit(fixed, moving, alignment)
    for name, loss in LOSSES.items():
        values = getattr(before, name), getattr(after, name)
        if not values[1] >= values[0] - loss:
            raise _DivergedError(
                f"the {alignment.kind} stage diverged ({name} {values[0]:.2f} before, {values[1]:.2f} after)"
            )
    return alignment, after


def _fit(fixed: _Scan, moving: _Scan, alignment: Alignment) -> _Fit:
    """Return how well an alignment brings the bodies and their tissue together."""
    near = np.nonzero(fixed.near_body)
    places = alignment.to_followup(fixed.grid.to_physical(np.stack(near[::-1], axis=-1)))
    indices_zyx = moving.grid.to_index_zyx(places).T
    body = fixed.body[near]
    scanned, moved_body = (
        ndimage.map_coordinates(a.astype(np.uint8), indices_zyx, order=0, mode="constant") > 0
        for a in (moving.scanned, moving.body)
    )
    either = scanned & (body | moved_body)
    covered = int(np.count_nonzero(body & moved_body))
    size, size_moved = float(fixed.body.sum()), float(moving.body.sum() / np.linalg.det(alignment.matrix))
    moved = ndimage.map_coordinates(moving.array, indices_zyx[:, either], order=1, mode="nearest")
    values = np.stack([fixed.array[near][either], moved])
    varied = covered > 1 and values.std(axis=1).min() > 0
    return _Fit(
        overlap=min(1.0, covered / min(size, size_moved)),
        agreement=covered / max(1, int(either.sum())),
        similarity=float(np.corrcoef(values)[0, 1]) if varied else 0.0,
    )
