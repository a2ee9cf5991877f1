"""What the replay of a case comes to, whichever its task: its steps, scored where there are labels."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, TypeVar

from lesionclick.evaluation.measures import Measure, Scores
from lesionclick.grand_challenge.interfaces import Socket
from lesionclick.images import Volume

ALL_STEPS = tuple(range(11))
"""The challenge's steps of a PET/CT case: step 0 has no click, step 10 has ten of each kind."""

Challenge = Literal["autopet4", "autopet5"]
"""Whose steps are run: autoPET/CT IV's with clicks, or autoPET V's with scribbles."""

STEPS: Mapping[Challenge, Sequence[int]] = {"autopet4": ALL_STEPS, "autopet5": tuple(range(6))}
"""All steps of a PET/CT case: of autoPET V none, and five corrections, one stroke each."""


@dataclass(frozen=True)
class Options:
    """How cases are replayed.

    Attributes
    ----------
    steps
        Steps of PET/CT cases to run, by default all of the challenge; the two of longitudinal cases are run always.
    labels
        Folder of true masks, `<case>.mha`, or `<case>/<region>.mha` for a longitudinal case. A case without is replayed
        without scores.
    corrective
        Ignore the case's clicks; put each next pair into the largest error of the last mask. For PET/CT cases alone.
    challenge
        With ``autopet5`` ignore the case's clicks too; draw each next stroke into the largest error of the last mask,
        and score as autoPET V does. For PET/CT cases alone.
    """

    steps: Sequence[int] | None = None
    labels: Path | None = None
    corrective: bool = False
    challenge: Challenge = "autopet4"

    @property
    def numbers(self) -> Sequence[int]:
        """Steps of PET/CT cases that are run."""
        return STEPS[self.challenge] if self.steps is None else self.steps

    @property
    def corrections(self) -> str:
        """What each step puts into the errors of the last mask, for messages; empty for the case's own clicks."""
        if self.challenge == "autopet5":
            return "strokes"
        return "corrective clicks" if self.corrective else ""


@dataclass(frozen=True)
class Step(ABC):
    """One job.

    Attributes
    ----------
    number
        The challenge's number of the step.
    masks
        What it left, files of the replay's output.
    scores
        Of all masks together; None where there are no labels.
    seconds
        How long it took.
    """

    number: int
    masks: Mapping[Socket, Path]
    scores: Scores | None
    seconds: float

    @property
    @abstractmethod
    def n_points(self) -> int:
        """How many points the job saw."""


StepT = TypeVar("StepT", bound=Step)


@dataclass(frozen=True)
class Result(Generic[StepT]):
    """What the replay of one case comes to, without images.

    Attributes
    ----------
    name
        Of the case's folder.
    measures
        What its steps are scored by.
    steps
        In order.
    areas
        Under the scores over the steps of the challenge; None where they are not all there.
    """

    name: str
    measures: Sequence[Measure[Any]]
    steps: Sequence[StepT]
    areas: Scores | None = None


@dataclass(frozen=True)
class Replay(Generic[StepT]):
    """All steps of one case, with its images.

    Attributes
    ----------
    measures
        What its steps are scored by.
    name
        Of the case's folder.
    labels
        True masks; empty where there are none.
    steps
        In order.
    """

    measures: ClassVar[Sequence[Measure[Any]]]

    name: str
    labels: Mapping[Socket, Volume]
    steps: Sequence[StepT]

    @property
    def areas(self) -> Scores | None:
        """Areas under the scores over the steps of the challenge; None where they are not all there."""
        return None

    @property
    def result(self) -> Result[StepT]:
        """What is left of it once its images are drawn."""
        return Result(self.name, self.measures, self.steps, self.areas)
