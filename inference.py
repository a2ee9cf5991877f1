"""The entry point of the container: one case from the input folder becomes its masks in the output folder.

    python inference.py [--input DIR] [--output DIR] [--model DIR] [--trust-checkpoint] [--budget SECONDS] [--exact]
    python inference.py --serve [--port PORT] ...

The input says which task it is: Task 1 is a PET/CT with clicks, Task 2 a longitudinal CT. Exit codes: 0 done, 1 bad
input, 2 broken model (or wrong usage), 3 anything else. Without 0 there is no mask. With `--serve` the process answers
the platform's invoke API, case after case, as in an image that sets LESIONCLICK_API_METHOD=invoke.
"""

import argparse
import logging
import math
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from lesionclick.algorithm import Algorithm, Done
from lesionclick.budget import DEFAULT_BUDGET_S, Budget
from lesionclick.errors import LesionClickError

logger = logging.getLogger("inference")


def main(arguments: Sequence[str] | None = None) -> int:
    """Handle one case, or serve, as the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(description="Segment the lesions of one case, guided by clicks.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder with the case (default /input)")
    parser.add_argument("--output", type=Path, default=Path("/output"), help="folder for the masks (default /output)")
    parser.add_argument("--model", type=Path, help="model folder (default /opt/ml/model, else the embedded one)")
    parser.add_argument("--trust-checkpoint", action="store_true", help="allow checkpoints that hold code")
    parser.add_argument("--exact", action="store_true", help="compute as nnU-Net does, at its speed, to the voxel")
    limit = f"seconds from start to mask (default: LESIONCLICK_BUDGET, else {DEFAULT_BUDGET_S:.0f})"
    # argparse passes a default that is text through the type as well
    parser.add_argument(
        "--budget", type=_seconds, default=os.environ.get("LESIONCLICK_BUDGET", str(DEFAULT_BUDGET_S)), help=limit
    )
    serving = os.environ.get("LESIONCLICK_API_METHOD") == "invoke"
    parser.add_argument("--serve", action="store_true", default=serving, help="answer the platform's invoke API")
    parser.add_argument("--port", type=_port, default=4743, help="port of the invoke API (default 4743)")
    options = parser.parse_args(arguments)
    _start_log()
    return _serve(options) if options.serve else _run_once(options)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, found {text}")
    return seconds


def _port(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and 0 <= int(text) < 2**16):
        raise argparse.ArgumentTypeError(f"expected a port from 0 to {2**16 - 1}, found {text}")
    return int(text)


def _run_once(options: argparse.Namespace) -> int:
    budget = Budget(options.budget)
    try:
        algorithm = Algorithm(options.model, trust_checkpoint=options.trust_checkpoint, exact=options.exact)
        algorithm.handle(options.input, options.output, budget)
    except LesionClickError as error:
        logger.error("%s", error)  # a traceback would bury the message
        return error.exit_code
    except Exception:
        logger.exception("unexpected error")
        return 3
    return 0


def _serve(options: argparse.Namespace) -> int:
    from lesionclick.server import serve  # a single case does not need its packages

    def load() -> Callable[[], Done]:
        algorithm = Algorithm.load(options.model, trust_checkpoint=options.trust_checkpoint, exact=options.exact)
        return lambda: algorithm.handle(options.input, options.output, Budget(options.budget))

    return serve(load, port=options.port)


def _start_log() -> None:
    """Send warnings and errors to stderr, which the platform shows as problems, and the rest to stdout."""
    progress, problems = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    progress.addFilter(lambda record: record.levelno < logging.WARNING)
    problems.setLevel(logging.WARNING)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=[progress, problems])


if __name__ == "__main__":
    sys.exit(main())
