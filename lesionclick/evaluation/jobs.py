"""One job as the platform runs it, with an `/input` and an `/output` of its own; the same for both tasks.

A case folder is laid out as the platform lays out `/input`, with all of its clicks; a job sees some of them. It runs
either in this process or in a container engine, and what it leaves behind is checked against the platform's rules.
"""

import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import SimpleITK as sitk

from lesionclick.errors import InputError, LesionClickError
from lesionclick.grand_challenge.interfaces import LISTING, Socket
from lesionclick.images import Grid, Volume, require_same_grid
from lesionclick.petct.case import mask_path
from lesionclick.prompts.points import Click, write_clicks

Run = Callable[[Path, Path], object]
"""Handles the case in the first folder and leaves its masks in the second, or raises."""


class ReplayError(LesionClickError):
    """A job failed, or left something else than the masks that the platform wants."""


@dataclass(frozen=True)
class Output:
    """A mask that a job owes.

    Attributes
    ----------
    socket : Socket
        Where the platform wants it.
    stem : str
        Its file's name without the ending.
    grid : Grid
        Its voxels, those of the image called `reference` in messages.
    reference : str
        See `grid`.
    kept : Path
        Where the replay keeps it.
    """

    socket: Socket
    stem: str
    grid: Grid
    reference: str
    kept: Path


def find_cases(folder: Path) -> list[Path]:
    """List the case folders in `folder`, of either task, or `folder` alone if it is one.

    Raises
    ------
    InputError
        If there is none.
    """
    cases = [folder] if (folder / "images").is_dir() else sorted(p.parent for p in folder.glob("*/images"))
    if not cases:
        raise InputError(f"{folder}: expected a case (with a folder images) or a folder of cases, found none")
    return cases


def run_job(
    case: Path, step: int, clicks: Mapping[Socket, Sequence[Click]], run: Run, outputs: Sequence[Output]
) -> tuple[float, str]:
    """Run one job in fresh folders, check its masks and keep them.

    Parameters
    ----------
    case : Path
        Case folder.
    step : int
        The challenge's number of the step, for messages.
    clicks : mapping
        Clicks by the socket whose file they replace; the case's other files stay as they are.
    run : callable
        The job, see `Run`.
    outputs : sequence of Output
        All that it has to leave.

    Returns
    -------
    seconds : float
        How long the job took.
    log : str
        What the package logged meanwhile, a container's output included.

    Raises
    ------
    LesionClickError
        If the job fails or breaks the output contract, with the name of the case and the step.
    """
    try:
        with _captured_log() as log, tempfile.TemporaryDirectory(prefix="lesionclick-") as temporary:
            input_dir, output_dir = Path(temporary, "input"), Path(temporary, "output")
            lay_out(case, input_dir, clicks)
            output_dir.mkdir()
            output_dir.chmod(0o777)  # the container's user is not ours
            start = perf_counter()
            run(input_dir, output_dir)
            seconds = perf_counter() - start
            for path, output in zip(check_outputs(output_dir, outputs), outputs, strict=True):
                shutil.copyfile(path, output.kept)
    except LesionClickError as error:
        raise type(error)(f"{case.name}, step {step}: {error}") from error
    except Exception as error:
        raise ReplayError(f"{case.name}, step {step}: {type(error).__name__}: {error}") from error
    return seconds, "\n".join(log)


def lay_out(case: Path, input_dir: Path, clicks: Mapping[Socket, Sequence[Click]]) -> None:
    """Copy a case folder to `input_dir` with `clicks` in the files of their sockets, as the platform does for one step.

    Where the case has an `inputs.json`, the clicks in it are replaced too. All is made readable for any user, because
    the container's user is not ours.
    """
    shutil.copytree(case, input_dir)
    for socket, given in clicks.items():
        write_clicks(input_dir / socket.relative_path, given)
    listing = input_dir / LISTING
    if listing.exists():
        entries = json.loads(listing.read_bytes())
        replaced = {socket.relative_path for socket in clicks}
        for entry in entries:
            relative_path = entry["socket"]["relative_path"]
            if relative_path in replaced:
                entry["value"] = json.loads((input_dir / relative_path).read_bytes())
        listing.write_text(json.dumps(entries, indent=2), encoding="utf-8")
    for path in (input_dir, *input_dir.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def check_outputs(output_dir: Path, outputs: Sequence[Output]) -> list[Path]:
    """Check what a job left in its `/output` and return the masks' paths, in the order of `outputs`.

    Raises
    ------
    ReplayError
        Unless there is exactly one file for each output, in its socket's folder and with its stem, a compressed 3-D
        image of unsigned integers on its grid.
    """
    expected = [mask_path(output_dir, output.socket, output.stem) for output in outputs]
    found = sorted(path for path in output_dir.rglob("*") if not path.is_dir())
    if found != sorted(expected):
        wanted, names = ([str(path.relative_to(output_dir)) for path in paths] for paths in (expected, found))
        raise ReplayError(f"output: expected exactly {', '.join(wanted)}, found {names or 'nothing'}")
    for path, output in zip(expected, outputs, strict=True):
        _check_mask(path, output)
    return expected


def _check_mask(path: Path, output: Output) -> None:
    try:
        image = _read_image(path)
    except InputError as error:
        raise ReplayError(str(error)) from error
    kind = image.GetPixelIDTypeAsString()
    if image.GetDimension() != 3 or "unsigned integer" not in kind or "vector" in kind:
        raise ReplayError(
            f"{path.name}: expected a 3-D mask of unsigned integers, found {image.GetDimension()}-D {kind}"
        )
    try:
        require_same_grid(Grid.from_image(image), output.grid, "mask", output.reference)
    except InputError as error:
        raise ReplayError(f"{path.name}: {error}") from error
    header = path.read_bytes().partition(b"ElementDataFile")[0]
    if b"CompressedData = True" not in header:
        raise ReplayError(f"{path.name}: expected a compressed image, found CompressedData = False")


def read_volume(path: Path) -> Volume:
    """Read an image file.

    Raises
    ------
    InputError
        If there is no such file, or it is no image.
    """
    image = _read_image(path)
    return Volume(sitk.GetArrayFromImage(image), Grid.from_image(image))


def _read_image(path: Path) -> sitk.Image:
    try:
        return sitk.ReadImage(str(path))
    except RuntimeError as error:
        raise InputError(f"{path}: expected an image, found: {str(error).strip().splitlines()[-1]}") from error


@contextmanager
def _captured_log() -> Iterator[list[str]]:
    """Collect what the package logs, a container's output included, whatever the console shows of it."""
    log: list[str] = []
    package, handler = logging.getLogger("lesionclick"), logging.Handler()
    handler.emit = lambda record: log.append(record.getMessage())  # type: ignore[method-assign]
    level = package.level
    package.addHandler(handler)
    package.setLevel(min(logging.INFO, package.getEffectiveLevel()))
    try:
        yield log
    finally:
        package.removeHandler(handler)
        package.setLevel(level)
