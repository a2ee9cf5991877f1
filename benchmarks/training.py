"""Steps per hour of Task 1's small model on this CPU, side by side.

    python benchmarks/ablation.py build --sts ../shared/data/sts --output out/ablation
    python benchmarks/training.py --data out/ablation --seconds 60

nnU-Net's augmentation in float32, and ours: the same network, batch, data, clicks and number of threads, the channels
last in memory, and worker processes that make the patches, two for the first and one for the second.

    git worktree add out/former fdb8031    # before the small model had a recipe of its own
    python benchmarks/training.py --data out/ablation --seconds 120 --former out/former

Another state of this repository, and this one: each trains as it does by itself, network, patches and workers included,
on some of the cases; validation counts.

Both take turns, twice each.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import numpy as np
import torch

from lesionclick.images import Volume
from lesionclick.training.train import find_trainer, make_trainer, set_folders

DATASET = "Dataset001_PhantomsAndSarcomas"
WARM_UP_STEPS = 5
TRAINERS = {"nnU-Net's augmentation, float32": ("nnUNetTrainerClicks", "2"), "small": ("nnUNetTrainerClicksSmall", "1")}
CASES = 24
"""Number of cases that checkouts are compared on, of which two are for validation."""

COUNT_STEPS = """
import sys, time
from pathlib import Path
from torch.optim.optimizer import register_optimizer_step_post_hook
from lesionclick.training.train import train
if __name__ == "__main__":
    ends = []
    register_optimizer_step_post_hook(lambda *_: ends.append(time.time()))
    train("task1", Path(sys.argv[1]), "small", Path(sys.argv[2]), device="cpu", minutes=float(sys.argv[3]) / 60)
    warm = len(ends) // 10
    print()
    print(3600 * (len(ends) - 1 - warm) / (ends[-1] - ends[warm]))
"""


def measure(name: str, workers: str, data: Path, seconds: float) -> tuple[float, float]:
    """Return the steps per hour of a trainer, and the share of the time that it waits for data."""
    os.environ.update(nnUNet_n_proc_DA=workers)
    trainer = make_trainer(find_trainer(name), "task1", DATASET, "small", output=data, device="cpu")
    torch.set_flush_denormal(True)
    trainer.on_train_start()
    trainer.network.to(memory_format=torch.channels_last_3d)
    trainer.network.train()
    batches: Callable[[], Any] = trainer.dataloader_train.__next__
    for _ in range(WARM_UP_STEPS):
        trainer.train_step(batches())
    begin, waited, steps = time(), 0.0, 0
    while time() - begin < seconds:
        asked = time()
        batch = batches()
        waited += time() - asked
        trainer.train_step(batch)
        steps += 1
    lasted = time() - begin
    trainer.disable_checkpointing = True
    trainer.on_train_end()
    return 3600 * steps / lasted, waited / lasted


def compare_trainers(data: Path, seconds: float) -> None:
    """Print the steps per hour of both trainers, measured in turns."""
    set_folders(data / "raw", data)
    measured: dict[str, list[tuple[float, float]]] = {title: [] for title in TRAINERS}
    for _ in range(2):
        for title, (name, workers) in TRAINERS.items():
            measured[title].append(measure(name, workers, data, seconds))
    for title, rates in measured.items():
        print(f"{title}: " + ", ".join(f"{rate:.0f} steps/h ({waiting:.1%} waiting)" for rate, waiting in rates))
    old, new = (sum(rate for rate, _ in rates) for rates in measured.values())
    print(f"{new / old:.2f} times as many steps per hour, {torch.get_num_threads()} threads")


def take_cases(source: Path, target: Path, *, organs: bool) -> Path:
    """Copy a few cases of a raw data set, with the organs in the labels or without, and return the new one."""
    described = json.loads((source / "dataset.json").read_text())
    split = json.loads((source / "splits_final.json").read_text())[0]
    train = sorted(set(split["train"]), key=lambda name: name[::-1])[: CASES - 2]
    names = [*train, *split["val"][:2]]
    for folder in ("imagesTr", "labelsTr"):
        (target / folder).mkdir(parents=True)
    for name in names:
        for path in (source / "imagesTr").glob(f"{name}_*"):
            shutil.copyfile(path, target / "imagesTr" / path.name)
        label = Volume.read(source / "labelsTr" / f"{name}.nii.gz")
        kept = label.array if organs else label.array == 1
        Volume(kept.astype(np.uint8), label.grid).write(target / "labelsTr" / f"{name}.nii.gz")
    if not organs:
        described.pop("organs", None)
    (target / "dataset.json").write_text(json.dumps({**described, "numTraining": CASES}))
    (target / "splits_final.json").write_text(json.dumps([{"train": train, "val": split["val"][:2]}]))
    return target


def compare_checkouts(former: Path, data: Path, seconds: float) -> None:
    """Print the steps per hour of another checkout and of this one, measured in turns."""
    checkouts = {"former": former.resolve(), "this": Path(__file__).resolve().parents[1]}
    rates: dict[str, list[float]] = {name: [] for name in checkouts}
    for turn in range(2):
        for name, checkout in checkouts.items():
            with tempfile.TemporaryDirectory() as work:
                dataset = take_cases(data / "raw" / DATASET, Path(work, DATASET), organs=name == "this")
                script = Path(work, "count_steps.py")
                script.write_text(COUNT_STEPS)
                command = [sys.executable, str(script), str(dataset), str(Path(work, "out")), str(seconds)]
                environment = {**os.environ, "PYTHONPATH": str(checkout)}
                done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
            rates[name].append(float(done.stdout.splitlines()[-1]))
            print(f"{name}, turn {turn + 1}: {rates[name][-1]:.0f} steps/h", flush=True)
    print(f"{sum(rates['this']) / sum(rates['former']):.2f} times as many steps per hour")


def main() -> None:
    """Measure what the command line asks for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("out/ablation"), help="made by benchmarks/ablation.py build")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    parser.add_argument("--former", type=Path, help="another checkout of this repository")
    args = parser.parse_args()
    if args.former is None:
        compare_trainers(args.data, args.seconds)
    else:
        compare_checkouts(args.former, args.data, args.seconds)


if __name__ == "__main__":
    main()
