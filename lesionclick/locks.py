"""A lock on a file, for folders that one process at a time may write to."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.images import unwritable


@contextmanager
def locked(path: Path, taken: str) -> Iterator[None]:
    """Keep all other processes that ask for a lock out as long as the context lasts; the system frees it in any case.

    Parameters
    ----------
    path
        File that is locked; made where it is missing, in a folder that is there.
    taken
        Message of the error if another process holds it.

    Raises
    ------
    InputError
        If another process holds it, or the file cannot be written.
    """
    try:
        file = path.open("w")
    except OSError as error:
        raise unwritable(path.parent, error) from error
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InputError(taken) from error
        except OSError as error:  # as on a share that knows no locks
            raise unwritable(path.parent, error) from error
        yield
