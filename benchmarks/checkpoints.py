"""Tell what other teams' weights cost: tiles, seconds and plan within the deadline, and memory to load them.

python benchmarks/checkpoints.py time              # at full size, from floating-point operations; no GPU is needed
python benchmarks/checkpoints.py load --folds 3    # writes random folds of full size, 0.9 GB each, and loads them

The seconds are operations over `THROUGHPUTS`, which are assumed for the platform's T4 and not measured there.
"""

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))
from helpers.foreign_models import STEM_CLASS, network_of, write_second_place
from helpers.model_folder import DEEP

from lesionclick.budget import DEFAULT_BUDGET_S, choose_plan, list_plans
from lesionclick.network.model_folder import read_model_folder
from lesionclick.network.tiles import list_tiles
from lesionclick.petct.session import REST_S, REST_S_PER_VOXEL

FEATURES = [32, 64, 128, 256, 320, 320]
"""nnU-Net's own for six stages."""
THROUGHPUTS = (5.0, 10.0, 20.0)
"""Assumed tera-operations per second of a T4 in half precision, whose peak is 65."""
BEFORE_S = 120.0
"""Assumed time for start, loading and preprocessing on the platform."""
SPACING_ZYX = (3.0, 2.036, 2.036)
CASES = {"median, 400 x 400 x 326": (326, 400, 400), "long, 400 x 400 x 600": (600, 400, 400)}
"""Shapes (z, y, x) on the networks' grid, at `SPACING_ZYX`."""


@dataclass(frozen=True)
class Team:
    """What a team's folder holds; its patch and depth are those of the plans that it describes."""

    name: str
    network: str
    blocks: Sequence[int]
    patch: tuple[int, int, int]
    folds: int
    mirror_axes: tuple[int, ...]


TEAMS = (
    Team("organisers' baseline", "PlainConvUNet", [2] * 6, (112, 160, 128), 1, ()),
    Team("second place", "ResidualEncoderUNet", [1, 3, 4, 6, 6, 6], (192, 192, 192), 10, (0, 1, 2)),
)


def full_size(team: Team) -> dict[str, object]:
    """Return the network's arguments in plans, at full size."""
    blocks = "n_blocks_per_stage" if team.network == "ResidualEncoderUNet" else "n_conv_per_stage"
    decoder = [1 if team.network == "ResidualEncoderUNet" else 2] * 5
    return {**DEEP, "features_per_stage": FEATURES, blocks: list(team.blocks), "n_conv_per_stage_decoder": decoder}


def operations(team: Team) -> tuple[float, float]:
    """Return the tera-operations of a tile, and the millions of parameters of a network."""
    from nnunetv2.utilities.get_network_from_plans import get_network_from_plans

    common = {"conv_op": nn.Conv3d, "conv_bias": True, "norm_op": nn.InstanceNorm3d, "norm_op_kwargs": {"affine": True}}
    arguments = {**full_size(team), **common, "nonlin": nn.LeakyReLU, "nonlin_kwargs": {}}
    name = f"{STEM_CLASS.rpartition('.')[0]}.{team.network}"
    with torch.device("meta"):
        network = get_network_from_plans(name, arguments, [], 4, 2, allow_init=False, deep_supervision=False)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            network.eval()(torch.zeros(1, 4, *team.patch))
    return counter.get_total_flops() / 1e12, sum(weight.numel() for weight in network.parameters()) / 1e6


def tell_time() -> None:
    """Print a table of tiles, seconds and plans."""
    print(
        "| model | case | tiles | 10^12 operations a tile | assumed 10^12/s | s a tile | one look, s | all, s | plan |"
    )
    print("| --- | --- | --- | --- | --- | --- | --- | --- | --- |")
    for team in TEAMS:
        tera, millions = operations(team)
        plans = list_plans(team.folds, team.mirror_axes)
        for case, shape in CASES.items():
            counts = {step: len(list_tiles(shape, team.patch, step)) for step in {plan.step for plan in plans}}
            voxels = shape[0] * shape[1] * shape[2]
            left_s = DEFAULT_BUDGET_S - BEFORE_S - REST_S - REST_S_PER_VOXEL * voxels
            for throughput in THROUGHPUTS:
                pass_s = tera / throughput
                look_s = counts[0.5] * pass_s
                plan = choose_plan(plans, counts.__getitem__, pass_s, left_s - look_s)
                chosen = f"{plan.folds} of {team.folds} folds, {len(plan.mirror_axes)} of {len(team.mirror_axes)} axes"
                chosen += "" if plan.step == plans[0].step else f", tiles {plan.step:g} apart"
                everything = counts[0.5] * plans[0].passes * pass_s
                print(
                    f"| {team.name} | {case} | {counts[0.5]} | {tera:.1f} | {throughput:g} | {pass_s:.2f} "
                    f"| {look_s:.0f} | {everything:.0f} | {chosen} |"
                )
        print(f"{team.name}: {millions:.0f} million weights a fold, {team.folds * millions * 4 / 1e3:.2f} GB in all")


def load(folds: int) -> None:
    """Print seconds and memory of loading folds of full size, in a process of its own."""
    with tempfile.TemporaryDirectory() as work:
        folder = write_second_place(Path(work), folds=(0,))
        plans = json.loads((folder / "plans.json").read_text())
        plans["configurations"]["3d_fullres"]["architecture"]["arch_kwargs"] |= full_size(TEAMS[1])
        (folder / "plans.json").write_text(json.dumps(plans))
        content = torch.load(folder / "fold_0" / "checkpoint_final.pth", weights_only=False)
        for fold in range(folds):
            network = network_of(plans)
            momenta = {name: torch.zeros_like(weight) for name, weight in network.named_parameters()}
            (folder / f"fold_{fold}").mkdir(exist_ok=True)
            written = content | {"network_weights": network.state_dict(), "optimizer_state": momenta}
            torch.save(written, folder / f"fold_{fold}" / "checkpoint_final.pth")
            del network, momenta, written
        size = sum(path.stat().st_size for path in folder.glob("fold_*/*.pth")) / 1e9
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            seconds, weights, before, after, peak = pool.apply(measure, (folder,))
    print(f"{folds} folds, {size:.2f} GB of files, {weights:.2f} GB of weights: loaded in {seconds:.0f} s")
    print(f"memory {before:.2f} GB before, {after:.2f} GB after; with mapped files {peak:.2f} GB at most")


def measure(folder: Path) -> tuple[float, float, float, float, float]:
    """Return seconds, and in GB: the weights, memory that is no file's before and after, and the peak with files."""
    before, begin = memory("RssAnon"), time.monotonic()
    networks = read_model_folder(folder, task="task1", n_images=2).networks
    seconds, after = time.monotonic() - begin, memory("RssAnon")
    weights = sum(w.numel() * w.element_size() for network in networks for w in network.parameters()) / 1e9
    return seconds, weights, before, after, memory("VmHWM")


def memory(kind: str) -> float:
    """Return an entry of this process in GB, as Linux tells it."""
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(f"{kind}:"))
    return int(line.split()[1]) / 1e6


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("time", "load"))
    parser.add_argument("--folds", type=int, default=3)
    args = parser.parse_args()
    tell_time() if args.what == "time" else load(args.folds)


if __name__ == "__main__":
    main()
