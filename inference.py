"""The entry point of the container: one case from the input folder becomes its masks in the output folder.

    python inference.py [--input DIR] [--output DIR] [--model DIR] [--trust-checkpoint]

The input says which task it is: Task 1 is a PET/CT with clicks, Task 2 a longitudinal CT. Exit codes: 0 done, 1 bad
input, 2 broken model (or wrong usage), 3 anything else. Without 0 there is no mask.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from lesionclick.case import LongitudinalCase, PetCtCase, mask_path, prepare_output, read_case
from lesionclick.errors import LesionClickError, ModelError
from lesionclick.image_files import write_masks
from lesionclick.images import Volume
from lesionclick.interfaces import TUMOR_LESION_SEGMENTATION, Task, find_interface
from lesionclick.longitudinal import segment_followups
from lesionclick.model import LesionModel, Model, find_model_folder
from lesionclick.petct import segment

logger = logging.getLogger("inference")


def init_model(folder: Path | None = None, trust_checkpoint: bool = False, task: Task = "task1") -> Model | LesionModel:
    """Load the task's model from `folder`, else from the platform's folder, else the embedded one."""
    found = find_model_folder(folder, task)
    logger.info("model: %s", found)
    kind = Model if task == "task1" else LesionModel
    return kind.load(found, trust_checkpoint=trust_checkpoint)


def run(model: Model | LesionModel, input_dir: Path, output_dir: Path) -> list[Path]:
    """Handle the case in `input_dir` and return the paths of its masks in `output_dir`."""
    begin = perf_counter()
    case = read_case(input_dir)
    prepare_output(output_dir, find_interface(input_dir).outputs)
    logger.info("read case: %.1f s", perf_counter() - begin)
    masks = _segment(case, model, output_dir)
    write_masks(masks)
    logger.info("wrote %s: %.1f s in all", ", ".join(map(str, masks)), perf_counter() - begin)
    return list(masks)


def _segment(case: PetCtCase | LongitudinalCase, model: Model | LesionModel, output_dir: Path) -> dict[Path, Volume]:
    """Return the masks of a case by their paths."""
    if isinstance(case, PetCtCase) and isinstance(model, Model):
        logger.info("case %s, %s voxels, %d clicks", case.stem, case.pet.grid.size_xyz, len(case.clicks))
        return {mask_path(output_dir, TUMOR_LESION_SEGMENTATION, case.stem): segment(case, model)}
    if isinstance(case, LongitudinalCase) and isinstance(model, LesionModel):
        paths = [mask_path(output_dir, followup.output, followup.stem) for followup in case.followups]
        return dict(zip(paths, segment_followups(case, model), strict=True))
    raise ModelError(f"expected a model for {type(case).__name__}, found {type(model).__name__}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Handle one case as the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(description="Segment the lesions of one case, guided by clicks.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder with the case (default /input)")
    parser.add_argument("--output", type=Path, default=Path("/output"), help="folder for the masks (default /output)")
    parser.add_argument("--model", type=Path, help="model folder (default /opt/ml/model, else the embedded one)")
    parser.add_argument("--trust-checkpoint", action="store_true", help="allow checkpoints that hold code")
    options = parser.parse_args(arguments)
    _start_log()
    try:
        task = find_interface(options.input).task
        run(init_model(options.model, options.trust_checkpoint, task), options.input, options.output)
    except LesionClickError as error:
        logger.error("%s", error)  # a traceback would bury the message
        return error.exit_code
    except Exception:
        logger.exception("unexpected error")
        return 3
    return 0


def _start_log() -> None:
    """Send warnings and errors to stderr, which the platform shows as problems, and the rest to stdout."""
    progress, problems = logging.StreamHandler(sys.stdout), logging.StreamHandler(sys.stderr)
    progress.addFilter(lambda record: record.levelno < logging.WARNING)
    problems.setLevel(logging.WARNING)
    form = "%(asctime)s %(levelname)s %(name)s: %(message)s"
    logging.basicConfig(level=logging.INFO, format=form, handlers=[progress, problems])


if __name__ == "__main__":
    sys.exit(main())
