"""Train an embedded model: phantoms and real crops as a data set, then the small configuration.

python benchmarks/embed.py task1 --sts ../shared/data/sts --output out/embed1 --minutes 100
python benchmarks/embed.py task2 --sts ../shared/data/sts --output out/embed2 --minutes 80 --background CT.mha
"""

import argparse
from pathlib import Path

from lesionclick.training.datasets import build_dataset, build_longitudinal_dataset
from lesionclick.training.train import train

PHANTOMS = {"task1": 400, "task2": 128}


def main() -> None:
    """Build the data set and train on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task", choices=("task1", "task2"))
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"))
    parser.add_argument("--output", type=Path, default=Path("out/embed"))
    parser.add_argument("--phantoms", type=int, help="default: 400 for Task 1, 128 for Task 2")
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--initial", type=Path, help="model folder whose weights to begin with")
    parser.add_argument("--background", type=Path, action="append", default=[], help="Task 2: CT to make lesions in")
    args = parser.parse_args()
    raw, phantoms = args.output / "raw", args.phantoms or PHANTOMS[args.task]
    if args.task == "task1":
        dataset = build_dataset(args.sts, raw, phantoms)
    else:
        dataset = build_longitudinal_dataset(args.sts, raw, phantoms, backgrounds=args.background)
    options = {"minutes": args.minutes, "resume": args.resume, "initial": args.initial}
    print(train(args.task, dataset, "small", args.output, **options))


if __name__ == "__main__":
    main()
