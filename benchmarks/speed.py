"""Seconds and memory of whole cases against nnU-Net's own predictor, side by side in one run; and of further clicks.

    python benchmarks/speed.py upstream --grid psma   # the official recipe: nnU-Net, ours, ours --exact
    python benchmarks/speed.py session --grid fdg     # the embedded model: the first look, then click by click
    python benchmarks/speed.py adaptive --count 4     # the same, mirrored: everywhere, or where it matters

The case is a digital patient, padded with air to the challenge's grids. The official recipe has four channels (CT, PET
and two heatmaps), voxels of 3 x 2.04 x 2.04 mm and no mirroring. Its network is small and trained for a minute on the
case itself, so that its masks look like masks and not like noise. Upstream reads NIfTI files and predicts as
`nnUNetv2_predict` does, with its worker processes; ours takes the case from the platform's layout. Each is a process of
its own, timed from its start to its end, and its memory is that of all its processes together. Both use the GPU where
there is one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test"))

from helpers.model_folder import checkpoint_of, write_checkpoint, write_model_folder  # noqa: E402

from lesionclick.evaluation.measures import MaskPair, dice  # noqa: E402
from lesionclick.grand_challenge.click_files import write_clicks  # noqa: E402
from lesionclick.images import Grid, Volume  # noqa: E402
from lesionclick.network.model_folder import read_model_folder  # noqa: E402
from lesionclick.network.preprocessing import preprocess  # noqa: E402
from lesionclick.petct.case import PetCtCase  # noqa: E402
from lesionclick.petct.model import PetCtModel  # noqa: E402
from lesionclick.petct.session import PetCtSession  # noqa: E402
from lesionclick.prompts.encodings import Gaussian  # noqa: E402
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts  # noqa: E402
from lesionclick.prompts.spec import Prediction  # noqa: E402
from lesionclick.simulation.patients import make_patient  # noqa: E402
from lesionclick.simulation.readers import simulate  # noqa: E402

GRIDS = {
    "psma": Grid((168, 168, 326), (4.07, 4.07, 3.0)),
    "fdg": Grid((400, 400, 326), (2.036, 2.036, 3.0)),
}
SEED = 5_000_000
TILE = (64, 96, 96)
SPACING_ZYX = (3.0, 2.04, 2.04)
POLL_S = 0.2

UPSTREAM = """
import sys, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], use_folds=None)
predictor.predict_from_files(sys.argv[2], sys.argv[3], False, True, 1, 1)
"""


def draw_case(grid: Grid) -> tuple[PetCtCase, Volume]:
    """Return a patient with lesions and ten click pairs, padded with air to a grid, and the label."""
    tracer = "psma" if grid is GRIDS["psma"] else "fdg"
    patient = make_patient(SEED, tracer, lesions=8, spacing_xyz=grid.spacing_xyz, field_of_view=(0.0, 1.0))
    volumes = []
    for volume, outside in ((patient.ct, -1000.0), (patient.pet, 0.0), (patient.label, 0)):
        array = np.full(grid.shape_zyx, outside, dtype=volume.array.dtype)
        sizes = [min(a, b) for a, b in zip(array.shape, volume.array.shape, strict=True)]
        target, source = (
            tuple(slice((n - size) // 2, (n - size) // 2 + size) for n, size in zip(shape, sizes, strict=True))
            for shape in (array.shape, volume.array.shape)
        )
        array[target] = volume.array[source]
        volumes.append(Volume(array, grid))
    ct, pet, label = volumes
    tumor, background = simulate(label.array > 0, pet.array, np.random.default_rng(0))
    prompts = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
    return PetCtCase(Volume(ct.array.astype(np.float32), grid), pet, prompts), label


def write_case(case: PetCtCase, folder: Path) -> None:
    """Write a case in the platform's layout."""
    for slug, volume in (("ct", case.ct), ("pet", case.pet)):
        path = folder / "images" / slug / f"{slug}.mha"
        path.parent.mkdir(parents=True)
        volume.write(path)
    write_clicks(folder / "lesion-clicks.json", case.prompts)


