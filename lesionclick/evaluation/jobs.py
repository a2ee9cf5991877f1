"""One job as the platform runs it, with an `/input` and an `/output` of its own; the same for both tasks.

A case folder is laid out as the platform lays out `/input`, with all of its clicks; a job sees some of them. It runs
either in this process or in a container engine, and what it leaves behind is checked against the platform's rules.
"""

import json
import logging
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Protocol, TypeAlias

import numpy as np
import SimpleITK as sitk

from lesionclick.errors import InputError, LesionClickError
from lesionclick.evaluation.measures import MaskPair
from lesionclick.grand_challenge.case_folder import LISTING, CaseFolder
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.grand_challenge.image_files import require_writable
from lesionclick.grand_challenge.interfaces import Socket
from lesionclick.images import ITK_ERRORS, Grid, Volume, itk_reason, replacing, require_same_grid
from lesionclick.petct.rules import RulesActed
from lesionclick.prompts.points import Prompts

logger = logging.getLogger(__name__)


class Done(Protocol):
    """What `lesionclick.algorithm.Algorithm.handle` returns."""

    @property
    def segmentation(self) -> object:
        """What the session of the case's task returned."""


Run: TypeAlias = Callable[[Path, Path], Done | RulesActed | None]
"""Handles the case in the first folder and leaves its masks in the second, or raises.

Returns what it can tell of how it came to them: all in this process, what the rules did from a server, nothing from a
container that runs one job."""


class ReplayError(LesionClickError):
    """A job failed, or left something else than the masks that the platform wants."""


@dataclass(frozen=True)
class Job:
    """What one job left behind.

    Attributes
    ----------
    masks
        Files of the replay's output.
    seconds
        How long the job took.
    told
        What `Run` returned.
    """

    masks: Mapping[Socket, Path]
    seconds: float
    told: Done | RulesActed | None

    def pairs(self, labels: Mapping[Socket, Volume]) -> dict[Socket, MaskPair]:
        """Read the masks that have a label and put each beside it."""
        return {
            socket: MaskPair(label.array, Volume.read(self.masks[socket]).array, label.grid.spacing_zyx)
            for socket, label in labels.items()
        }


@dataclass(frozen=True)
class Jobs:
    """The jobs of one case, one for each step.

    Attributes
    ----------
    folder
        The case, with all of its clicks.
    run
        What handles a job.
    kept
        Folder for the masks, made if it is not there.
    names
        What the mask of each output is called there, with the step for ``{step:02d}``.
    """

    folder: CaseFolder
    run: Run
    kept: Path
    names: Mapping[Socket, str]

    @property
    def case_name(self) -> str:
        """Name of the case's folder."""
        return self.folder.path.name

    def run_step(self, step: int | None, clicks: Mapping[Socket, Prompts]) -> Job:
        """Run one job in fresh folders, check its masks and keep them.

        Parameters
        ----------
        step
            The challenge's number of the step; None for the one job of a case without steps.
        clicks
            Clicks by the socket whose file they replace; the case's other files stay as they are.

        Raises
        ------
        LesionClickError
            If the job fails or breaks the output contract, with the name of the case and the step.
        """
        require_writable(self.kept)
        masks = {socket: self.kept / name.format(step=step) for socket, name in self.names.items()}
        for path in masks.values():
            path.unlink(missing_ok=True)  # of an earlier replay: a job that fails leaves none
        where = self.case_name if step is None else f"{self.case_name}, step {step}"
        try:
            with tempfile.TemporaryDirectory(prefix="lesionclick-") as temporary:
                input_dir, output_dir = Path(temporary, "input"), Path(temporary, "output")
                lay_out(self.folder.path, input_dir, clicks)
                output_dir.mkdir()
                output_dir.chmod(0o777)  # the container's user is not ours
                start = perf_counter()
                told = self.run(input_dir, output_dir)
                seconds = perf_counter() - start
                for socket, path in check_outputs(self.folder, output_dir).items():
                    with replacing(masks[socket]) as kept:
                        shutil.copyfile(path, kept)
        except LesionClickError as error:
            raise type(error)(f"{where}: {error}") from error
        except Exception as error:
            raise ReplayError(f"{where}: {type(error).__name__}: {error}") from error
        return Job(masks, seconds, told)


