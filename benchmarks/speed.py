"""Seconds and memory of whole cases, stage by stage and against nnU-Net's own predictor, all of it by one command.

    python benchmarks/speed.py                              # the whole table, about an hour on two cores
    python benchmarks/speed.py upstream --grid psma         # a part of it
    python benchmarks/speed.py --grid tiny --slices 40      # try all of it in minutes; the figures mean nothing

- `machine`: products of matrices, and a tile of the embedded models, one by one or several at once.
- `upstream`: the official recipe, with a small network and with the organisers'; nnU-Net, ours, ours `--exact`.
- `embedded`: the embedded model of Task 1, a process from its start to its end.
- `session`: the same, the first look and then click pair by click pair.
- `scaling`: seconds by volume of the body, by number of clicks, and for Task 2 by number of lesions.
- `memory`: 512 x 512 x 900 voxels with the four channels of the official recipe.

The case is a drawn patient, padded with air to the challenge's grids. The official recipe has four channels (CT, PET
and two heatmaps), voxels of 3 x 2.04 x 2.04 mm and no mirroring. The networks are trained for some minutes on the case
itself, so that their masks look like masks and not like noise. nnU-Net reads NIfTI
files and predicts as `nnUNetv2_predict` does, with its worker processes; ours takes the case from the platform's
layout. Each is a process of its own, timed from its start to its end, with the memory of all its processes together.
All use the GPU where there is one. The limit of arithmetic is what the machine reaches in products of large matrices.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from deadline import write_case as write_sphere
from measuring import (
    GRIDS,
    ROOT,
    SEED,
    Run,
    draw_case,
    flops_per_second,
    last_json,
    print_table,
    stack_channels,
    tile_flops,
    time_at_once,
    train_on_case,
    watch,
    write_case,
    write_official_folder,
)

from lesionclick.evaluation.measures import MaskPair, dice
from lesionclick.evaluation.samples import phantom_visits
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.longitudinal.session import LongitudinalSession
from lesionclick.network.acceleration import Arithmetic
from lesionclick.network.device import default_device
from lesionclick.network.tiles import list_tiles
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts

STAGES = ("open case", "load model", "read case", "preprocess", "predict", "resample prediction", "rules", "write")
AT_ONCE = (1, 2, 4, 8)
STEPS = {True: 600, False: 120}
"""Training steps of the small network and of the organisers', of which each takes many times longer."""

UPSTREAM = """
import sys, torch
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
predictor = nnUNetPredictor(use_mirroring=False, device=device, allow_tqdm=False)
predictor.initialize_from_trained_model_folder(sys.argv[1], use_folds=None)
predictor.predict_from_files(sys.argv[2], sys.argv[3], False, True, 1, 1)
"""

OURS = """
import json, sys, time
from pathlib import Path
from lesionclick.algorithm import Algorithm
case, output, model, exact, begin = sys.argv[1:]
first, tiles = [], []
class Watched(Algorithm):
    def model(self, task):
        model = super().model(task)
        for network in model.networks:
            network.register_forward_pre_hook(lambda *_: first.append(time.monotonic()))
            network.register_forward_hook(lambda _, inputs, __: tiles.append(len(inputs[0])))
        return model
done = Watched(Path(model) if model else None, exact=bool(exact)).handle(Path(case), Path(output))
print(json.dumps({"first tile": first[0] - float(begin), "tiles": sum(tiles), "seconds": done.seconds}))
"""
"""What inference.py does with a case, and what it is seen to take."""


def run_ours(case: Path, output: Path, model: Path | None = None, *, exact: bool = False) -> Run:
    """Predict a case in a process of its own."""
    arguments = [str(case), str(output), str(model or ""), "exact" * exact, str(time.monotonic())]
    return watch([sys.executable, "-c", OURS, *arguments])


def measure_machine() -> None:
    """Print what the machine reaches, and what a tile takes."""
    device = default_device()
    print(f"## Machine: {device}, {torch.get_num_threads()} threads\n")
    dtypes = (torch.float32, torch.bfloat16, torch.float16 if device.type == "cuda" else torch.float64)
    rows = [(str(dtype).removeprefix("torch."), flops_per_second(dtype, device) / 1e9) for dtype in dtypes]
    print_table(["products of matrices", "GFLOP/s"], rows)
    print_table(["tiles at once", *map(str, AT_ONCE)], time_at_once(device, AT_ONCE))


