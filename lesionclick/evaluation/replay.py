"""Replay of the platform: one job per step, each with an `/input` and an `/output` of its own.

A case folder is laid out as the platform lays out `/input`, with all of its clicks. Step k is a job that sees the first
k tumour and the first k background clicks. The job runs either in this process or in a container engine; what it
leaves behind is checked against the platform's rules, and scored where a label is there.
"""

import json
import logging
import re
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import numpy as np
import SimpleITK as sitk
from tqdm import tqdm

from lesionclick.case import PetCtCase, mask_path
from lesionclick.clicks import Click, at_step, clicks_from_indices, write_clicks
from lesionclick.errors import InputError, LesionClickError
from lesionclick.evaluation.metrics import Scores, score
from lesionclick.images import Grid, Volume, require_same_grid
from lesionclick.interfaces import LESION_CLICKS
from lesionclick.simulation.clicks import corrective_pair

logger = logging.getLogger(__name__)

STEPS = tuple(range(11))
"""The challenge's steps: step 0 has no click, step 10 has ten of each kind."""

_RULES = re.compile(r"rules: corrected (\d+) of \d+ tumour and (\d+) of \d+ background clicks, removed (\d+) unmarked")
"""The line in which `lesionclick.petct` logs how often its rules acted."""

Run = Callable[[Path, Path], object]
"""Handles the case in the first folder and leaves its mask in the second, or raises."""


class ReplayError(LesionClickError):
    """A job failed, or left something else than the one mask that the platform wants."""


@dataclass(frozen=True)
class Step:
    """One job.

    Attributes
    ----------
    number : int
        The challenge's number of the step.
    clicks : tuple of Click
        What the job saw.
    mask : Path
        What it left, a file of the replay's output.
    scores : Scores, optional
        Where there is a label.
    seconds : float
        How long it took.
    acted : (int, int, int), optional
        How often the rules after the network acted, where the job's log tells: tumour and background clicks that were
        corrected, components that were removed.
    """

    number: int
    clicks: tuple[Click, ...]
    mask: Path
    scores: Scores | None
    seconds: float
    acted: tuple[int, int, int] | None = None


@dataclass(frozen=True)
class Replay:
    """All steps of one case, with the images that a report shows."""

    name: str
    pet: Volume
    label: Volume | None
    steps: tuple[Step, ...]


def find_cases(folder: Path) -> list[Path]:
    """List the case folders in `folder`, or `folder` alone if it is one.

    Raises
    ------
    InputError
        If there is none.
    """
    cases = [folder] if (folder / "images").is_dir() else sorted(p.parent for p in folder.glob("*/images"))
    if not cases:
        raise InputError(f"{folder}: expected a case (with a folder images) or a folder of cases, found none")
    return cases


def replay_cases(
    cases: Iterable[Path],
    run: Run,
    output: Path,
    *,
    steps: Sequence[int] = STEPS,
    labels: Path | None = None,
    corrective: bool = False,
) -> Iterator[Replay]:
    """Replay cases one after the other, with a progress bar on a terminal.

    Parameters
    ----------
    cases : iterable of Path
        Case folders in the platform's layout.
    run : callable
        The job, see `Run`.
    output : Path
        Masks go to `<output>/<case>/step_<kk>.mha`.
    steps : sequence of int
        Steps to run.
    labels : Path, optional
        Folder of true masks, `<case>.mha`. A case without one is replayed without a score.
    corrective : bool
        Ignore the case's clicks; put each next pair into the largest error of the last mask.

    Raises
    ------
    LesionClickError
        If any step of any case fails or breaks the output contract, with the name of the case and the step.
    """
    for folder in cases:
        path = labels / f"{folder.name}.mha" if labels else None
        if path and not path.is_file():
            logger.warning("%s: no label %s, steps are not scored", folder.name, path)
            path = None
        yield replay_case(folder, run, output / folder.name, steps=steps, label=path, corrective=corrective)


