"""The click files of an open case: written as points are set, and read when it is opened again."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from lesionclick.grand_challenge.click_files import read_clicks, write_clicks
from lesionclick.grand_challenge.image_files import require_writable
from lesionclick.images import unwritable
from lesionclick.prompts.points import Prompts


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
        require_writable(folder)
        self.folder = folder
        self.names = names

    @property
    def paths(self) -> list[Path]:
        """The click files that are there."""
        return [path for path in (self.folder / name for name in self.names) if path.is_file()]

    def read(self) -> dict[str, Prompts] | None:
        """Return the clicks by name of the file; None where a file is missing, as before the first click.

        Raises
        ------
        InputError
            If a file is broken.
        """
        if len(self.paths) < len(self.names):
            return None
        return {path.name: read_clicks(path, names=None) for path in self.paths}

    def write(self, clicks: Mapping[str, Prompts]) -> None:
        """Write click files; each appears whole or not at all.

        Raises
        ------
        InputError
            If that fails.
        """
        for name, prompts in clicks.items():
            temporary = self.folder / f".{os.getpid()}.{name}"
            try:
                write_clicks(temporary, prompts)
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                temporary.replace(self.folder / name)
            except OSError as error:
                temporary.unlink(missing_ok=True)
                raise unwritable(self.folder, error) from error