def stack_channels(case: PetCtCase) -> np.ndarray:
    """Return CT, PET and the two heatmaps of the official recipe, shape (4, z, y, x)."""
    grid = case.pet.grid
    heatmaps = Gaussian(radius=3.0).encode(case.prompts.on_grid(grid.shape_zyx), grid.shape_zyx, grid.spacing_zyx)
    return np.concatenate([case.ct.array[None], case.pet.array[None], heatmaps.numpy()])


def write_trained_folder(folder: Path, case: PetCtCase, label: Volume, steps: int) -> None:
    """Write a model folder of the official recipe whose small network is trained on the case for some steps."""
    write_model_folder(folder, patch_size=TILE, spacing_zyx=SPACING_ZYX)
    model = read_model_folder(folder, task="task1", n_images=2)
    spacing = case.pet.grid.spacing_zyx
    images = preprocess(model, stack_channels(case), spacing).images
    truth = functional.interpolate(torch.from_numpy(label.array > 0).float()[None, None], images.shape[1:])[0, 0] > 0
    network = model.networks[0].train()
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    rng = np.random.default_rng(0)
    lesions = truth.nonzero().numpy()
    for step in range(steps):
        centre = rng.choice(lesions) if step % 2 else rng.integers(0, images.shape[1:])
        low = [int(np.clip(c - n // 2, 0, m - n)) for c, n, m in zip(centre, TILE, images.shape[1:], strict=True)]
        part = tuple(slice(a, a + n) for a, n in zip(low, TILE, strict=True))
        with torch.autocast("cpu", dtype=torch.bfloat16):
            logits = network(images[:, *part][None])
        weight = torch.tensor([1.0, 10.0])
        loss = functional.cross_entropy(logits.float(), truth[part][None].long(), weight)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    write_checkpoint(folder / "fold_0", {**checkpoint_of(folder), "network_weights": network.state_dict()})


def watch(command: list[str]) -> tuple[float, float]:
    """Run a command, and return its seconds and the peak memory of all its processes together, in GiB."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    peak = 0
    while process.poll() is None:
        peak = max(peak, memory_of_session(process.pid))
        time.sleep(POLL_S)
    if process.returncode != 0:
        raise SystemExit(f"{command}: expected exit code 0, found {process.returncode}")
    return time.perf_counter() - begin, peak / 2**30


def memory_of_session(leader: int) -> int:
    """Return the bytes that the processes of a session hold; what several share is divided among them."""
    total = 0
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if os.getsid(int(folder.name)) == leader:
                lines = (folder / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
        except (OSError, StopIteration):  # it has ended meanwhile
            continue
    return total


def compare_with_upstream(grid: Grid, steps: int) -> None:
    """Print a table of nnU-Net and ours on one case."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        case, label = draw_case(grid)
        write_case(case, work / "case")
        write_trained_folder(work / "model", case, label, steps)
        (work / "channels").mkdir()
        for number, array in enumerate(stack_channels(case)):
            Volume(array, grid).write(work / "channels" / f"case_{number:04d}.nii.gz")
        # the rules after the network would only blur the comparison of the networks' masks
        spec = read_model_folder(work / "model", task="task1", n_images=2).prompt
        (work / "model" / "prompt.json").write_text(spec.to_json().replace('"rules": "clicks"', '"rules": "none"'))
        folders = ("--input", str(work / "case"), "--model", str(work / "model"))
        ours = [sys.executable, str(ROOT / "inference.py"), *folders]
        runs = {
            "nnU-Net": [sys.executable, "-c", UPSTREAM, *(str(work / name) for name in ("model", "channels", "up"))],
            "ours": [*ours, "--output", str(work / "fast")],
            "ours, --exact": [*ours, "--exact", "--output", str(work / "exact")],
        }
        figures = {name: watch(command) for name, command in runs.items()}
        ends = {"up": ".gz", "fast": ".mha", "exact": ".mha"}
        arrays = [Volume.read(next((work / name).rglob(f"*{end}"))).array for name, end in ends.items()]
    print(f"{'x'.join(map(str, grid.size_xyz))} voxels of {grid.spacing_xyz} mm, {torch.get_num_threads()} threads")
    print(f"| | seconds | ratio | memory, GiB | DSC to nnU-Net's | voxels that differ |\n|{' --- |' * 6}")
    for (name, (seconds, peak)), array in zip(figures.items(), arrays, strict=True):
        same = dice([MaskPair(arrays[0], array, grid.spacing_zyx)])
        different = int(np.count_nonzero(arrays[0] != array))
        ratio = figures["nnU-Net"][0] / seconds
        print(f"| {name} | {seconds:.1f} | {ratio:.2f} | {peak:.2f} | {same:.4f} | {different} |")


def time_session(grid: Grid, model_folder: Path | None, pairs: int) -> None:
    """Print the seconds of a session of the embedded model: the first look, and click pair by click pair."""
    case, _ = draw_case(grid)
    clicks = case.prompts
    case = PetCtCase(case.ct, case.pet)
    begin = time.perf_counter()
    model = PetCtModel.load(model_folder)
    session = PetCtSession(model, case)
    rows = [("load", time.perf_counter() - begin, "")]

    def measure(name: str, updates: list[str]) -> None:
        begin, iterator = time.perf_counter(), session.updates()
        for update, result in zip(updates, iterator, strict=False):
            stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in result.seconds.items())
            rows.append((f"{name}, {update}" if update else name, time.perf_counter() - begin, stages))

    measure("no click", [""])
    for number in range(pairs):
        for kind in (TUMOR, BACKGROUND):
            point = clicks.of(kind).points[number]
            session.add(kind, point.point_xyz)
            measure(f"{kind} click {number + 1}", ["neighbourhood", "final"])
    session.undo()
    measure("taken back", [""])
    begin = time.perf_counter()
    PetCtSession(model, case).segment(session.prompts)
    rows.append(("the same in a fresh session", time.perf_counter() - begin, ""))
    print("| | seconds | stages |\n| --- | --- | --- |")
    for name, seconds, stages in rows:
        print(f"| {name} | {seconds:.2f} | {stages} |")


def compare_adaptive(model_folder: Path | None, count: int) -> None:
    """Print how many passes it takes to mirror tiles only where the first pass is not sure, and what that changes."""
    model = PetCtModel.load(model_folder)
    prompt = replace(model.content.prompt, prediction=Prediction(mirror_axes=(0, 1, 2)), rules="none")
    model.content = replace(model.content, prompt=prompt)
    network, passes = model.networks[0], [0]

    def counted(tile: torch.Tensor) -> torch.Tensor:
        passes[0] += 1
        return network(tile)

    model.networks = (counted,)  # type: ignore[assignment]
    print(f"| patient | clicks | passes everywhere | where it matters | ratio | DSC |\n|{' --- |' * 6}")
    for number in range(count):
        tracer = "psma" if number % 2 else "fdg"
        patient = make_patient(SEED + number, tracer, lesions=6, spacing_xyz=(4.07, 4.07, 3.0))
        tumor, background = simulate(patient.label.array > 0, patient.pet.array, np.random.default_rng(number))
        clicks = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background)
        for step in (0, 5):
            masks, counts = [], []
            for everywhere in (True, False):
                model.arithmetic = replace(model.arithmetic, exact=everywhere)
                case = PetCtCase(patient.ct, patient.pet, clicks.at_step(step))
                passes[0] = 0
                masks.append(PetCtSession(model, case).segment().mask.array)
                counts.append(passes[0])
            same = dice([MaskPair(*masks, patient.pet.grid.spacing_zyx)])
            ratio = counts[0] / counts[1]
            print(f"| {tracer} {SEED + number} | {2 * step} | {counts[0]} | {counts[1]} | {ratio:.1f} | {same:.4f} |")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("upstream", "session", "adaptive"))
    parser.add_argument("--grid", choices=GRIDS, default="psma")
    parser.add_argument("--steps", type=int, default=120, help="upstream: training steps of the network")
    parser.add_argument("--pairs", type=int, default=3, help="session: click pairs")
    parser.add_argument("--count", type=int, default=4, help="adaptive: patients")
    parser.add_argument("--model", type=Path, help="session, adaptive: model folder (default: the embedded one)")
    args = parser.parse_args()
    if args.what == "upstream":
        compare_with_upstream(GRIDS[args.grid], args.steps)
    elif args.what == "session":
        time_session(GRIDS[args.grid], args.model, args.pairs)
    else:
        compare_adaptive(args.model, args.count)


if __name__ == "__main__":
    main()
