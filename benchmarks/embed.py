"""Train the embedded Task 1 model: phantoms and real crops as a data set, then the small configuration.

python benchmarks/embed.py --sts ../shared/data/sts --output out/embed --minutes 100
"""

import argparse
from pathlib import Path

from lesionclick.training.embedded import build_dataset
from lesionclick.training.train import train_task1


def main() -> None:
    """Build the data set and train on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"))
    parser.add_argument("--output", type=Path, default=Path("out/embed"))
    parser.add_argument("--phantoms", type=int, default=120)
    parser.add_argument("--minutes", type=float, default=100.0)
    parser.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    parser.add_argument("--initial", type=Path, help="model folder whose weights to begin with")
    args = parser.parse_args()
    dataset = build_dataset(args.sts, args.output / "raw", args.phantoms)
    print(train_task1(dataset, "small", args.output, minutes=args.minutes, resume=args.resume, initial=args.initial))


if __name__ == "__main__":
    main()
