"""The entry point of the container: one case from the input folder becomes its masks in the output folder.

    python inference.py [--input DIR] [--output DIR] [--model DIR] [--trust-checkpoint] [--budget SECONDS]
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
from time import perf_counter

from lesionclick.budget import DEFAULT_BUDGET_S, Budget
from lesionclick.errors import LesionClickError, ModelError
from lesionclick.grand_challenge.image_files import write_masks
from lesionclick.grand_challenge.interfaces import TASKS, TUMOR_LESION_SEGMENTATION, Task, find_interface
from lesionclick.images import Volume
from lesionclick.longitudinal.session import segment_followups
from lesionclick.network.model_folder import read_task
from lesionclick.petct.case import LongitudinalCase, PetCtCase, mask_path, prepare_output, read_case
from lesionclick.petct.model import RESOURCES, LesionModel, Model, find_model_folder
from lesionclick.petct.session import segment

logger = logging.getLogger("inference")


def init_model(folder: Path | None = None, trust_checkpoint: bool = False, task: Task = "task1") -> Model | LesionModel:
    """Load the task's model from `folder`, else from the platform's folder, else the embedded one."""
    found = find_model_folder(folder, task)
    logger.info("model: %s", found)
    kind = Model if task == "task1" else LesionModel
    return kind.load(found, trust_checkpoint=trust_checkpoint)


def init_models(folder: Path | None = None, trust_checkpoint: bool = False) -> dict[Task, Model | LesionModel]:
    """Load a model for each task; where `folder` holds one model alone, the other task gets the embedded one."""
    models = {}
    for task in TASKS:
        found = find_model_folder(folder, task)
        models[task] = init_model(found if read_task(found) == task else RESOURCES / task, trust_checkpoint, task)
    return models


def run(model: Model | LesionModel, input_dir: Path, output_dir: Path, budget: Budget | None = None) -> list[Path]:
    """Handle the case in `input_dir` within its budget and return the paths of its masks in `output_dir`."""
    begin = perf_counter()
    case = read_case(input_dir)
    prepare_output(output_dir, find_interface(input_dir).outputs)
    logger.info("read case: %.1f s", perf_counter() - begin)
    masks = _segment(case, model, output_dir, budget or Budget())
    write_masks(masks)
    logger.info("wrote %s: %.1f s in all", ", ".join(map(str, masks)), perf_counter() - begin)
    return list(masks)


def _segment(
    case: PetCtCase | LongitudinalCase, model: Model | LesionModel, output_dir: Path, budget: Budget
) -> dict[Path, Volume]:
    """Return the masks of a case by their paths."""
    if isinstance(case, PetCtCase) and isinstance(model, Model):
        logger.info("case %s, %s voxels, %d clicks", case.stem, case.pet.grid.size_xyz, len(case.clicks))
        return {mask_path(output_dir, TUMOR_LESION_SEGMENTATION, case.stem): segment(case, model, budget)}
    if isinstance(case, LongitudinalCase) and isinstance(model, LesionModel):
        paths = [mask_path(output_dir, followup.output, followup.stem) for followup in case.followups]
        return dict(zip(paths, segment_followups(case, model, budget), strict=True))
    raise ModelError(f"expected a model for {type(case).__name__}, found {type(model).__name__}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Handle one case, or serve, as the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(description="Segment the lesions of one case, guided by clicks.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder with the case (default /input)")
    parser.add_argument("--output", type=Path, default=Path("/output"), help="folder for the masks (default /output)")
    parser.add_argument("--model", type=Path, help="model folder (default /opt/ml/model, else the embedded one)")
    parser.add_argument("--trust-checkpoint", action="store_true", help="allow checkpoints that hold code")
    limit = f"seconds from start to mask (default: LESIONCLICK_BUDGET, else {DEFAULT_BUDGET_S:.0f})"
    # argparse passes a default that is text through the type as well
    parser.add_argument(
        "--budget", type=_seconds, default=os.environ.get("LESIONCLICK_BUDGET", str(DEFAULT_BUDGET_S)), help=limit
    )
    serving = os.environ.get("LESIONCLICK_API_METHOD") == "invoke"
    parser.add_argument("--serve", action="store_true", default=serving, help="answer the platform's invoke API")
    parser.add_argument("--port", type=int, default=4743, help="port of the invoke API (default 4743)")
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


def _run_once(options: argparse.Namespace) -> int:
    budget = Budget(options.budget)
    try:
        task = find_interface(options.input).task
        run(init_model(options.model, options.trust_checkpoint, task), options.input, options.output, budget)
    except LesionClickError as error:
        logger.error("%s", error)  # a traceback would bury the message
        return error.exit_code
    except Exception:
        logger.exception("unexpected error")
        return 3
    return 0


def _serve(options: argparse.Namespace) -> int:
    from lesionclick.server import serve  # a single case does not need its packages

    def load() -> Callable[[], list[Path]]:
        models = init_models(options.model, options.trust_checkpoint)

        def handle() -> list[Path]:
            task = find_interface(options.input).task
            return run(models[task], options.input, options.output, Budget(options.budget))

        return handle

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