def compare_with_upstream(grid: Grid, steps: int | None, *, small: bool) -> None:
    """Print a table of nnU-Net and ours on one case, by a network that is trained on it for some steps."""
    device = default_device()
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        case, label = draw_case(grid)
        write_case(case, work / "case")
        write_official_folder(work / "model", small=small)
        train_on_case(work / "model", case, label, STEPS[small] if steps is None else steps)
        (work / "channels").mkdir()
        for number, array in enumerate(stack_channels(case)):
            Volume(array, grid).write(work / "channels" / f"case_{number:04d}.nii.gz")
        model = PetCtModel.load(work / "model", device=device)
        patch = model.content.configuration.patch_size
        flops = tile_flops(model.networks[0], 4, patch)
        spacing = model.content.configuration.spacing
        shape = [round(a / b * n) for a, b, n in zip(grid.spacing_zyx, spacing, grid.shape_zyx, strict=True)]
        folders = [str(work / name) for name in ("model", "channels", "nnU-Net")]
        runs = {"nnU-Net": watch([sys.executable, "-c", UPSTREAM, *folders])}
        for exact in (False, True):
            name = "ours, --exact" if exact else "ours"
            runs[name] = run_ours(work / "case", work / name, work / "model", exact=exact)
        masks = {name: Volume.read(next((work / name).rglob("*.[mn][hi]*"))).array for name in runs}
    print(f"## {'x'.join(map(str, grid.size_xyz))} voxels, {'small' if small else 'official'} network\n")
    print(f"{flops / 1e9:.0f} GFLOP a tile; nnU-Net has {len(list_tiles(shape, patch, 0.5))} tiles\n")
    rows = []
    for name, run in runs.items():
        same = dice([MaskPair(masks["nnU-Net"], masks[name], grid.spacing_zyx)])
        different = int(np.count_nonzero(masks["nnU-Net"] != masks[name]))
        row = [name, run.seconds, runs["nnU-Net"].seconds / run.seconds, run.processor_s, run.gib]
        row += [f"{same:.4f}", different]
        if name != "nnU-Net":
            arithmetic = Arithmetic.choose(device, exact="exact" in name)
            seen = last_json(run)
            limit_s = flops * seen["tiles"] / flops_per_second(arithmetic.dtype, device)
            row += [seen["tiles"], f"{limit_s / seen['seconds']['predict']:.0%}"]
            row += [f"{seen['seconds'].get(stage, 0.0):.1f}" for stage in STAGES]
        rows.append([*row, *[""] * (9 + len(STAGES) - len(row))])
    head = ["", "seconds", "ratio", "processor s", "memory, GiB", "DSC", "voxels that differ", "tiles", "of the limit"]
    print_table([*head, *STAGES], rows)


def time_embedded(grid: Grid) -> None:
    """Print what the embedded model takes from the start of the process to its end."""
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        case, _ = draw_case(grid)
        write_case(PetCtCase(case.ct, case.pet), work / "case")
        run = run_ours(work / "case", work / "out")
    seen = last_json(run)
    model = PetCtModel.load()
    channels = model.n_images + model.encoding.n_channels
    flops = tile_flops(model.networks[0], channels, model.content.configuration.patch_size)
    limit_s = flops * seen["tiles"] / flops_per_second(model.arithmetic.dtype, model.device)
    print(f"## {'x'.join(map(str, grid.size_xyz))} voxels, embedded model, no click\n")
    rows: list[tuple[str, object]] = [("seconds", run.seconds), ("seconds to the first tile", seen["first tile"])]
    rows += [(stage, seen["seconds"].get(stage, 0.0)) for stage in STAGES]
    rows += [("tiles", seen["tiles"]), ("share of the limit", f"{limit_s / seen['seconds']['predict']:.0%}")]
    print_table(["", ""], [*rows, ("memory, GiB", run.gib)])


def time_session(grid: Grid, pairs: int) -> None:
    """Print the seconds of a session of the embedded model: the first look, and click pair by click pair."""
    case, _ = draw_case(grid)
    clicks = case.prompts
    case = PetCtCase(case.ct, case.pet)
    begin = time.perf_counter()
    model = PetCtModel.load()
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
    measure("taken back", ["neighbourhood", "final"])
    begin = time.perf_counter()
    fresh = PetCtSession(model, case).segment(session.prompts)
    same = np.array_equal(fresh.mask.array, session.segment().mask.array)
    rows.append(("the same in a fresh session", time.perf_counter() - begin, f"same voxels: {same}"))
    print(f"## {'x'.join(map(str, grid.size_xyz))} voxels, embedded model, a session\n")
    print_table(["", "seconds", "stages"], rows)