def replay_case(
    folder: Path,
    run: Run,
    output: Path,
    *,
    steps: Sequence[int] = STEPS,
    label: Path | None = None,
    corrective: bool = False,
) -> Replay:
    """Replay one case; the arguments are those of `replay_cases`, with `output` and `label` of this case alone."""
    case = PetCtCase.read(folder)
    truth = read_volume(label) if label else None
    if truth:
        require_same_grid(truth, case.pet, "label", "PET")
    if corrective and (truth is None or tuple(steps) != tuple(range(len(steps)))):
        raise InputError(f"{folder.name}: corrective clicks need a label and steps 0, 1, 2, ..., found {list(steps)}")

    output.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    clicks = () if corrective else case.clicks
    done = []
    for number in tqdm(steps, desc=folder.name, unit="step", disable=None):
        given = at_step(clicks, number)
        mask = output / f"step_{number:02d}.mha"
        try:
            with _captured_log() as log:
                seconds = _run_step(folder, case, given, run, mask)
        except LesionClickError as error:
            raise type(error)(f"{folder.name}, step {number}: {error}") from error
        except Exception as error:
            raise ReplayError(f"{folder.name}, step {number}: {type(error).__name__}: {error}") from error
        prediction = read_volume(mask)
        scores = score(truth.array, prediction.array, prediction.grid.voxel_ml) if truth else None
        done.append(Step(number, given, mask, scores, seconds, _find_acted(log)))
        if corrective and truth:
            clicks += _corrective_clicks(truth, prediction, rng)
    return Replay(folder.name, case.pet, truth, tuple(done))


def _run_step(folder: Path, case: PetCtCase, clicks: tuple[Click, ...], run: Run, mask: Path) -> float:
    """Run one job in fresh folders, copy its checked mask to `mask`, return the seconds that the job took."""
    with tempfile.TemporaryDirectory(prefix="lesionclick-") as temporary:
        input_dir, output_dir = Path(temporary, "input"), Path(temporary, "output")
        lay_out_step(folder, input_dir, clicks)
        output_dir.mkdir()
        output_dir.chmod(0o777)  # the container's user is not ours
        start = perf_counter()
        run(input_dir, output_dir)
        seconds = perf_counter() - start
        shutil.copyfile(check_output(output_dir, case), mask)
    return seconds


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


def _find_acted(log: list[str]) -> tuple[int, int, int] | None:
    found = _RULES.search("\n".join(log))
    return (int(found[1]), int(found[2]), int(found[3])) if found else None


def lay_out_step(case: Path, input_dir: Path, clicks: tuple[Click, ...]) -> None:
    """Copy a case folder to `input_dir` with `clicks` instead of its own, as the platform does for one step.

    Where the case has an `inputs.json`, the clicks in it are replaced too. All is made readable for any user, because
    the container's user is not ours.
    """
    shutil.copytree(case, input_dir)
    click_file = input_dir / LESION_CLICKS.relative_path
    write_clicks(click_file, clicks)
    listing = input_dir / "inputs.json"
    if listing.exists():
        sockets = json.loads(listing.read_bytes())
        for entry in sockets:
            if entry["socket"]["relative_path"] == LESION_CLICKS.relative_path:
                entry["value"] = json.loads(click_file.read_bytes())
        listing.write_text(json.dumps(sockets, indent=2), encoding="utf-8")
    for path in (input_dir, *input_dir.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)


def check_output(output_dir: Path, case: PetCtCase) -> Path:
    """Check what a job left in its `/output` and return the mask's path.

    Raises
    ------
    ReplayError
        Unless there is exactly one file, in the socket's folder and with the CT's stem, a compressed 3-D image of
        unsigned integers on the PET's grid.
    """
    expected = mask_path(output_dir, case)
    found = sorted(path for path in output_dir.rglob("*") if not path.is_dir())
    if found != [expected]:
        names = [str(path.relative_to(output_dir)) for path in found]
        raise ReplayError(f"output: expected exactly {expected.relative_to(output_dir)}, found {names or 'nothing'}")

    try:
        image = _read_image(expected)
    except InputError as error:
        raise ReplayError(str(error)) from error
    kind = image.GetPixelIDTypeAsString()
    if image.GetDimension() != 3 or "unsigned integer" not in kind or "vector" in kind:
        raise ReplayError(
            f"{expected.name}: expected a 3-D mask of unsigned integers, found {image.GetDimension()}-D {kind}"
        )
    try:
        require_same_grid(Grid.from_image(image), case.pet, "mask", "PET")
    except InputError as error:
        raise ReplayError(f"{expected.name}: {error}") from error
    header = expected.read_bytes().partition(b"ElementDataFile")[0]
    if b"CompressedData = True" not in header:
        raise ReplayError(f"{expected.name}: expected a compressed image, found CompressedData = False")
    return expected


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


def _corrective_clicks(label: Volume, prediction: Volume, rng: np.random.Generator) -> tuple[Click, ...]:
    tumor, background = (
        np.empty((0, 3), dtype=np.int64) if click is None else click[None]
        for click in corrective_pair(label.array > 0, prediction.array > 0, rng)
    )
    return clicks_from_indices(tumor, background)
