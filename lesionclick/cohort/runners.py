"""How the jobs of a case are run: in one session of this process, each in a container, or not again."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

from lesionclick.algorithm import Algorithm
from lesionclick.budget import Stopwatch
from lesionclick.cohort.steps import CaseStep
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.jobs import Jobs
from lesionclick.evaluation.records import Record
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.image_files import write_masks
from lesionclick.grand_challenge.interfaces import Socket
from lesionclick.petct.session import Segmentation
from lesionclick.tasks import Task


@dataclass(frozen=True)
class Told:
    """What a job tells of itself: seconds of its stages, and how often each rule acted, where it is known."""

    seconds: Mapping[str, float]
    rules: Mapping[str, int] | None = None


class Runner(Protocol):
    """Runs the jobs of one case."""

    device: str

    @property
    def case(self) -> Any:
        """The case, read."""

    def run(self, step: CaseStep, paths: Mapping[Socket, Path]) -> Told:
        """Run a job and write its masks."""


class InSession:
    """Runs the jobs of a case in one session, so that its images are read and preprocessed once.

    Parameters
    ----------
    algorithm
        Has the model.
    task, folder
        The case.
    watch
        Gets the seconds of what is done once.
    """

    def __init__(self, algorithm: Algorithm, task: Task, folder: CaseFolder, watch: Stopwatch) -> None:
        self._task = task
        with watch.stage("load model"):
            model = algorithm.model(task)
        with watch.stage("read case"):
            self._session = task.open(model, task.read(folder))
        self.device = str(model.device)

    @property
    def case(self) -> Any:
        """The case, read."""
        return self._session.case

    def run(self, step: CaseStep, paths: Mapping[Socket, Path]) -> Told:
        """Run a job and write its masks.

        Raises
        ------
        LesionClickError
            If it fails, or the masks cannot be written.
        """
        begin, watch = perf_counter(), Stopwatch()
        segmentation = self._session.segment(step.prompts)
        other = perf_counter() - begin - sum(segmentation.seconds.values())  # so that the stages add up to the job
        with watch.stage("write"):
            masks = self._task.masks(segmentation)
            write_masks({paths[socket]: mask for socket, mask in masks.items()})
        rules = asdict(segmentation.rules) if isinstance(segmentation, Segmentation) else None
        return Told({**segmentation.seconds, "other": other, **watch.seconds}, rules)


class FromMasks:
    """Takes the masks that an earlier run left, where nothing is new but the labels.

    Parameters
    ----------
    output
        The cohort's folder.
    record
        What the earlier run told of the case.
    task, folder
        The case.
    """

    def __init__(self, output: Path, record: Record, task: Task, folder: CaseFolder) -> None:
        self._output = output
        self._record = record
        self.device = record.worker.device
        self.case = task.read(folder)  # which warns again of what is odd

    def run(self, step: CaseStep, paths: Mapping[Socket, Path]) -> Told:
        """Copy the masks of a job, and tell what was told of it."""
        (earlier,) = (one for one in self._record.steps if one.step == step.number)
        for socket, path in paths.items():
            shutil.copyfile(self._output / earlier.masks[socket.slug], path)
        return Told({stage: seconds for stage, seconds in earlier.seconds.items() if stage != "score"}, earlier.rules)


class InContainers:
    """Runs each job of a case in a container of its own, as the platform does.

    Parameters
    ----------
    engine
        What runs it.
    task, folder
        The case.
    """

    device = "container"

    def __init__(self, engine: Engine, task: Task, folder: CaseFolder) -> None:
        self._engine = engine
        self._task = task
        self._folder = folder

    @cached_property
    def case(self) -> Any:
        """The case, read where it is needed."""
        return self._task.read(self._folder)

    def run(self, step: CaseStep, paths: Mapping[Socket, Path]) -> Told:
        """Run a job, check what it left, and take its masks.

        Raises
        ------
        LesionClickError
            If the job fails or breaks the output contract.
        """
        (kept,) = {path.parent for path in paths.values()}
        jobs = Jobs(self._folder, self._engine, kept, {socket: path.name for socket, path in paths.items()})
        return Told({"container": jobs.run_step(step.number, step.clicks).seconds})
