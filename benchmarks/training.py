"""Steps per hour of Task 1's small model on this CPU: nnU-Net's augmentation in float32, and ours, side by side.

    python benchmarks/ablation.py build --sts ../shared/data/sts --output out/ablation
    python benchmarks/training.py --data out/ablation --seconds 60

The two take turns, twice each. Both have the same network, batch, data, clicks and number of threads, keep the channels
last in memory, and let worker processes make the patches: the first two of them, the second one.
"""

import argparse
import os
from collections.abc import Callable
from pathlib import Path
from time import time
from typing import Any

import torch

from lesionclick.training.train import find_trainer, make_trainer, set_folders

WARM_UP_STEPS = 5
TRAINERS = {"nnU-Net's augmentation, float32": ("nnUNetTrainerClicks", "2"), "small": ("nnUNetTrainerClicksSmall", "1")}


def measure(name: str, workers: str, data: Path, seconds: float) -> tuple[float, float]:
    """Return the steps per hour of a trainer, and the share of the time that it waits for data."""
    os.environ.update(nnUNet_n_proc_DA=workers)
    trainer = make_trainer(
        find_trainer(name), "task1", "Dataset001_PhantomsAndSarcomas", "small", output=data, device="cpu"
    )
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


def main() -> None:
    """Measure both, in turns."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("out/ablation"), help="made by benchmarks/ablation.py build")
    parser.add_argument("--seconds", type=float, default=60.0, help="of each measurement")
    args = parser.parse_args()
    set_folders(args.data / "raw", args.data)
    measured: dict[str, list[tuple[float, float]]] = {title: [] for title in TRAINERS}
    for _ in range(2):
        for title, (name, workers) in TRAINERS.items():
            measured[title].append(measure(name, workers, args.data, args.seconds))
    for title, rates in measured.items():
        print(f"{title}: " + ", ".join(f"{rate:.0f} steps/h ({waiting:.1%} waiting)" for rate, waiting in rates))
    old, new = (sum(rate for rate, _ in rates) for rates in measured.values())
    print(f"{new / old:.2f} times as many steps per hour, {torch.get_num_threads()} threads")


if __name__ == "__main__":
    main()
