"""The command `suggest`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter
from cyclopts.types import PositiveInt

if TYPE_CHECKING:
    from collections.abc import Sequence

    from lesionclick.petct.suggestions import Suggestion


def suggest(
    case: Path,
    /,
    *,
    count: PositiveInt = 3,
    model: Path | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Propose where to click next in a PET/CT, after the points that its click file has.

    For example:

        lesionclick suggest out/cases/7

    Parameters
    ----------
    case
        Case in the platform's layout.
    count
        Number of places at most; the most worthwhile comes first.
    model
        Model folder; by default `/opt/ml/model`, else the embedded one.
    as_json
        Print JSON instead of a table.
    """
    import json
    from dataclasses import asdict

    from lesionclick.errors import InputError
    from lesionclick.petct.case import PetCtCase
    from lesionclick.petct.model import PetCtModel
    from lesionclick.petct.session import PetCtSession
    from lesionclick.tasks import read_case

    read = read_case(case)
    if not isinstance(read, PetCtCase):
        raise InputError(f"{case}: expected a PET/CT, found a case of another task")
    found = PetCtSession(PetCtModel.load(model), read).suggest(count)
    print(json.dumps([asdict(one) for one in found], indent=2) if as_json else _table(found))


def _table(found: "Sequence[Suggestion]") -> str:
    """Return a line for each place below a head, or a sentence where there is none."""
    if not found:
        return "nothing to ask: the network is sure everywhere, and no hot uptake lies outside the mask"
    lines = [f"{'click':10}  {'x, y, z':>15}  {'SUV':>5}  {'likely':>6}  {'wrong ml':>8}  reason"]
    for one in found:
        place = ", ".join(str(n) for n in one.point_xyz)
        numbers = f"{one.suv:5.1f}  {one.probability:6.0%}  {one.wrong_ml:8.2f}"
        lines.append(f"{one.kind:10}  {place:>15}  {numbers}  {one.reason}")
    return "\n".join(lines)
