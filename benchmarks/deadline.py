"""Tell whether the mask is written in time, what more time gives, and how much memory a large case takes.

python benchmarks/deadline.py deadline               # budgets from 5 s to 10 min, with a network that sleeps
python benchmarks/deadline.py memory --slices 900    # peak memory of a case of 512 x 512 x 900 voxels

The sleeping model has five folds mirrored along three axes. Each pass takes `TILE_S` a tile, whatever the machine, and
sees the uptake through noise of its own, so that the mean over more passes is better. Its Dice score is that against
the mask without noise.
"""

import argparse
import os
import resource
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch

from lesionclick.algorithm import Algorithm
from lesionclick.budget import Budget
from lesionclick.evaluation.measures import MaskPair, dice
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.images import Grid, Volume
from lesionclick.network.model_folder import embedded_models
from lesionclick.petct.model import PetCtModel
from lesionclick.prompts.points import Prompts
from lesionclick.prompts.spec import Prediction
from lesionclick.tasks import TASKS

BUDGETS_S = (5, 10, 20, 40, 75, 150, 300, 600)
FOLDS = 5
TILE_S = 0.15
NOISE = 3.0
SIZE_XYZ = (160, 110, 150)
SPACING_XYZ = (4.0, 4.0, 3.27)
ROOT = Path(__file__).parents[1]


class Sleeper(torch.nn.Module):
    """Sees the uptake of a tile after `TILE_S`, through noise."""

    def __init__(self, seed: int, noise: float, seconds: float) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(seed)
        self.noise, self.seconds = noise, seconds

    def forward(self, tile: torch.Tensor) -> torch.Tensor:
        """Return two logits per voxel, shape (1, 2, z, y, x)."""
        time.sleep(self.seconds)
        seen = 10 * (tile[:, 1:2] - 0.6)
        seen = seen + self.noise * torch.randn(seen.shape, generator=self.random)
        return torch.cat([-seen / 2, seen / 2], dim=1)


def write_case(folder: Path, size_xyz: tuple[int, int, int], spacing_xyz: tuple[float, float, float]) -> None:
    """Write a body that fills the image but for a rim of air, with hot spheres; float32 PET, as scanners give it."""
    grid = Grid(size_xyz, spacing_xyz)
    rng = np.random.default_rng(0)
    z, y, x = (np.arange(n, dtype=np.float32) / n - 0.5 for n in grid.shape_zyx)
    inside = z[:, None, None] ** 2 + y[:, None] ** 2 + x**2 < 0.24
    pet = np.where(inside, 1.0, 0.05).astype(np.float32)
    for _ in range(12):
        centre, radius = rng.uniform(0.3, 0.7, 3) * grid.shape_zyx, rng.uniform(3, 8)
        low = np.maximum((centre - radius).astype(int), 0)
        window = tuple(slice(a, a + int(2 * radius) + 2) for a in low)
        offsets = np.indices(pet[window].shape) + low[:, None, None, None] - centre[:, None, None, None]
        pet[window][(offsets**2).sum(axis=0) < radius**2] = 6.0
    for slug, array in (("ct", np.where(inside, 40, -1000).astype(np.int16)), ("pet", pet)):
        path = folder / "images" / slug / f"{slug}.mha"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(Volume(array, grid).to_image(), str(path), useCompression=True)
    write_clicks(folder / "lesion-clicks.json", Prompts())


def segment(case: Path, budget_s: float, noise: float, tile_s: float) -> tuple[float, np.ndarray]:
    """Run the entry point on a case with the sleeping model, and return its seconds and the mask."""
    algorithm = Algorithm(embedded_models())
    model = algorithm.model(TASKS["task1"])
    assert isinstance(model, PetCtModel)
    model.networks = tuple(Sleeper(seed, noise, tile_s) for seed in range(FOLDS))
    prompt = replace(model.content.prompt, prediction=Prediction(mirror_axes=(0, 1, 2)))
    model.content = replace(model.content, prompt=prompt)
    with tempfile.TemporaryDirectory() as output:
        begin = time.monotonic()
        (mask,) = algorithm.handle(case, Path(output), Budget(budget_s)).masks
        seconds = time.monotonic() - begin
        return seconds, sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))


def try_budget(case: Path, budget_s: float) -> tuple[float, np.ndarray]:
    """Run with one budget, on one core, so that several can run side by side."""
    torch.set_num_threads(1)
    return segment(case, budget_s, NOISE, TILE_S)


def deadline() -> None:
    """Print a row per budget, with as many side by side as there are cores; the longest begin first."""
    with tempfile.TemporaryDirectory() as folder:
        case = Path(folder, "case")
        write_case(case, SIZE_XYZ, SPACING_XYZ)
        _, truth = segment(case, 1e6, 0.0, 0.0)
        with ProcessPoolExecutor(os.cpu_count()) as pool:
            runs = {budget_s: pool.submit(try_budget, case, budget_s) for budget_s in sorted(BUDGETS_S, reverse=True)}
        print("| budget, s | took, s | Dice |\n| --- | --- | --- |")
        late = 0
        for budget_s in BUDGETS_S:
            seconds, mask = runs[budget_s].result()
            late += seconds > budget_s
            print(f"| {budget_s} | {seconds:.1f} | {dice([MaskPair(truth, mask, (1.0, 1.0, 1.0))]):.3f} |")
        print(f"late: {late} of {len(BUDGETS_S)}")


def memory(slices: int) -> None:
    """Print seconds and peak memory of the entry point on a large case."""
    with tempfile.TemporaryDirectory() as folder:
        write_case(Path(folder, "case"), (512, 512, slices), (0.98, 0.98, 2.0))
        command = ["python", str(ROOT / "inference.py"), "--input", f"{folder}/case", "--output", f"{folder}/output"]
        begin = time.monotonic()
        status = os.spawnvp(os.P_WAIT, "python", command)
        seconds = time.monotonic() - begin
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20
    print(f"512 x 512 x {slices}: exit code {status}, {seconds:.0f} s, peak memory {peak:.2f} GiB")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("deadline", "memory"))
    parser.add_argument("--slices", type=int, default=900)
    args = parser.parse_args()
    deadline() if args.what == "deadline" else memory(args.slices)


if __name__ == "__main__":
    main()
