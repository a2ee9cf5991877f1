"""Scores written to a file, and compared with those of another machine."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lesionclick.errors import InputError
from lesionclick.evaluation import metrics
from lesionclick.evaluation.replay import Replay

MEASURES = ("dsc", "fpv_ml", "fnv_ml")

DSC_TOLERANCE = 0.01
VOLUME_TOLERANCE_ML = 0.3
VOLUME_TOLERANCE_SHARE = 0.03
"""Masks of one model differ a little between machines: the CPU libraries choose their kernels by instruction set and
core count and sum in another order, GPUs more so, and voxels whose logit is nearly 0 change sides. A few such voxels
stay below these tolerances; a lesion found or missed, a shifted mask or another model do not."""

Scores: TypeAlias = dict[str, dict[str, dict[str, float | None]]]
"""Case -> step -> measure -> value; None where the challenge defines no value (NaN)."""


@dataclass(frozen=True)
class Difference:
    """One value that is not as expected; None is a value that is undefined or absent."""

    case: str
    step: str
    measure: str
    expected: float | None
    found: float | None


def scores_of(replays: Iterable[Replay]) -> Scores:
    """Collect the scored steps of some replays."""
    return {
        replay.name: {str(step.number): _values(step.scores) for step in replay.steps if step.scores}
        for replay in replays
        if replay.label
    }


def _values(scores: metrics.Scores) -> dict[str, float | None]:
    values = {measure: float(getattr(scores, measure)) for measure in MEASURES}
    return {measure: None if math.isnan(value) else round(value, 4) for measure, value in values.items()}


def read_scores(path: Path) -> Scores:
    """Read what `write_scores` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it holds something else.
    """
    try:
        scores = json.loads(path.read_bytes())
        return {
            case: {step: {measure: row[measure] for measure in MEASURES} for step, row in steps.items()}
            for case, steps in scores.items()
        }
    except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
        raise InputError(f"{path}: expected a JSON file of scores, found {type(error).__name__}: {error}") from error


def write_scores(path: Path, scores: Scores) -> None:
    """Write scores as JSON, one line per step so that a change is readable in a diff."""
    cases = [
        f"  {json.dumps(case)}: {{\n"
        + ",\n".join(f"    {json.dumps(step)}: {json.dumps(values)}" for step, values in steps.items())
        + "\n  }"
        for case, steps in scores.items()
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{\n" + ",\n".join(cases) + "\n}\n", encoding="utf-8")


def differences(expected: Scores, found: Scores, steps: Sequence[int]) -> list[Difference]:
    """List every value at `steps` that one side lacks or that differs beyond the tolerances of this module."""
    result = []
    for case in sorted(expected.keys() | found.keys()):
        for step in map(str, steps):
            wanted, got = expected.get(case, {}).get(step), found.get(case, {}).get(step)
            if wanted is None and got is None:
                continue
            for measure in MEASURES:
                a, b = (row[measure] if row else None for row in (wanted, got))
                if wanted is None or got is None or not _agree(measure, a, b):
                    result.append(Difference(case, step, measure, a, b))
    return result


def _agree(measure: str, expected: float | None, found: float | None) -> bool:
    if expected is None or found is None:
        return expected is found
    volume_tolerance = max(VOLUME_TOLERANCE_ML, VOLUME_TOLERANCE_SHARE * abs(expected))
    tolerance = DSC_TOLERANCE if measure == "dsc" else volume_tolerance
    return abs(expected - found) <= tolerance + 1e-9  # the files hold four decimals
