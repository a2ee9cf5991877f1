"""Scores written to a file, and compared with those of another machine within the tolerances of the measures."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from pydantic import TypeAdapter

from lesionclick.evaluation.json_files import Values, read_json
from lesionclick.evaluation.measures import MEASURES
from lesionclick.evaluation.steps import Result
from lesionclick.grand_challenge.image_files import require_writable
from lesionclick.images import replacing

ScoreFile: TypeAlias = dict[str, dict[str, dict[str, float | None]]]
"""Case -> step -> key of the measure -> value; None where the value is not defined (NaN)."""

_SCORES = TypeAdapter(dict[str, dict[int, Values]])


@dataclass(frozen=True)
class Difference:
    """One value that is not as expected; None is a value that is undefined or absent."""

    case: str
    step: str
    measure: str
    expected: float | None
    found: float | None


def scores_of(results: Iterable[Result[Any]]) -> ScoreFile:
    """Collect from scored steps the measures that have a tolerance."""
    scores: ScoreFile = {}
    for result in results:
        keys = [measure.key for measure in result.measures if measure.tolerance]
        rows = {
            str(step.number): {key: _value(step.scores[key]) for key in keys} for step in result.steps if step.scores
        }
        if rows:
            scores[result.name] = rows
    return scores


def _value(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def read_scores(path: Path) -> ScoreFile:
    """Read what `write_scores` wrote.

    Raises
    ------
    InputError
        If there is no such file, or it holds something else.
    """
    scores = read_json(_SCORES, path, "a JSON file of scores")
    return {case: {str(step): values for step, values in steps.items()} for case, steps in scores.items()}


def write_scores(path: Path, scores: ScoreFile, *, digits: int | None = None) -> None:
    """Write scores as JSON, one line per step so that a change is readable in a diff; the file appears whole.

    Parameters
    ----------
    path
        Of the file.
    scores
        What to write.
    digits
        Number of decimals; all by default.
    """

    def text(values: Mapping[str, float | None]) -> str:
        short = {
            key: value if value is None or digits is None else round(value, digits) for key, value in values.items()
        }
        return json.dumps(short)

    cases = [
        f"  {json.dumps(case)}: {{\n"
        + ",\n".join(f"    {json.dumps(step)}: {text(values)}" for step, values in steps.items())
        + "\n  }"
        for case, steps in scores.items()
    ]
    require_writable(path.parent)
    with replacing(path) as temporary:
        temporary.write_text("{\n" + ",\n".join(cases) + "\n}\n", encoding="utf-8")


def differences(expected: ScoreFile, found: ScoreFile, steps: Sequence[int]) -> list[Difference]:
    """List every value that one side lacks or that differs beyond its measure's tolerance.

    Parameters
    ----------
    expected, found
        Scores of the same cases.
    steps
        Steps that were asked for. An expected step that was neither found nor asked for is passed over, unless nothing
        of its case was found.
    """
    result = []
    for case in sorted(expected.keys() | found.keys()):
        ours, theirs = expected.get(case, {}), found.get(case, {})
        for step in sorted(ours.keys() | theirs.keys(), key=int):
            if theirs and step not in theirs and int(step) not in steps:
                continue
            wanted, got = ours.get(step, {}), theirs.get(step, {})
            for key in wanted | got:
                a, b = wanted.get(key), got.get(key)
                if key not in wanted or key not in got or not _agree(key, a, b):
                    result.append(Difference(case, step, key, a, b))
    return result


def _agree(key: str, expected: float | None, found: float | None) -> bool:
    tolerance = MEASURES[key].tolerance
    if expected is None or found is None or tolerance is None:
        return expected == found
    return tolerance.allows(expected, found)
