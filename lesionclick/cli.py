"""The command `lesionclick`: its commands are the functions in `lesionclick.commands`.

Results go to standard output, log and errors to standard error; the exit code tells the class of an error.
"""

import logging
import sys
from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import App, CycloptsError, Parameter

from lesionclick import __version__
from lesionclick.commands.card import card
from lesionclick.commands.clicks import clicks
from lesionclick.commands.cohort import cohort
from lesionclick.commands.dataset import dataset
from lesionclick.commands.evaluate import evaluate
from lesionclick.commands.export import export
from lesionclick.commands.export_dicom import export_dicom
from lesionclick.commands.held_out import held_out
from lesionclick.commands.import_study import import_study
from lesionclick.commands.longitudinal_phantom import longitudinal_phantom
from lesionclick.commands.phantom import phantom
from lesionclick.commands.replay import replay
from lesionclick.commands.score import score
from lesionclick.commands.suggest import suggest
from lesionclick.commands.train import train
from lesionclick.commands.view import view
from lesionclick.errors import LesionClickError

logger = logging.getLogger(__name__)


def _show_default(value: Any) -> str | None:
    if value is None or value is False:
        return None
    return " ".join(f"{number:g}" for number in value) if isinstance(value, tuple) else str(value)


app = App(
    name="lesionclick",
    help="Click-guided lesion segmentation in PET/CT and longitudinal CT.",
    help_format="markdown",
    version=__version__,
    default_parameter=Parameter(negative="", show_default=_show_default),
    result_action="return_value",
    exit_on_error=False,
    print_error=False,
)
for command in (
    view,
    replay,
    evaluate,
    card,
    score,
    phantom,
    longitudinal_phantom,
    clicks,
    dataset,
    train,
    export,
    held_out,
    cohort,
    suggest,
    export_dicom,
):
    app.command(command)
app.command(import_study, name="import")


@app.meta.default
def _run(
    *tokens: Annotated[str, Parameter(show=False, allow_leading_hyphen=True)], verbose: bool = False
) -> int | None:
    """Run one command.

    Parameters
    ----------
    tokens
        The command and its arguments.
    verbose
        Log every stage and the origin of errors.
    """
    level = logging.DEBUG if verbose else logging.WARNING
    console = logging.StreamHandler()
    console.setLevel(level)
    logging.basicConfig(level=level, format="%(levelname)s %(name)s: %(message)s", handlers=[console])
    code: int | None = app(tokens)
    return code


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Returns
    -------
    int
        0; 1 for bad input or scores that are not as expected; 2 for a broken model or wrong usage; 3 for the rest.
    """
    try:
        return app.meta(arguments) or 0
    except Exception as error:
        code, message, level = _explain(error)
        logger.log(level, "where the error came from", exc_info=True)
        print(f"error: {message}", file=sys.stderr)
        return code


def _explain(error: Exception) -> tuple[int, str, int]:
    """Return exit code and message of an error, and the level at which the log tells where it came from."""
    match error:
        case CycloptsError():
            return 2, str(error), logging.DEBUG
        case LesionClickError():
            return error.exit_code, str(error), logging.DEBUG
        case OSError():
            return 3, str(error), logging.DEBUG
        case ModuleNotFoundError(name=str(name)) if not name.startswith("lesionclick"):
            extras = "eval,cohort,dicom"
            message = f"expected the package {name}, found none; in the checkout: pip install '.[{extras}]'"
            return 3, message, logging.DEBUG
        case _:
            return 3, f"unexpected {type(error).__name__}: {error}", logging.ERROR


if __name__ == "__main__":
    sys.exit(main())
