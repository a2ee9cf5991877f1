"""A case as the platform lays it out: which interface it belongs to, and where each of its files lies."""

from __future__ import annotations

import hashlib
import json
import reprlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath

from lesionclick.errors import InputError
from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.grand_challenge.image_files import ImageFile, find_image, require_writable
from lesionclick.grand_challenge.interfaces import INTERFACES, Interface, Socket, locate
from lesionclick.images import unwritable

LISTING = "inputs.json"
"""The file in which the platform lists the sockets of a case."""

_SHORT = reprlib.Repr()  # of what was found, which may be anything: long enough for all that Task 2 has
_SHORT.maxlist, _SHORT.maxstring = 12, 60


@dataclass(frozen=True)
class CaseFolder:
    """The input folder of one case.

    Attributes
    ----------
    path
        Such as `/input`.
    interface
        The interface that its files belong to.
    """

    path: Path
    interface: Interface

    @classmethod
    def open(cls, path: Path) -> CaseFolder:
        """Tell which interface a folder belongs to.

        Where `LISTING` exists, its relative paths decide; otherwise the folders in `images` and the JSON files do.

        Raises
        ------
        InputError
            If the listing is broken, or the sockets are not exactly those of one interface. The message tells the
            known ones of the tasks that share a socket with the case, and all where none does.
        """
        listing = path / LISTING
        try:
            if not path.is_dir():
                raise InputError(f"{path}: expected the folder of a case, found none")
            is_listed = listing.exists()
        except OSError as error:
            raise InputError(f"{path}: expected a readable folder, found {error}") from error
        found = _listed(locate(path, LISTING)) if is_listed else _present(path)
        for interface in (interface for task in INTERFACES for interface in task):
            if sorted(found) == sorted(_paths(interface)):
                return cls(path, interface)
        source = listing if is_listed else path
        shown = _SHORT.repr(sorted(found)) if found else "nothing"
        raise InputError(f"{source}: expected {_describe(_likely(found))}; found {shown}")

    def image(self, socket: Socket) -> ImageFile:
        """Find the image of a socket; see `ImageFile.find`."""
        if socket not in self._images:
            self._images[socket] = ImageFile.find(self.path, socket)
        return self._images[socket]

    def json(self, socket: Socket) -> Path:
        """Return the path of a socket's JSON file.

        Raises
        ------
        InputError
            If symbolic links lead from there out of the folder.
        """
        return locate(self.path, socket.relative_path)

    def mask_paths(self, output_dir: Path) -> dict[Socket, Path]:
        """Return where the platform wants each mask, in the order of the interface."""
        return {
            output.socket: output_dir / output.socket.relative_path / f"{self.image(output.named_after).path.stem}.mha"
            for output in self.interface.outputs
        }

    def prepare_output(self, output_dir: Path) -> None:
        """Make the folders of the masks and try to write into them, so that a case does not fail after all the work.

        Raises
        ------
        InputError
            If either fails.
        """
        for output in self.interface.outputs:
            require_writable(output_dir / output.socket.relative_path)

    def fingerprint(self, without: Collection[Socket] = ()) -> str:
        """Return a digest of the content of all input files but those of some sockets.

        Raises
        ------
        InputError
            If a file is missing or broken.
        """
        digest = hashlib.blake2b(self.interface.name.encode())
        for socket in self.interface.inputs:
            if socket not in without:
                digest.update(self._digest(socket))
        return digest.hexdigest()

    def _digest(self, socket: Socket) -> bytes:
        if socket.kind == "json":
            return repr(read_clicks(self.json(socket), names=None)).encode()
        path = find_image(self.path, socket)
        try:
            with path.open("rb") as file:
                return hashlib.file_digest(file, hashlib.blake2b).digest()
        except OSError as error:
            raise InputError(f"{path}: expected a readable file, found {error}") from error

    @cached_property
    def _images(self) -> dict[Socket, ImageFile]:
        return {}


def remove_masks(input_dir: Path, output_dir: Path) -> None:
    """Remove masks of earlier runs from where the platform wants those of the case in `input_dir`; other files stay.

    The names are told from those of the input files alone, which need neither be images nor those of an interface.

    Raises
    ------
    InputError
        If that fails.
    """
    for output in dict.fromkeys(output for task in INTERFACES for interface in task for output in interface.outputs):
        folder = output_dir / output.socket.relative_path
        for image in locate(input_dir, output.named_after.relative_path).glob("*"):
            try:
                (folder / f"{image.stem}.mha").unlink(missing_ok=True)
            except OSError as error:
                raise unwritable(folder, error) from error


def _likely(found: Sequence[str]) -> list[Interface]:
    """Return the interfaces of the tasks that share a socket with what was found, or all."""
    tasks = [task for task in INTERFACES if any(set(found) & set(_paths(interface)) for interface in task)]
    return [interface for task in tasks or INTERFACES for interface in task]


def _describe(interfaces: Sequence[Interface]) -> str:
    return "; or ".join(f"{', '.join(_paths(interface))} ({interface.name})" for interface in interfaces)


def _paths(interface: Interface) -> list[str]:
    return [socket.relative_path for socket in interface.inputs]


def _listed(listing: Path) -> list[str]:
    if not listing.is_file():
        raise InputError(f"{listing}: expected a file, found a folder or device")
    try:
        content = json.loads(listing.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{listing}: expected a JSON list of sockets, found {error}") from error
    try:
        return [str(PurePosixPath(entry["socket"]["relative_path"])) for entry in content]
    except (KeyError, TypeError) as error:
        raise InputError(
            f"{listing}: expected a list of objects with socket and its relative_path, found {reprlib.repr(content)}"
        ) from error


def _present(folder: Path) -> list[str]:
    try:
        folders = [path for path in folder.glob("images/*") if path.is_dir()]
        return [path.relative_to(folder).as_posix() for path in (*folders, *folder.glob("*.json"))]
    except OSError as error:
        raise InputError(f"{folder}: expected a readable folder, found {error}") from error