def find_cases(folder: Path) -> list[Path]:
    """List the case folders in `folder`, of either task, or `folder` alone if it is one; their paths are absolute.

    Raises
    ------
    InputError
        If there is none.
    """
    folder = Path(os.path.abspath(folder))  # so that "." and ".." have a name; a link keeps its own
    cases = [folder] if (folder / "images").is_dir() else sorted(p.parent for p in folder.glob("*/images"))
    if not cases:
        raise InputError(f"{folder}: expected a case (with a folder images) or a folder of cases, found none")
    return cases


def label_paths(labels: Path, case: str, parts: Mapping[Socket, str]) -> dict[Socket, Path]:
    """Return where the true mask of each output lies: `<case>.mha`, or `<case>/<part>.mha`.

    Parameters
    ----------
    labels
        Folder of the labels of all cases.
    case
        Name of the case.
    parts
        Which part of the case each output shows, empty for the whole.
    """
    return {socket: labels / case / f"{part}.mha" if part else labels / f"{case}.mha" for socket, part in parts.items()}


def read_labels(folder: CaseFolder, paths: Mapping[Socket, Path], *, numbered: bool = False) -> dict[Socket, Volume]:
    """Read the true mask of each output; return none, with a warning, where a file is missing.

    Parameters
    ----------
    folder
        The case.
    paths
        File of each output's label; none at all where no labels are wanted.
    numbered
        Whether each voxel has to hold the number of its lesion.

    Raises
    ------
    InputError
        If a label is no such image, or lies on another grid than its mask has to.
    """
    missing = [str(path) for path in paths.values() if not path.is_file()]
    if missing:
        logger.warning("%s: no label %s, steps are not scored", folder.path.name, " and ".join(missing))
        return {}
    labels = {socket: Volume.read(path) for socket, path in paths.items()}
    images = {output.socket: folder.image(output.named_after) for output in folder.interface.outputs}
    for socket, label in labels.items():
        kind = label.array.dtype
        if numbered and (not np.issubdtype(kind, np.integer) or label.array.min() < 0):
            expected = "the number of a lesion, 0 or more, in every voxel"
            raise InputError(f"{paths[socket]}: expected {expected}, found {kind} from {label.array.min()}")
        if not np.isfinite(label.array).all():
            raise InputError(f"{paths[socket]}: expected a mask, found voxels that are NaN or infinite")
        require_same_grid(label.grid, images[socket].grid, f"label {paths[socket]}", str(images[socket]))
    return labels


def lay_out(case: Path, input_dir: Path, clicks: Mapping[Socket, Prompts]) -> None:
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


def check_outputs(folder: CaseFolder, output_dir: Path) -> dict[Socket, Path]:
    """Check what a job left in its `/output` and return the masks' paths.

    Parameters
    ----------
    folder
        The case.
    output_dir
        Where the job had to leave its masks.

    Raises
    ------
    ReplayError
        Unless there is exactly one file for each output, where the platform wants it, a compressed 3-D image of
        unsigned integers on the grid of the image that it is named after.
    """
    expected = folder.mask_paths(output_dir)
    found = sorted(path for path in output_dir.rglob("*") if not path.is_dir())
    if found != sorted(expected.values()):
        wanted, names = ([str(path.relative_to(output_dir)) for path in paths] for paths in (expected.values(), found))
        raise ReplayError(f"output: expected exactly {', '.join(wanted)}, found {names or 'nothing'}")
    for output in folder.interface.outputs:
        image = folder.image(output.named_after)
        _check_mask(expected[output.socket], image.grid, str(image))
    return expected


def _check_mask(path: Path, grid: Grid, image_name: str) -> None:
    try:
        image = sitk.ReadImage(str(path))
    except ITK_ERRORS as error:
        raise ReplayError(f"{path}: expected an image, found: {itk_reason(error)}") from error
    kind = image.GetPixelIDTypeAsString()
    if image.GetDimension() != 3 or "unsigned integer" not in kind or "vector" in kind:
        raise ReplayError(
            f"{path.name}: expected a 3-D mask of unsigned integers, found {image.GetDimension()}-D {kind}"
        )
    try:
        require_same_grid(Grid.from_image(image), grid, "mask", image_name)
    except InputError as error:
        raise ReplayError(f"{path.name}: {error}") from error
    header = path.read_bytes().partition(b"ElementDataFile")[0]
    if b"CompressedData = True" not in header:
        raise ReplayError(f"{path.name}: expected a compressed image, found CompressedData = False")
