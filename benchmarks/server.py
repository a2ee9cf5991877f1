"""Tell how long a server of the image takes from its start until it is ready.

python benchmarks/server.py --engine podman --image lesionclick:invoke

Counted from the command that starts the container until the platform's question for /health, sent from a container
beside it, is answered with 200; so the start of both containers is part of it.
"""

import argparse
from statistics import median
from time import monotonic

from lesionclick.evaluation.engine import Engine


def main() -> None:
    """Start the server several times and print the seconds of each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--engine", default="docker")
    parser.add_argument("--image", default="lesionclick:invoke")
    parser.add_argument("--times", type=int, default=5)
    args = parser.parse_args()
    engine = Engine.find(args.engine, args.image)
    seconds = []
    for _ in range(args.times):
        begin = monotonic()
        with engine.serve():
            seconds.append(monotonic() - begin)
    print(f"ready after {', '.join(f'{s:.1f}' for s in seconds)} s; median {median(seconds):.1f} s")


if __name__ == "__main__":
    main()
