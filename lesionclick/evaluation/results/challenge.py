"""What the challenge ranks a run by: the columns of its table, with their weights, for each task.

Weights and steps are those of the organisers' evaluation pages (autopet-iv.grand-challenge.org/eval).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from lesionclick.evaluation.measures import CHALLENGE, LESIONS, Measure, Scores, areas
from lesionclick.evaluation.steps import ALL_STEPS
from lesionclick.prompts.spec import TaskName

Kind = Literal["last", "area"]


@dataclass(frozen=True)
class Column:
    """One number for each case.

    Attributes
    ----------
    measure
        What is measured.
    kind
        At the last step that the run has, or the area under the curve over all steps of the challenge.
    weight
        In the ranking; 0 for what is only shown.
    """

    measure: Measure[Any]
    kind: Kind
    weight: float

    @property
    def key(self) -> str:
        """Name in files, such as ``dsc_last``."""
        return f"{self.measure.key}_{self.kind}"

    @property
    def title(self) -> str:
        """Name for readers."""
        return self.measure.title if self.kind == "last" else f"AUC {self.measure.title}"

    @property
    def heading(self) -> str:
        """Title and unit; an area's unit is left out, since it is one of step times unit."""
        return self.measure.heading if self.kind == "last" else self.title


@dataclass(frozen=True)
class Challenge:
    """The table of one task.

    Attributes
    ----------
    title
        For readers.
    steps
        Numbers of all steps; an area needs each of them.
    columns
        In the order of the table. The first one breaks ties of the ranking.
    """

    title: str
    steps: tuple[int, ...]
    columns: tuple[Column, ...]

    def areas(self, steps: Mapping[int, Scores]) -> Scores | None:
        """Return the areas under the scores of a case over all steps; None where one is missing."""
        return areas([steps[number] for number in self.steps]) if set(self.steps) <= set(steps) else None

    def values(self, steps: Mapping[int, Scores]) -> dict[str, float]:
        """Return the value of each column for a case, by the column's key; NaN where it is not defined.

        Parameters
        ----------
        steps
            Scores of the case by the number of the step; may be empty, or lack some steps.
        """
        last = steps[max(steps)] if steps else Scores({})
        by_kind: Mapping[Kind, Scores] = {"last": last, "area": self.areas(steps) or Scores({})}
        return {column.key: by_kind[column.kind].get(column.measure.key, math.nan) for column in self.columns}


def _columns(kind: Kind, measures: Sequence[Measure[Any]], *weights: float) -> list[Column]:
    return [Column(measure, kind, weight) for measure, weight in zip(measures, weights, strict=True)]


CHALLENGES: Mapping[TaskName, Challenge] = {
    "task1": Challenge(
        "Task 1, whole-body PET/CT",
        ALL_STEPS,
        (*_columns("last", CHALLENGE, 0.25, 0.125, 0.125), *_columns("area", CHALLENGE, 0.25, 0.125, 0.125)),
    ),
    "task2": Challenge(
        "Task 2, longitudinal CT",
        (0, 1),
        (*_columns("last", CHALLENGE, 0.5, 0.25, 0.25), *_columns("last", LESIONS, *[0.0] * len(LESIONS))),
    ),
}
