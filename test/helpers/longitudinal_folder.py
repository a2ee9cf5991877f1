"""Write small Task 2 cases in the platform's layout, for tests that need a case but no realistic one."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.grand_challenge.interfaces import PRIMARY, Region, Socket
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.prompts.points import Point, Prompts

BASELINE_XYZ = (20, 18, 16)
FOLLOWUP_XYZ = (18, 20, 14)
POINTS = {1: (5.0, 6.0, 7.0), 2: (14.5, 11.5, 8.5)}
"""Centres of gravity of the two lesions of `baseline_mask`."""
FOLLOWUP_POINTS = {1: (4.0, 7.0, 6.0), 2: (12.5, 12.0, 7.25)}


def baseline_ct() -> sitk.Image:
    """An int16 CT of 3 x 3 x 4 mm, flipped in x and y."""
    return _ct(BASELINE_XYZ, (3.0, 3.0, 4.0), (30.0, 40.0, -700.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1))


def followup_ct() -> sitk.Image:
    """An int16 CT of 3.5 x 3.5 x 4 mm, on another grid than the baseline's and not flipped."""
    return _ct(FOLLOWUP_XYZ, (3.5, 3.5, 4.0), (-28.0, -12.0, 350.0), (1, 0, 0, 0, 1, 0, 0, 0, 1))


def baseline_mask() -> sitk.Image:
    """A uint8 mask on the baseline's grid: lesion 1 of 27 voxels and lesion 2 of 8."""
    labels = np.zeros(BASELINE_XYZ[::-1], dtype=np.uint8)
    labels[6:9, 5:8, 4:7] = 1
    labels[8:10, 11:13, 14:16] = 2
    return on_grid_of(baseline_ct(), labels)


def on_grid_of(image: sitk.Image, array: np.ndarray) -> sitk.Image:
    """An image of the array (z, y, x) with the geometry of another."""
    result = sitk.GetImageFromArray(array)
    result.CopyInformation(image)
    return result


def write_longitudinal_case(
    folder: Path,
    baselines: Sequence[Region] = (PRIMARY,),
    followups: Sequence[Region] = (PRIMARY,),
    *,
    followup_points: LesionPoints = FOLLOWUP_POINTS,
) -> Path:
    """Write a case without inputs.json, in which all regions look the same, to `folder`."""
    for region in baselines:
        write_baseline(folder, region)
    for region in followups:
        write_followup(folder, region, points=followup_points)
    return folder


def write_baseline(
    folder: Path,
    region: Region = PRIMARY,
    *,
    ct: sitk.Image | None = None,
    mask: sitk.Image | None = None,
    points: LesionPoints = POINTS,
) -> None:
    """Write, or write over, what comes with a baseline; what is not given is that of this module."""
    _write_image(folder, region.baseline_ct, ct or baseline_ct())
    _write_image(folder, region.baseline_mask, mask or baseline_mask())
    write_points(folder, region.baseline_clicks, points)


def write_followup(
    folder: Path, region: Region = PRIMARY, *, ct: sitk.Image | None = None, points: LesionPoints = FOLLOWUP_POINTS
) -> None:
    """Write, or write over, what comes with a follow-up; what is not given is that of this module."""
    _write_image(folder, region.followup_ct, ct or followup_ct())
    write_points(folder, region.followup_clicks, points)


def write_points(folder: Path, socket: Socket, points: LesionPoints) -> None:
    prompts = Prompts(tuple(Point(f"Lesion {number}", point) for number, point in points.items()))
    write_clicks(folder / socket.relative_path, prompts)


def image_path(folder: Path, socket: Socket) -> Path:
    return folder / socket.relative_path / f"5d1e-{socket.slug}.mha"


def _write_image(folder: Path, socket: Socket, image: sitk.Image) -> None:
    path = image_path(folder, socket)
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path), useCompression=True)


def _ct(
    size_xyz: tuple[int, ...], spacing: tuple[float, ...], origin: tuple[float, ...], direction: tuple[int, ...]
) -> sitk.Image:
    ct = sitk.GetImageFromArray(np.random.default_rng(0).integers(-100, 100, size_xyz[::-1]).astype(np.int16))
    ct.SetSpacing(spacing)
    ct.SetOrigin(origin)
    ct.SetDirection(direction)
    return ct
