"""JSON files read as values of a type, with errors that name the file, the place in it, and what is wrong there."""

from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import AfterValidator, TypeAdapter, ValidationError

from lesionclick.errors import InputError
from lesionclick.evaluation.measures import MEASURES

T = TypeVar("T")


def _require_known(key: str) -> str:
    if key not in MEASURES:
        raise ValueError(f"unknown measure {key!r}")
    return key


Values = dict[Annotated[str, AfterValidator(_require_known)], float | None]
"""Value of each measure by its key; None where it is not defined (NaN)."""


def read_json(kind: TypeAdapter[T], path: Path, expected: str) -> T:
    """Read a file.

    Parameters
    ----------
    kind
        What it holds.
    path
        Of the file.
    expected
        The same in words, for the error.

    Raises
    ------
    InputError
        If it cannot be read, or holds something else.
    """
    try:
        return kind.validate_json(path.read_bytes())
    except OSError as error:
        raise InputError(f"{path}: expected {expected}, found {error}") from error
    except ValidationError as error:
        raise InputError(f"{path}: expected {expected}, found {_describe(error)}") from error


def _describe(error: ValidationError) -> str:
    """Return what is wrong first, in one line."""
    first = error.errors(include_url=False, include_context=False, include_input=False)[0]
    place = " / ".join(map(str, first["loc"]))
    return f"{place}: {first['msg']}" if place else first["msg"]
