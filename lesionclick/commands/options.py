"""Options that several commands share."""

from collections.abc import Sequence
from typing import Annotated, Any

from cyclopts import Parameter, Token
from cyclopts.types import NonNegativeInt, PositiveFloat


def _require_part(_type: Any, value: tuple[float, float] | None) -> None:
    if value is not None and not 0 <= value[0] < value[1] <= 1:
        raise ValueError("Expected two numbers from 0 to 1, the lower one first.")


def read_steps(_type: Any, tokens: Sequence[Token]) -> tuple[int, ...]:
    """Read numbers and ranges from 0 to 10, such as ``0..10`` or ``0,5,10``."""
    text = ",".join(token.value for token in tokens)
    try:
        ranges = [[int(number) for number in part.split("..", 1)] for part in text.split(",")]
    except ValueError:
        ranges = []
    steps = {number for number in range(11) if any(ends[0] <= number <= ends[-1] for ends in ranges)}
    if not steps or not all(0 <= ends[0] <= ends[-1] <= 10 for ends in ranges):
        raise ValueError(f"expected numbers from 0 to 10, such as 0..10 or 0,5,10, found {text!r}")
    return tuple(sorted(steps))


Seed = NonNegativeInt
Spacing = Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Parameter(metavar="X Y Z")]
"""Size of a voxel along x, y and z, in mm."""

FieldOfView = Annotated[tuple[float, float], Parameter(metavar="LOW HIGH", validator=_require_part)]
"""Part of a patient's height that is scanned, from mid-thigh, 0, to vertex, 1."""
