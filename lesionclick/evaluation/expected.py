"""Scores written to a file, and compared with those of another machine."""

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from lesionclick.errors import InputError
from lesionclick.evaluation import measures
from lesionclick.evaluation.followup_replay import FollowupReplay
from lesionclick.evaluation.replay import Replay

MEASURES = ("dsc", "fpv_ml", "fnv_ml")

LESION_DSC = "lesion_dsc"
"""Further measure of Task 2's steps, and what tells their rows from Task 1's: the mean DSC of the lesions."""

DSC_TOLERANCE = 0.01
LESION_DSC_TOLERANCE = 0.03
VOLUME_TOLERANCE_ML = 0.3
VOLUME_TOLERANCE_SHARE = 0.03
"""Masks of one model differ a little between machines: the CPU libraries choose their kernels by instruction set and
core count and sum in another order, GPUs more so, and voxels whose logit is nearly 0 change sides. A few such voxels
stay below these tolerances; a lesion found or missed, a shifted mask or another model do not. In the mean over lesions
a small one weighs as much as a large one, and a few voxels are more of it."""

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


def scores_of(replays: Iterable[Replay | FollowupReplay]) -> Scores:
    """Collect the scored steps of some replays."""
    scores: Scores = {}
    for replay in replays:
        if isinstance(replay, FollowupReplay):
            rows = {
                str(step.number): _values(step.scores) | {LESION_DSC: _value(step.summary.dsc)}
                for step in replay.steps
                if step.scores
            }
        else:
            rows = {str(step.number): _values(step.scores) for step in replay.steps if step.scores}
        if rows:
            scores[replay.name] = rows
    return scores


def _values(scores: measures.Scores) -> dict[str, float | None]:
    return {measure: _value(getattr(scores, measure)) for measure in MEASURES}


def _value(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 4)


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
            case: {
                str(int(step)): {measure: row[measure] for measure in (*MEASURES, *({LESION_DSC} & row.keys()))}
                for step, row in steps.items()
            }
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
    """List every value that one side lacks or that differs beyond the tolerances of this module.

    Of Task 1's cases `steps` are compared, of Task 2's both steps, because both are run always.
    """
    result = []
    for case in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(case, {}), found.get(case, {})
        for step in sorted(ours.keys() | theirs.keys(), key=int):
            wanted, got = ours.get(step, {}), theirs.get(step, {})
            measures = list(wanted | got)
            if LESION_DSC not in measures and int(step) not in steps:
                continue
            for measure in measures:
                a, b = wanted.get(measure), got.get(measure)
                if measure not in wanted or measure not in got or not _agree(measure, a, b):
                    result.append(Difference(case, step, measure, a, b))
    return result


def _agree(measure: str, expected: float | None, found: float | None) -> bool:
    if expected is None or found is None:
        return expected is found
    tolerances = {"dsc": DSC_TOLERANCE, LESION_DSC: LESION_DSC_TOLERANCE}
    tolerance = tolerances.get(measure, max(VOLUME_TOLERANCE_ML, VOLUME_TOLERANCE_SHARE * abs(expected)))
    return abs(expected - found) <= tolerance + 1e-9  # the files hold four decimals
