"""The click files of an open case: written as points are set, and read when it is opened again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from lesionclick.errors import InputError
from lesionclick.grand_challenge.click_files import read_clicks, read_lesion_points, write_clicks
from lesionclick.grand_challenge.image_files import require_writable
from lesionclick.grand_challenge.interfaces import LESION_CLICKS
from lesionclick.images import Grid, itk_name, replacing, require_same_grid
from lesionclick.locks import locked
from lesionclick.prompts.points import Point, Prompts

IMAGES = "clicked-images.json"
"""The file that tells on which voxel grid the points of each click file lie."""

_GRIDS = TypeAdapter(dict[str, Grid])


class Records:
    """The folder that a reading writes to.

    Parameters
    ----------
    folder
        Is made where it is missing.
    names
        Of the click files.

    Raises
    ------
    InputError
        If the folder cannot be made or written to.
    """

    def __init__(self, folder: Path, names: tuple[str, ...]) -> None:
        itk_name(folder)  # that masks will be written to
        require_writable(folder)
        self.folder = folder
        self.names = names

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep all other processes that ask for it out of the folder as long as the context lasts.

        Raises
        ------
        InputError
            If another one is at work there, or the folder cannot be written to.
        """
        taken = (
            f"{self.folder}: expected no other `lesionclick view` that writes there, found one; "
            "stop it, or choose another folder with --output"
        )
        with locked(self.folder / ".lock", taken):
            yield

    @property
    def paths(self) -> list[Path]:
        """The click files that are there."""
        return [path for path in (self.folder / name for name in self.names) if path.is_file()]

    def read(self, grids: Mapping[str, Grid]) -> dict[str, Prompts] | None:
        """Return the clicks by name of the file; None where there is no file, as before the first click.

        Parameters
        ----------
        grids
            Of the images that are open, by name of the click file. A file of which no grid is written is believed.

        Raises
        ------
        InputError
            If a file is missing beside another, is broken, has a point of no kind of its task, or was written for an
            image on another grid.
        """
        written = self._grids()
        for path in self.paths:
            if path.name in written:
                _require_own(path, grids[path.name], written[path.name])
        if not self.paths:
            return None
        if missing := set(self.names) - {path.name for path in self.paths}:
            found = ", ".join(path.name for path in self.paths)
            raise InputError(
                f"{self.folder}: expected {', '.join(sorted(missing))} beside {found}, found none; put it back, "
                "remove the others, or choose another folder by --output"
            )
        return {path.name: _read(path) for path in self.paths}

    def write(self, clicks: Mapping[str, Prompts], grids: Mapping[str, Grid]) -> None:
        """Write click files, and on which grids they lie; each file appears whole, and none unless all can be written.

        Raises
        ------
        InputError
            If that fails.
        """
        with ExitStack() as files:
            for name, prompts in clicks.items():
                write_clicks(files.enter_context(replacing(self.folder / name)), prompts)
            before = self._grids()
            if (after := {**before, **grids}) != before:  # is entered last and so replaced first
                files.enter_context(replacing(self.folder / IMAGES)).write_bytes(_GRIDS.dump_json(after, indent=2))

    def _grids(self) -> dict[str, Grid]:
        path = self.folder / IMAGES
        try:
            return _GRIDS.validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except (OSError, ValidationError) as error:
            raise InputError(f"{path}: expected the grids that clicks lie on, found {error}") from error


def _read(path: Path) -> Prompts:
    """Read a click file, whose name tells which names its points may have."""
    if path.name == LESION_CLICKS.relative_path:
        return read_clicks(path)
    return Prompts(tuple(Point(f"Lesion {number}", point) for number, point in read_lesion_points(path).items()))


def _require_own(path: Path, grid: Grid, written: Grid) -> None:
    try:
        require_same_grid(grid, written, "the image that is open", "the image of the clicks")
    except InputError as error:
        raise InputError(
            f"{path}: expected clicks on the image that is open, {grid}, found clicks on another image, {written}; "
            "choose another folder with --output"
        ) from error