def measure_scaling(grid: Grid) -> None:
    """Print seconds by the volume of the body, the number of clicks, and the number of lesions of Task 2."""
    print("## Scaling of the embedded models\n")
    model = PetCtModel.load()

    def stages(seconds: dict[str, float]) -> list[float]:
        return [sum(seconds.values()), *(seconds.get(stage, 0.0) for stage in STAGES[2:6])]

    def by_volume() -> Iterator[list[object]]:
        for view in ((0.6, 0.8), (0.4, 0.9), (0.0, 1.0)):
            case, _ = draw_case(grid, field_of_view=view)
            litres = np.count_nonzero(case.ct.array > -500) * grid.voxel_ml / 1000
            result = PetCtSession(model, case).segment(Prompts())
            yield [f"{litres:.0f}", *stages(dict(result.seconds))]

    def by_clicks() -> Iterator[list[object]]:
        case, _ = draw_case(grid)
        for step in (0, 1, 5, 10):
            prompts = case.prompts.at_step(step)
            result = PetCtSession(model, case).segment(prompts)
            yield [len(prompts), *stages(dict(result.seconds))]

    def by_lesions() -> Iterator[list[object]]:
        longitudinal = LongitudinalModel.load()
        for count in (1, 4, 16):
            visits = phantom_visits(SEED, count, spacing_xyz=(4.0, 4.0, 6.0) if grid is GRIDS["tiny"] else (2, 2, 3))
            session = LongitudinalSession(longitudinal, LongitudinalCase((visits.baseline,), (visits.followup,)))
            seconds = session.segment().seconds
            yield [len(visits.followup.points), seconds["registration"], seconds["lesions"]]

    print_table(["body, l", "all", *STAGES[2:6]], by_volume())
    print_table(["clicks", "all", *STAGES[2:6]], by_clicks())
    print_table(["lesions with points (Task 2)", "registration", "lesions"], by_lesions())


def measure_memory(slices: int) -> None:
    """Print the peak memory of a large case with four channels."""
    side = 512 if slices > 100 else 128
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        write_sphere(work / "case", (side, side, slices), (0.98, 0.98, 2.0))
        points = np.random.default_rng(0).uniform(0.3, 0.7, (20, 3)) * (slices, side, side)
        clicks = Prompts.from_indices(tumor_zyx=points[:10].astype(int), background_zyx=points[10:].astype(int))
        write_clicks(work / "case" / "lesion-clicks.json", clicks)
        write_official_folder(work / "model", small=True)
        run = run_ours(work / "case", work / "out", work / "model")
    print(f"## {side}x{side}x{slices} voxels, four channels: {run.seconds:.0f} s, {run.gib:.2f} GiB\n")


def main() -> None:
    """Measure what the command line asks for."""
    parts = ("all", "machine", "upstream", "embedded", "session", "scaling", "memory")
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=parts, nargs="?", default="all")
    parser.add_argument("--grid", choices=GRIDS, help="default: those of the challenge")
    parser.add_argument("--network", choices=("small", "official"), help="upstream: default both")
    parser.add_argument("--steps", type=int, help="upstream: training steps of the networks")
    parser.add_argument("--pairs", type=int, default=3, help="session: click pairs")
    parser.add_argument("--slices", type=int, default=900, help="memory: slices of 512 x 512 voxels")
    args = parser.parse_args()
    wanted = parts[1:] if args.what == "all" else (args.what,)
    grids = [GRIDS[args.grid]] if args.grid else [GRIDS["psma"], GRIDS["fdg"]]
    print(f"`{' '.join(['python', str(Path(__file__).relative_to(ROOT)), *sys.argv[1:]])}`\n")
    if "machine" in wanted:
        measure_machine()
    for grid in grids:
        if "upstream" in wanted:
            for network in [args.network] if args.network else ["small", "official"]:
                compare_with_upstream(grid, args.steps, small=network == "small")
        if "embedded" in wanted:
            time_embedded(grid)
        if "session" in wanted:
            time_session(grid, args.pairs)
    if "scaling" in wanted:
        measure_scaling(grids[0])
    if "memory" in wanted:
        measure_memory(args.slices)


if __name__ == "__main__":
    main()
