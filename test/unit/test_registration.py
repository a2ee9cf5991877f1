import itertools
import logging
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.budget import Budget
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal import registration
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.registration import MIN_OVERLAP, register

GRID = Grid((56, 44, 44), (5.0, 5.0, 5.0), (-140.0, -110.0, -30.0))
ORGANS = (
    # centre and radii in mm, HU
    ((45.0, -10.0, 60.0), (35.0, 40.0, 50.0), -850.0),
    ((-45.0, -5.0, 70.0), (35.0, 45.0, 45.0), -850.0),
    ((-35.0, 0.0, 150.0), (55.0, 45.0, 35.0), 60.0),
    ((40.0, 20.0, 140.0), (20.0, 25.0, 25.0), 130.0),
    ((0.0, 55.0, 90.0), (18.0, 18.0, 400.0), 300.0),
    ((0.0, -20.0, 20.0), (30.0, 25.0, 25.0), 40.0),
)


def body(grid: Grid = GRID, organs: tuple[tuple[tuple[float, ...], tuple[float, ...], float], ...] = ORGANS) -> Volume:
    """A trunk of fat that tapers upwards, with lungs, liver, a kidney, a spine and a thyroid, sampled at its voxels."""
    indices = np.indices(grid.shape_zyx)[::-1].reshape(3, -1).T
    x, y, z = places = grid.to_physical(indices).T
    array = np.full(len(indices), -1000.0)
    array[(x / (110 - z / 8)) ** 2 + (y / (80 - z / 10)) ** 2 < 1] = -100
    for centre, radii, hu in organs:
        distance = np.sum(((places.T - centre) / radii) ** 2, axis=1)
        array[distance < 1] = hu
    array = array.reshape(grid.shape_zyx) + np.random.default_rng(0).normal(0, 10, grid.shape_zyx)
    return Volume(array.astype(np.float32), grid)


def points_inside() -> NDArray[np.float64]:
    """80 places well inside the body of `body()`."""
    rng = np.random.default_rng(1)
    return rng.uniform((-60, -45, 20), (60, 45, 150), (80, 3))


def moved(volume: Volume, transform: sitk.Transform, grid: Grid = GRID) -> Volume:
    """Resample a volume so that what shows at q comes from transform(q)."""
    reference = Volume(np.zeros(grid.shape_zyx, np.float32), grid).to_image()
    image = sitk.Resample(volume.to_image(), reference, transform, sitk.sitkLinear, -1000.0)
    return Volume(sitk.GetArrayFromImage(image), grid)


def rigid(degrees: float, shift_mm: tuple[float, float, float]) -> sitk.Transform:
    transform = sitk.VersorRigid3DTransform((0.3, 0.2, 1.0), float(np.deg2rad(degrees)), shift_mm)
    transform.SetCenter((0.0, 0.0, 80.0))
    return transform


def warp() -> sitk.Transform:
    """A smooth displacement with a peak of 12 mm."""
    field = ndimage.gaussian_filter(
        np.random.default_rng(3).normal(size=(*GRID.shape_zyx, 3)), 9, axes=(0, 1, 2), mode="reflect"
    )
    image = sitk.GetImageFromArray(field * 12 / np.linalg.norm(field, axis=-1).max(), isVector=True)
    image.SetSpacing(GRID.spacing_xyz)
    image.SetOrigin(GRID.origin_xyz)
    return sitk.DisplacementFieldTransform(image)


