"""What a scheduler and its workers tell each other: what is to be done with which case, and what became of it.

A worker reads these messages while it has to answer the scheduler; so nothing here imports PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lesionclick.errors import InputError
from lesionclick.evaluation.records import OptionsRecord

if TYPE_CHECKING:
    from lesionclick.prompts.spec import TaskName


@dataclass(frozen=True)
class CohortCase:
    """A case folder, and its name, which no other case of the cohort has.

    Raises
    ------
    InputError
        If the name is none of a file, or cannot be written down: masks and records are called by it.
    """

    name: str
    path: Path

    def __post_init__(self) -> None:
        if self.name in ("", ".", "..") or "/" in self.name:
            raise InputError(f"{self.path}: expected a folder with a name of its own, found {self.name!r}")
        try:
            f"{self.name} {self.path}".encode()
        except UnicodeEncodeError as error:  # as on a share with names in Latin-1
            raise InputError(f"{str(self.path)!a}: expected a path in UTF-8, found other bytes") from error


@dataclass(frozen=True)
class Work:
    """What is done with every case of a cohort. All paths mean the same on every worker.

    Attributes
    ----------
    output
        The cohort's folder.
    options
        How cases are run.
    models
        Digest of each task's model; a worker refuses to use another.
    labels
        Folder of true masks, if any: `<case>.mha`, or `<case>/<region>.mha` for a longitudinal case.
    model
        Model folder, as for `lesionclick.algorithm.Algorithm`.
    engine
        Container engine, used where the options name a container.
    trust_checkpoint
        Let checkpoints run any code that they hold.
    """

    output: Path
    options: OptionsRecord
    models: Mapping[TaskName, str]
    labels: Path | None = None
    model: Path | None = None
    engine: str = "docker"
    trust_checkpoint: bool = False


@dataclass(frozen=True)
class Outcome:
    """What a worker tells of a case, all else being in its record.

    Attributes
    ----------
    case
        Its name.
    error
        Why it failed, if it did.
    seconds
        How long it took.
    """

    case: str
    error: str | None
    seconds: float


def run_case(case: CohortCase, work: Work) -> Outcome:
    """Do a case; see `lesionclick.cohort.worker.run_case`, which is imported where this runs."""
    from lesionclick.cohort import worker

    return worker.run_case(case, work)
