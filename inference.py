"""The entry point of the container: one case from the input folder becomes one mask in the output folder.

    python inference.py [--input DIR] [--output DIR] [--model DIR] [--trust-checkpoint]

Exit codes: 0 done, 1 bad input, 2 broken model (or wrong usage), 3 anything else. Without 0 there is no mask.
"""

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter

from lesionclick.case import PetCtCase, mask_path, prepare_output, write_mask
from lesionclick.errors import LesionClickError
from lesionclick.model import Model, find_model_folder
from lesionclick.petct import segment

logger = logging.getLogger("inference")


def init_model(folder: Path | None = None, trust_checkpoint: bool = False) -> Model:
    """Load the model from `folder`, else from the platform's folder, else the embedded one."""
    found = find_model_folder(folder)
    logger.info("model: %s", found)
    return Model.load(found, trust_checkpoint=trust_checkpoint)


def run(model: Model, input_dir: Path, output_dir: Path) -> Path:
    """Handle the case in `input_dir` and return the mask's path in `output_dir`."""
    begin = perf_counter()
    case = PetCtCase.read(input_dir)
    prepare_output(output_dir)
    message = "read case %s, %s voxels, %d clicks: %.1f s"
    logger.info(message, case.stem, case.pet.grid.size_xyz, len(case.clicks), perf_counter() - begin)
    mask = segment(case, model)
    path = mask_path(output_dir, case)
    write_mask(mask, path)
    logger.info("wrote %s: %.1f s in all", path, perf_counter() - begin)
    return path


def main(arguments: Sequence[str] | None = None) -> int:
    """Handle one case as the command line says, and return the exit code."""
    parser = argparse.ArgumentParser(description="Segment the lesions of one PET/CT case, guided by clicks.")
    parser.add_argument("--input", type=Path, default=Path("/input"), help="folder with the case (default /input)")
    parser.add_argument("--output", type=Path, default=Path("/output"), help="folder for the mask (default /output)")
    parser.add_argument("--model", type=Path, help="model folder (default /opt/ml/model, else the embedded model)")
    parser.add_argument("--trust-checkpoint", action="store_true", help="allow checkpoints that hold code")
    options = parser.parse_args(arguments)
    _start_log()
    try:
        run(init_model(options.model, options.trust_checkpoint), options.input, options.output)
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
