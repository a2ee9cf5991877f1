"""How well a Task 2 model does, lesion by lesion, and what a large case costs.

python benchmarks/longitudinal.py phantoms --count 6     # digital patients never trained on
python benchmarks/longitudinal.py real                   # held-out patients of $LESIONCLICK_SHARED/data/sts
python benchmarks/longitudinal.py large                  # 10 clicked lesions, 512 x 512 x 200: seconds and memory

Rows: with the follow-up points; without them, the registration telling where to look; with the points but without the
baseline (no CT, no mask, no point). DSC, detection and errors are means over the lesions that the follow-up shows.
"""

import argparse
import os
import resource
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from time import perf_counter

import numpy as np
import SimpleITK as sitk

from lesionclick.evaluation.lesions import LesionScores, score_lesions
from lesionclick.evaluation.measures import LESIONS, score
from lesionclick.evaluation.samples import Visits, make_visits, phantom_visits, write_longitudinal_sample
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.lesions import find_lesions
from lesionclick.longitudinal.masks import segment_lesions
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.longitudinal.registration import register
from lesionclick.simulation.phantoms import make_phantom
from lesionclick.training.datasets import list_patients, split_patients

FIRST_SEED = 8_000_000
"""Seeds from here on are not among those of the training."""
ROWS = ("with points", "without points", "points, no baseline")


def phantoms(count: int) -> Iterator[tuple[str, Visits]]:
    """Yield fresh phantoms, each with a dozen lesions."""
    for seed in range(FIRST_SEED, FIRST_SEED + count):
        yield f"phantom {seed}", phantom_visits(seed)


def held_out(sts: Path) -> Iterator[tuple[str, Visits]]:
    """Yield the real patients that were never trained on, with simulated follow-ups."""
    for number, patient in enumerate(split_patients(list_patients(sts))[1]):
        suffix = "_fullres" if (sts / patient / "label_fullres.mha").is_file() else ""
        ct, label = (Volume.read(sts / patient / f"{kind}{suffix}.mha") for kind in ("ct", "label"))
        for seed in range(FIRST_SEED + 3 * number, FIRST_SEED + 3 * number + 3):
            yield f"{patient} {seed}", make_visits(ct, label, seed)


def compare(cases: Iterator[tuple[str, Visits]], model: LongitudinalModel) -> None:
    """Print a line per case, then the table."""
    lesions: dict[str, list[LesionScores]] = {row: [] for row in ROWS}
    for name, visits in cases:
        begin = perf_counter()
        alignment = register(visits.baseline.ct, visits.followup.ct)
        registered = perf_counter() - begin
        sources = [(visits.baseline, alignment)]
        clicked = find_lesions(visits.followup, sources)
        wanted = {
            "with points": clicked,
            "without points": find_lesions(visits.followup, sources, {}),
            "points, no baseline": [replace(one, baseline=None, baseline_mm=None, new=True) for one in clicked],
        }
        known = set(visits.baseline.points)
        line = []
        for row, listed in wanted.items():
            mask = segment_lesions(visits.followup, listed, model).mask.array
            scores = score_lesions(visits.label.array, mask, visits.label.grid.spacing_zyx, known)
            # without a point, nobody can know of a new lesion
            lesions[row] += [one for one in scores if row != "without points" or one.number in known]
            line.append(f"{score(LESIONS, scores)['lesion_dsc']:.3f}")
        print(f"{name}: {' '.join(line)}; registration {alignment.kind}, {registered:.1f} s", flush=True)
    head = " | ".join(measure.heading for measure in LESIONS)
    print(f"\n| | lesions | {head} |\n|{' --- |' * (2 + len(LESIONS))}")
    for row, found in lesions.items():
        means = score(LESIONS, found)
        cells = " | ".join(measure.text(means[measure.key]) for measure in LESIONS)
        print(f"| {row} | {len(found)} | {cells} |")


def time_large_case() -> None:
    """Run the entry point on a case of 512 x 512 x 200 voxels with 10 points, and print seconds and peak memory."""
    phantom = make_phantom(FIRST_SEED, "fdg", lesions=16, spacing_xyz=(2.0, 2.0, 3.0), contrast_agent=True)
    grid = Grid((512, 512, 200), (0.98, 0.98, 3.0))
    size = np.multiply(phantom.ct.grid.size_xyz, phantom.ct.grid.spacing_xyz)
    low = phantom.ct.grid.to_physical([[0, 0, 0]])[0]
    grid = replace(
        grid, origin_xyz=tuple(low + (size - np.multiply(grid.size_xyz, grid.spacing_xyz)) * (0.5, 0.5, 0.6))
    )

    def fill(volume: Volume, how: int, outside: float) -> Volume:
        image = volume.to_image()
        moved = sitk.Resample(
            image, grid.size_xyz, sitk.Transform(), how, grid.origin_xyz, grid.spacing_xyz, grid.direction, outside
        )
        return Volume(sitk.GetArrayFromImage(moved), grid)

    visits = make_visits(
        fill(phantom.ct, sitk.sitkLinear, -1000), fill(phantom.label, sitk.sitkNearestNeighbor, 0), FIRST_SEED
    )
    with tempfile.TemporaryDirectory() as folder:
        write_longitudinal_sample([visits], "large", Path(folder, "input"))
        script = Path(__file__).parents[1] / "inference.py"
        begin = perf_counter()
        status = os.spawnlp(
            os.P_WAIT, "python", "python", str(script), "--input", f"{folder}/input", "--output", f"{folder}/output"
        )
        seconds = perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"exit code {status}, {len(visits.followup.points)} points, {seconds:.0f} s, peak memory {peak:.1f} GiB")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("phantoms", "real", "large"))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--count", type=int, default=6, help="number of phantoms")
    args = parser.parse_args()
    if args.what == "large":
        time_large_case()
        return
    model = LongitudinalModel.load(args.model)
    shared = Path(os.environ.get("LESIONCLICK_SHARED", Path(__file__).parents[2] / "shared"))
    compare(phantoms(args.count) if args.what == "phantoms" else held_out(shared / "data" / "sts"), model)


if __name__ == "__main__":
    main()
