"""Options that several commands share."""

from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt, PositiveFloat


def _require_part(_type: Any, value: tuple[float, float] | None) -> None:
    if value is not None and not 0 <= value[0] < value[1] <= 1:
        raise ValueError("Expected two numbers from 0 to 1, the lower one first.")


Seed = NonNegativeInt
Spacing = Annotated[tuple[PositiveFloat, PositiveFloat, PositiveFloat], Parameter(metavar="X Y Z")]
"""Size of a voxel along x, y and z, in mm."""

FieldOfView = Annotated[tuple[float, float], Parameter(metavar="LOW HIGH", validator=_require_part)]
"""Part of a patient's height that is scanned, from mid-thigh, 0, to vertex, 1."""
