"""Error of the registration on known deformations of real CTs, and seconds per pair, as a markdown table.

    python benchmarks/registration.py --sts ../shared/data/sts --patients 6 --phantoms 2

The follow-up is the baseline after a rotation of up to 5 degrees about a random axis, a shift of up to 20 mm, a random
smooth displacement with a peak of 8 mm, and noise of its own. What leaves the field of view is gone; what enters it
repeats the border, as nobody knows what was there. The error is that of points in the body that both show, carried to
the follow-up. ``before`` is their distance when nothing is registered.
"""

import argparse
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.registration import register
from lesionclick.simulation.phantoms import make_phantom

ROTATION_DEGREES = 5.0
SHIFT_MM = 20.0
PEAK_MM = 8.0
NOISE_HU = 20.0
SMOOTH_MM = 35.0
KNOT_MM = 10.0
POINTS = 200


@dataclass(frozen=True)
class Pair:
    """Two CTs, and places in mm, shape (n, 3), that show the same tissue in both."""

    name: str
    baseline: Volume
    followup: Volume
    baseline_mm: NDArray[np.float64]
    followup_mm: NDArray[np.float64]


def random_transform(grid: Grid, rng: np.random.Generator) -> sitk.Transform:
    """Return a rotation, a shift and a smooth displacement, which map places of the follow-up to the baseline."""
    axis, shift = (v / np.linalg.norm(v) for v in rng.normal(size=(2, 3)))
    angle = np.deg2rad(rng.uniform(-ROTATION_DEGREES, ROTATION_DEGREES))
    rigid = sitk.VersorRigid3DTransform(axis.tolist(), float(angle))
    rigid.SetCenter(grid.to_physical((np.array(grid.size_xyz) - 1) / 2)[0].tolist())
    rigid.SetTranslation((shift * rng.uniform(SHIFT_MM / 2, SHIFT_MM)).tolist())

    knots_xyz = np.ceil(np.array(grid.size_xyz) * grid.spacing_xyz / KNOT_MM).astype(int) + 1
    field = rng.normal(size=(*knots_xyz[::-1], 3))
    field = ndimage.gaussian_filter(field, SMOOTH_MM / KNOT_MM, axes=(0, 1, 2), mode="reflect")
    field *= PEAK_MM / np.linalg.norm(field, axis=-1).max()
    image = sitk.GetImageFromArray(field, isVector=True)
    image.SetSpacing([KNOT_MM] * 3)
    image.SetOrigin(grid.origin_xyz)
    image.SetDirection(grid.direction)
    return sitk.CompositeTransform([rigid, sitk.DisplacementFieldTransform(image)])


def deformed_pair(name: str, baseline: Volume, seed: int) -> Pair:
    """Return a CT and its deformed copy, on the same grid, with `POINTS` points in the body."""
    rng = np.random.default_rng(seed)
    transform = random_transform(baseline.grid, rng)
    image = baseline.to_image()
    array = sitk.GetArrayFromImage(
        sitk.Resample(image, transform, sitk.sitkLinear, 0.0, sitk.sitkFloat32, useNearestNeighborExtrapolator=True)
    )
    followup = Volume((array + rng.normal(0, NOISE_HU, array.shape)).astype(np.float32), baseline.grid)
    tissue = np.argwhere(ndimage.binary_opening(array > -300, iterations=2))
    followup_mm = baseline.grid.to_physical(rng.choice(tissue, 3 * POINTS, replace=False)[:, ::-1])
    baseline_mm = np.array([transform.TransformPoint(point) for point in followup_mm.tolist()])
    indices = baseline.grid.to_index(baseline_mm)
    shown = np.all((indices >= 0) & (indices <= np.array(baseline.grid.size_xyz) - 1), axis=1)
    baseline_mm, followup_mm = baseline_mm[shown][:POINTS], followup_mm[shown][:POINTS]
    return Pair(name, baseline, followup, baseline_mm, followup_mm)


def pairs(sts: Path, patients: int, phantoms: int) -> Iterator[Pair]:
    """Yield deformed copies of the first patients' CTs, then those of phantoms with 256 x 256 x 150 voxels or so."""
    for seed, path in enumerate(sorted(sts.glob("*/ct_fullres.mha"))[:patients]):
        image = sitk.ReadImage(str(path), sitk.sitkFloat32)
        yield deformed_pair(path.parent.name, Volume(sitk.GetArrayFromImage(image), Grid.from_image(image)), seed)
    for seed in range(phantoms):
        ct = make_phantom(seed, "fdg", spacing_xyz=(2.0, 2.0, 5.0)).ct
        yield deformed_pair(f"phantom {seed}", Volume(ct.array.astype(np.float32), ct.grid), seed)


def main() -> None:
    """Register the pairs and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    shared = Path(os.environ.get("LESIONCLICK_SHARED", "../shared"))
    parser.add_argument("--sts", type=Path, default=shared / "data" / "sts")
    parser.add_argument("--patients", type=int, default=6)
    parser.add_argument("--phantoms", type=int, default=2)
    args = parser.parse_args()
    print("| pair | voxels | before: median, 95 % (mm) | after: median, 95 % (mm) | kind | overlap | seconds |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    before, after = [], []
    for pair in pairs(args.sts, args.patients, args.phantoms):
        begin = perf_counter()
        alignment = register(pair.baseline, pair.followup)
        seconds = perf_counter() - begin
        before.append(np.linalg.norm(pair.baseline_mm - pair.followup_mm, axis=1))
        after.append(np.linalg.norm(alignment.to_followup(pair.baseline_mm) - pair.followup_mm, axis=1))
        size = " x ".join(map(str, pair.baseline.grid.size_xyz))
        cells = [f"{np.median(e):.1f}, {np.percentile(e, 95):.1f}" for e in (before[-1], after[-1])]
        rest = f"{alignment.kind} | {alignment.overlap:.2f} | {seconds:.1f}"
        print(f"| {pair.name} | {size} | {cells[0]} | {cells[1]} | {rest} |", flush=True)
    cells = [f"{np.median(e):.1f}, {np.percentile(e, 95):.1f}" for e in map(np.concatenate, (before, after))]
    print(f"| all | | {cells[0]} | {cells[1]} | | | |")


if __name__ == "__main__":
    main()
