"""A finished run as a value: its cases with the scores of their steps, and where it comes from."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from lesionclick.evaluation.measures import Scores
from lesionclick.prompts.spec import TaskName

OTHER, ALL = "other", "all"
"""Groups of the cases that belong to none, and of all cases."""

_TRACER = re.compile(r"(?<![a-z0-9])(fdg|psma)(?![a-z0-9])", re.IGNORECASE)


@dataclass(frozen=True)
class CaseFiles:
    """What a picture of a case is made from.

    Attributes
    ----------
    case
        Folder in the platform's layout.
    labels
        True mask of each output, by the output's slug.
    masks
        Found mask of each output, by the number of the step and the output's slug.
    """

    case: Path
    labels: Mapping[str, Path]
    masks: Mapping[int, Mapping[str, Path]]


@dataclass(frozen=True)
class CaseResult:
    """What a run left of one case.

    Attributes
    ----------
    name
        Of the case.
    group
        What the tables are split by: the tracer, or `OTHER`.
    steps
        Scores by the number of the step; empty where nothing was scored.
    error
        Why it failed, where it did.
    files
        For pictures, where they are known.
    """

    name: str
    group: str
    steps: Mapping[int, Scores]
    error: str | None = None
    files: CaseFiles | None = None


@dataclass(frozen=True)
class Origin:
    """Where scores come from, for whoever reads them later; empty where it is not known.

    Attributes
    ----------
    data
        Data set.
    split
        Which part of it, and how it was kept from training.
    seed
        Of whatever was drawn: the split, phantoms, clicks.
    model
        Such as the hash of its weights.
    command
        What makes them again.
    """

    data: str = ""
    split: str = ""
    seed: str = ""
    model: str = ""
    command: str = ""


@dataclass(frozen=True)
class RunResult:
    """All cases of one task in one run.

    Attributes
    ----------
    name
        For readers; of all runs that are looked at together no two are the same.
    task
        Of the cases.
    cases
        In the order of their names.
    origin
        Where the scores come from.
    """

    name: str
    task: TaskName
    cases: Sequence[CaseResult]
    origin: Origin = field(default_factory=Origin)

    @property
    def scored(self) -> list[CaseResult]:
        """The cases that have scores."""
        return [case for case in self.cases if case.steps]

    @property
    def failed(self) -> list[CaseResult]:
        """The cases that have an error."""
        return [case for case in self.cases if case.error is not None]

    def with_origin(self, given: Origin) -> "RunResult":
        """Return the run with what it does not tell of its origin itself."""
        own = {name: text for name, text in asdict(self.origin).items() if text}
        return replace(self, origin=replace(given, **own))


def tracer_in(name: str) -> str:
    """Return the tracer that the name of a case tells, as the challenge's names do, else `OTHER`."""
    found = _TRACER.search(name.replace("_", " "))
    return found.group(1).upper() if found else OTHER