def apply(transform: sitk.Transform, points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array([transform.TransformPoint(p) for p in points_mm.tolist()])


def distances(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    result: NDArray[np.float64] = np.linalg.norm(a - b, axis=1)
    return result


@pytest.fixture(scope="module")
def deformed() -> tuple[Volume, Alignment]:
    """A deformed follow-up, and the alignment of `body()` with it."""
    followup = moved(body(), sitk.CompositeTransform([rigid(3, (10, -8, 6)), warp()]))
    return followup, register(body(), followup)


def test_identity() -> None:
    alignment = register(body(), body())
    assert alignment.kind == "deformable"
    assert alignment.overlap == pytest.approx(1, abs=0.01)
    assert distances(alignment.to_followup(points_inside()), points_inside()).max() < 0.5


def test_rotation_and_shift_are_recovered() -> None:
    transform = rigid(5, (15, -10, 12))
    alignment = register(body(), moved(body(), transform))
    error = distances(alignment.to_followup(apply(transform, points_inside())), points_inside())
    assert distances(apply(transform, points_inside()), points_inside()).min() > 15
    assert np.median(error) < 1.5
    assert error.max() < 4


def test_deformation_reduces_the_error_that_the_affine_stage_leaves(deformed: tuple[Volume, Alignment]) -> None:
    _, alignment = deformed
    assert alignment.kind == "deformable"
    transform = sitk.CompositeTransform([rigid(3, (10, -8, 6)), warp()])
    baseline_mm = apply(transform, points_inside())
    affine = replace(alignment, displacement_mm=None)
    after_affine, after = (
        np.median(distances(a.to_followup(baseline_mm), points_inside())) for a in (affine, alignment)
    )
    assert after < 2.5
    assert after < 0.8 * after_affine


def test_way_back_is_the_inverse(deformed: tuple[Volume, Alignment]) -> None:
    _, alignment = deformed
    # also beyond the image, where a lesion's point may fall
    points = np.concatenate([points_inside(), [[300.0, -200.0, 500.0]]])
    assert distances(alignment.to_followup(points), points).min() > 5
    assert distances(alignment.to_baseline(alignment.to_followup(points)), points).max() < 0.5
    assert distances(alignment.to_followup(alignment.to_baseline(points)), points).max() < 0.5


def test_way_back_through_tissue_stretched_to_three_times_its_length() -> None:
    ramp = np.zeros((1, 1, 11, 3))
    ramp[..., 0] = 2 * np.arange(11)  # x goes to 3 x
    grid = Grid((11, 1, 1), (1.0, 1.0, 1.0))
    alignment = Alignment("deformable", 1.0, np.eye(3), np.zeros(3), ramp, grid)
    assert alignment.to_followup([[4.0, 0.0, 0.0]]) == pytest.approx(np.array([[12.0, 0.0, 0.0]]))
    assert alignment.to_baseline([[12.0, 0.0, 0.0]]) == pytest.approx(np.array([[4.0, 0.0, 0.0]]), abs=0.02)


def test_no_points_give_none(deformed: tuple[Volume, Alignment]) -> None:
    assert deformed[1].to_followup(np.zeros((0, 3))).shape == (0, 3)
    assert deformed[1].to_baseline(np.zeros((0, 3))).shape == (0, 3)


def test_same_images_give_the_same_alignment(deformed: tuple[Volume, Alignment]) -> None:
    followup, alignment = deformed
    again = register(body(), followup)
    assert np.array_equal(again.to_followup(points_inside()), alignment.to_followup(points_inside()))


def test_flipped_storage_makes_no_difference(deformed: tuple[Volume, Alignment]) -> None:
    """The same voxels, stored from the other end of x and z, stay where they are in the patient."""
    followup, alignment = deformed
    first = followup.grid.to_physical([(followup.grid.size_xyz[0] - 1, 0, followup.grid.size_xyz[2] - 1)])[0]
    direction = (-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
    grid = replace(followup.grid, origin_xyz=tuple(first.tolist()), direction=direction)
    flipped = register(body(), Volume(np.ascontiguousarray(followup.array[::-1, :, ::-1]), grid))
    assert distances(flipped.to_followup(points_inside()), alignment.to_followup(points_inside())).max() < 0.5


def test_mirrored_patient_maps_points_onto_their_twins() -> None:
    """Mirrored voxels and organs with a mirrored direction: the two patients' places differ by the sign of x."""
    transform = rigid(3, (8, 6, -5))
    followup = moved(body(), transform)
    mirror = np.array([-1.0, 1.0, 1.0])
    twins = []
    for volume in (body(), followup):
        origin = (-volume.grid.origin_xyz[0], *volume.grid.origin_xyz[1:])
        grid = replace(volume.grid, origin_xyz=origin, direction=(-1.0, 0, 0, 0, 1.0, 0, 0, 0, 1.0))
        twins.append(Volume(volume.array, grid))
    alignment = register(twins[0], twins[1])
    error = distances(alignment.to_followup(apply(transform, points_inside()) * mirror), points_inside() * mirror)
    assert np.median(error) < 1.5


def test_oblique_direction_and_other_voxels() -> None:
    cos, sin = np.cos(0.3), np.sin(0.3)
    grid = Grid((60, 50, 60), (4.5, 4.5, 4.0), (-100.0, -140.0, -40.0), (cos, -sin, 0.0, sin, cos, 0.0, 0.0, 0.0, 1.0))
    alignment = register(body(), body(grid))
    error = distances(alignment.to_followup(points_inside()), points_inside())
    assert np.median(error) < 1.5


def test_fields_of_view_that_share_less_than_half_of_each() -> None:
    """The first shows z from -30 to 120, the second what was at 60 to 190, 400 mm higher."""
    first = Volume(body().array[:31], replace(GRID, size_xyz=(56, 44, 31)))
    grid = replace(GRID, size_xyz=(56, 44, 26), origin_xyz=(-140.0, -110.0, 460.0))
    second = Volume(body().array[18:], grid)
    alignment = register(first, second)
    common = points_inside()[(points_inside()[:, 2] > 65) & (points_inside()[:, 2] < 115)]
    error = distances(alignment.to_followup(common), common + np.array([0, 0, 400]))
    assert len(common) > 10
    assert np.median(error) < 2
    assert MIN_OVERLAP < alignment.overlap < 0.7


def other_part() -> Volume:
    """As large a body, with two hip bones and a bladder where the other has lungs and a liver."""
    organs = (
        ((60.0, 10.0, 100.0), (20.0, 45.0, 60.0), 300.0),
        ((-60.0, 10.0, 100.0), (20.0, 45.0, 60.0), 300.0),
        ((0.0, -20.0, 60.0), (40.0, 35.0, 40.0), 10.0),
        ((0.0, 30.0, 150.0), (60.0, 25.0, 30.0), 50.0),
    )
    return body(organs=organs)


def test_other_part_of_the_body_does_not_overlap(caplog: pytest.LogCaptureFixture) -> None:
    alignment = register(body(), other_part())
    assert alignment.overlap < MIN_OVERLAP
    assert alignment.kind != "deformable"
    assert len(caplog.records) == 1


@pytest.mark.parametrize("empty", ["baseline", "follow-up"])
def test_image_without_a_body_aligns_the_centres_of_the_images(empty: str, caplog: pytest.LogCaptureFixture) -> None:
    air = Volume(np.full((10, 10, 10), -1000.0, np.float32), Grid((10, 10, 10), (4.0, 4.0, 4.0), (100.0, 0.0, 0.0)))
    images = (air, body()) if empty == "baseline" else (body(), air)
    alignment = register(*images)
    assert (alignment.kind, alignment.overlap) == ("centre", 0.0)
    centres = [v.grid.to_physical((np.array(v.grid.size_xyz) - 1) / 2) for v in images]
    assert alignment.to_followup(centres[0]) == pytest.approx(centres[1])
    assert [r.getMessage() for r in caplog.records] == [
        f"registration: no body in the {empty}; the centres of the images are aligned"
    ]


def followup_of_a_shift() -> Volume:
    return moved(body(), rigid(0, (12, 0, -8)))


@pytest.mark.parametrize(
    ("scale", "reason"),
    [(1.5, "scales"), (-1.0, "scales"), (0.71, "diverged"), (None, "the affine stage failed")],
)
def test_diverged_affine_falls_back_to_the_centre(
    scale: float | None, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def optimise(_fixed: object, _moving: object, transform: sitk.Transform) -> None:
        if scale is None:
            raise RuntimeError("sitkERROR: itk::ERROR: Metric(0x561c42035fe0): no valid points")
        if isinstance(transform, sitk.AffineTransform):
            transform.SetMatrix((np.diag([scale, 1.0, 1.0]) @ np.array(transform.GetMatrix()).reshape(3, 3)).ravel())

    monkeypatch.setattr(registration, "_optimise", optimise)
    alignment = register(body(), followup_of_a_shift())
    assert alignment.kind == "centre"
    assert alignment.overlap > 0.9
    error = distances(alignment.to_followup(points_inside()), points_inside() - (12, 0, -8))
    assert error.max() < 8  # a voxel of the coarse level
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()
    assert "0x" not in record.getMessage()  # an address of ITK's, another one in each run
    assert "the centre alignment counts" in record.getMessage()


@pytest.mark.parametrize(("fault", "reason"), [("fold", "Jacobian"), ("tear", "diverged"), ("error", "failed")])
def test_diverged_deformation_falls_back_to_the_affine(
    fault: str, reason: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def demons(fixed: sitk.Image, _moving: sitk.Image, start: sitk.Image, _iterations: int) -> sitk.Image:
        if fault == "error":
            raise RuntimeError("ITK ERROR: out of memory")
        array = sitk.GetArrayFromImage(start)
        x = np.arange(array.shape[2]) * fixed.GetSpacing()[0]
        # x turned round, or pushed smoothly to and fro by up to 40 mm
        array[..., 0] = -2 * x if fault == "fold" else 40 * np.sin(x / 60)
        image = sitk.GetImageFromArray(array, isVector=True)
        image.CopyInformation(fixed)
        return image

    monkeypatch.setattr(registration, "_demons", demons)
    alignment = register(body(), followup_of_a_shift())
    assert alignment.kind == "affine"
    error = distances(alignment.to_followup(points_inside()), points_inside() - (12, 0, -8))
    assert np.median(error) < 2.5
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert reason in record.getMessage()
    assert "the affine alignment counts" in record.getMessage()


@pytest.mark.parametrize(("left_s", "kind"), [(0.01, "centre"), (3.5, "affine"), (1000.0, "deformable")])
def test_a_stage_that_there_is_no_time_for_is_left_out(
    left_s: float, kind: str, deformed: tuple[Volume, Alignment], caplog: pytest.LogCaptureFixture
) -> None:
    """Seconds pass by steps of 0.2 whenever the clock is read, so that the affine stage may take 0.6 to 3 s."""
    clock = itertools.count(0.0, 0.2)
    found = register(body(), deformed[0], Budget(left_s, lambda: next(clock)))
    assert found.kind == kind
    assert ("no time for the" in caplog.text) == (kind != "deformable")


def test_body_holds_its_lungs_and_both_legs_but_not_the_table() -> None:
    array = np.full((4, 12, 40), -1000.0, np.float32)
    array[:, 2:9, 2:12] = 0
    array[:, 4:7, 5:9] = -900
    array[:, 2:8, 20:30] = 0
    array[:2, 11, 5:15] = 0
    expected = np.zeros(array.shape, dtype=bool)
    expected[:, 2:9, 2:12] = True
    expected[:, 2:8, 20:30] = True
    assert np.array_equal(registration._body(array), expected)


def test_a_displacement_comes_before_the_affine_part_and_goes_on_beyond_its_grid_as_at_its_border() -> None:
    displacement = np.zeros((1, 1, 3, 3))
    displacement[..., 0] = [1, 2, 3]  # along x
    grid, offset = Grid((3, 1, 1), (1.0, 1.0, 1.0)), np.array([10.0, 0.0, 0.0])
    alignment = Alignment("deformable", 1.0, np.diag([2.0, 1.0, 1.0]), offset, displacement, grid)
    there = np.array([[-5.0, 0.0, 0.0], [0.5, 7.0, 0.0], [90.0, 0.0, -4.0]])
    after = np.array([[2.0, 0.0, 0.0], [14.0, 7.0, 0.0], [196.0, 0.0, -4.0]])
    assert alignment.to_followup(there) == pytest.approx(after)
    assert alignment.to_baseline(after) == pytest.approx(there, abs=0.02)


def test_a_scan_on_coarse_voxels_has_the_middle_of_the_image() -> None:
    """21, 24 and 30 mm are three, three and four voxels of 8 mm."""
    image = Volume(np.zeros((10, 8, 7), np.float32), Grid((7, 8, 10), (3.0, 3.0, 3.0), (5.0, -4.0, 30.0)))
    grid = registration._scan(image, 8.0).grid
    middles = [one.to_physical((np.array(one.size_xyz) - 1) / 2)[0] for one in (image.grid, grid)]
    assert grid.size_xyz == (3, 3, 4)
    assert middles[1] == pytest.approx(middles[0])


def test_a_scan_is_the_body_and_two_voxels_of_air_around_it() -> None:
    array = np.full((20, 20, 20), -1000.0, np.float32)
    array[6:12, 7:11, 8:15] = 0
    scan = registration._scan(Volume(array, Grid((20, 20, 20), (8.0, 8.0, 8.0), (-80.0, 0.0, 40.0))), 8.0)
    assert scan.body.shape == (6 + 4, 4 + 4, 7 + 4)
    assert scan.body[2:-2, 2:-2, 2:-2].all()
    assert scan.body.sum() == 6 * 4 * 7
    assert scan.grid.origin_xyz == (-80.0 + 6 * 8, 5 * 8.0, 40.0 + 4 * 8)


def test_the_overlap_is_a_share_of_the_smaller_body_as_large_as_in_the_baseline() -> None:
    """A cube at half of its size, of which the other half lies beside it."""

    def scan(low: int, high: int) -> registration._Scan:
        body = np.zeros((20, 20, 20), dtype=bool)
        body[low:high, low:high, low:high] = True
        grid = Grid((20, 20, 20), (8.0, 8.0, 8.0))
        return registration._Scan(np.where(body, 0, -1000).astype(np.float32), np.ones_like(body), body, grid)

    alignment = Alignment("affine", 0.0, np.eye(3) / 2, np.array([14.0, -2.0, -2.0]))
    # voxels 4 to 11 come to lie at 1.75 to 5.25, along x at 3.75 to 7.25
    assert registration._fit(scan(4, 12), scan(2, 6), alignment).overlap == pytest.approx(0.5)
