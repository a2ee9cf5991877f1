"""What a worker does: one case of a cohort, from its folder to its masks and its record."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from time import perf_counter
from typing import Any

from lesionclick import __version__
from lesionclick.algorithm import Algorithm
from lesionclick.budget import Stopwatch
from lesionclick.cohort.fingerprints import digest, digest_files, digest_models, glance
from lesionclick.cohort.runners import FromMasks, InContainers, InSession, Runner
from lesionclick.cohort.steps import EVALUATED, Evaluated
from lesionclick.cohort.work import CohortCase, Outcome, Work
from lesionclick.errors import LesionClickError, ModelError
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.jobs import label_paths, read_labels
from lesionclick.evaluation.measures import MaskPair
from lesionclick.evaluation.records import (
    CohortFolder,
    ErrorRecord,
    Record,
    StepRecord,
    WorkerRecord,
)
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.interfaces import Socket
from lesionclick.images import Volume, unwritable
from lesionclick.log import collected_warnings
from lesionclick.prompts.spec import TaskName
from lesionclick.tasks import Task, task_of

logger = logging.getLogger(__name__)

_NOT_SCORED = "the case is not scored"

_PACKAGES = ("nnunetv2", "torch", "SimpleITK", "numpy")


def run_case(case: CohortCase, work: Work) -> Outcome:
    """Do one case and leave its masks and its record; a case that fails leaves a record that says why.

    What was done of it before stays where its inputs cannot be read; then the outcome alone tells of the failure.

    Raises
    ------
    InputError
        If the record cannot be written: then no case can be done.
    """
    begin = perf_counter()
    out = CohortFolder(work.output)
    with _working_folder(case, work) as folder, _warnings() as warnings:
        run, known = _CaseRun(case, work), False
        try:
            opened, earlier = run.learn_inputs(), out.record(case.name)
            known = earlier is not None and run.is_known(earlier)
            if not known:
                run.run(opened, earlier, folder / "masks")
        except Exception as error:
            run.fail(error)
        if known:
            out.amend(run.record, folder)
            return Outcome(case.name, None, perf_counter() - begin)
        seconds = {**run.watch.seconds, "total": perf_counter() - begin, **run.kept_seconds}
        told = tuple(map(_readable, dict.fromkeys([*run.kept_warnings, *warnings])))
        record = replace(run.record, seconds=seconds, warnings=told, finished=_now())
        replaced = out.keep(record, folder)
    return Outcome(case.name, _tell(record, replaced), perf_counter() - begin)


def give_up(case: CohortCase, work: Work, error: Exception) -> Outcome:
    """Leave the record of a case that no worker could do, unless it was done before from the same or unknown inputs.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    with _working_folder(case, work) as folder:
        run = _CaseRun(case, work)
        with suppress(Exception):  # whatever it is, the inputs are not known then
            run.learn_inputs()
        run.fail(error)
        record = replace(run.record, finished=_now())
        replaced = CohortFolder(work.output).keep(record, folder)
    return Outcome(case.name, _tell(record, replaced), 0.0)


def _tell(record: Record, replaced: bool) -> str | None:
    """Return why a case failed, and whether that replaced what was done of it; None where it did not fail."""
    if record.error is None:
        return None
    return record.error.message if replaced else f"{record.error.message}; what was done before stays"


@contextmanager
def _working_folder(case: CohortCase, work: Work) -> Iterator[Path]:
    """Give the working folder of a case; what cannot be written there is the fault of the cohort's folder."""
    try:
        with CohortFolder(work.output).working_folder(case.name) as folder:
            yield folder
    except OSError as error:
        raise unwritable(work.output, error) from error


def is_done(case: CohortCase, work: Work) -> bool:
    """Tell, by a glance at its files, whether a case is done and nothing has changed since."""
    out = CohortFolder(work.output)
    record = out.record(case.name)
    if record is None or not record.done or record.task not in work.models:
        return False
    run = _CaseRun(case, work)
    try:
        run.look()
    except (LesionClickError, OSError):
        return False  # the worker tells of it
    return record.files == run.record.files and out.has_masks(record)


@dataclass(frozen=True)
class _Opened:
    """A case whose folder could be opened.

    Attributes
    ----------
    folder, task
        The case.
    labels
        Files of the true masks of all outputs; none where one is missing.
    """

    folder: CaseFolder
    task: Task
    labels: Mapping[Socket, Path]

    @classmethod
    def open(cls, case: CohortCase, labels: Path | None) -> _Opened:
        """Open a case, and look for its labels in their folder."""
        folder = CaseFolder.open(case.path)
        task = task_of(folder)
        paths = label_paths(labels, case.name, EVALUATED[task.name].parts(folder)) if labels else {}
        return cls(folder, task, paths if all(path.is_file() for path in paths.values()) else {})

    @property
    def evaluated(self) -> Evaluated:
        """What a cohort knows of its task."""
        return EVALUATED[self.task.name]


class _CaseRun:
    """A case that is being done, and what is known of it so far, as its record."""

    def __init__(self, case: CohortCase, work: Work) -> None:
        self.work = work
        self.watch = Stopwatch()
        self._case = case
        self.kept_seconds: Mapping[str, float] = {}
        self.kept_warnings: Sequence[str] = ()
        """Of an earlier run, whose masks are taken."""
        self.record = Record(
            case=case.name,
            path=str(case.path),
            task=None,
            error=None,
            fingerprint=None,
            files=None,
            labels={},
            steps=(),
            seconds={},
            model="",
            options=work.options,
            versions=_versions(),
            warnings=(),
            worker=WorkerRecord(socket.gethostname(), os.getpid(), ""),
            finished="",
        )

    def look(self) -> _Opened:
        """Open the case, and learn the digest that needs no look into its files."""
        opened = _Opened.open(self._case, self.work.labels)
        model = self.work.models.get(opened.task.name, "")
        self._know(task=opened.task.name, model=model)
        files = glance(self._case.path, opened.labels.values(), model, self.work.options)
        self._know(files=files, labels={one.slug: str(path) for one, path in opened.labels.items()})
        return opened

    def learn_inputs(self) -> _Opened:
        """Open the case, and read what the result depends on, so that the record has its fingerprint."""
        with self.watch.stage("fingerprint"):
            opened = self.look()
            images, labels = opened.folder.fingerprint(), digest_files(opened.labels.values())
            model, options = self.record.model, self.work.options
            self._know(
                fingerprint=digest((images, labels), self.record.labels.keys(), model, options),
                inputs=digest(images, model, options),
            )
        return opened

    def is_known(self, earlier: Record) -> bool:
        """Tell whether the case was done from the same inputs, and if so let the record be that one."""
        if not (earlier.fingerprint == self.record.fingerprint and self._has_masks(earlier)):
            return False
        self.record = replace(earlier, files=self.record.files, path=self.record.path, labels=self.record.labels)
        return True

    def run(self, opened: _Opened, earlier: Record | None, masks: Path) -> None:
        """Do the case, and leave its masks in a new folder."""
        runner = self._runner(opened, earlier)
        self._know(worker=replace(self.record.worker, device=runner.device))
        masks.mkdir()
        if self.work.labels and not opened.labels:
            logger.warning("%s: not all labels in %s, %s", self._case.name, self.work.labels, _NOT_SCORED)
        labels = read_labels(opened.folder, opened.labels, numbered=opened.evaluated.numbered)
        steps = opened.evaluated.steps(opened.folder, self.work.options.steps)
        parts = opened.evaluated.parts(opened.folder)
        done = []
        for step in steps:
            paths = {one: masks / step.file_name(part) for one, part in parts.items()}
            told = runner.run(step, paths)
            watch, scores = Stopwatch(), None
            if labels:
                with watch.stage("score"):
                    scores = _score(opened.evaluated, runner, labels, paths)
            names = {one.slug: f"masks/{self._case.name}/{path.name}" for one, path in paths.items()}
            seconds = {**told.seconds, **watch.seconds}
            done.append(StepRecord(step.number, step.n_points, names, scores, seconds, told.rules))
        self._know(steps=tuple(done))

    def fail(self, error: Exception) -> None:
        """Let the record tell of an error, and of no masks; without a model nobody knows what they would be made of."""
        known = {} if self.record.model else {"fingerprint": None, "inputs": None}
        self._know(error=ErrorRecord(type(error).__name__, _readable(str(error))), steps=(), **known)

    def _runner(self, opened: _Opened, earlier: Record | None) -> Runner:
        work, models = self.work, tuple(self.work.models.items())
        if earlier is not None and earlier.inputs == self.record.inputs and self._has_masks(earlier):
            self._know(versions=earlier.versions)
            self.kept_seconds = earlier.seconds
            self.kept_warnings = [one for one in earlier.warnings if not one.endswith(_NOT_SCORED)]
            return FromMasks(work.output, earlier, opened.task, opened.folder)
        if work.options.container:
            engine = _engine(work.engine, work.options.container, work.model, models)
            return InContainers(engine, opened.task, opened.folder)
        algorithm = _algorithm(work.model, models, work.trust_checkpoint, work.options.exact)
        return InSession(algorithm, opened.task, opened.folder, self.watch)

    def _has_masks(self, earlier: Record) -> bool:
        return earlier.done and CohortFolder(self.work.output).has_masks(earlier)

    def _know(self, **values: Any) -> None:
        self.record = replace(self.record, **values)


def _score(
    evaluated: Evaluated, runner: Runner, labels: Mapping[Socket, Volume], masks: Mapping[Socket, Path]
) -> dict[str, float | None]:
    """Return the scores of a job's masks as a record has them."""
    pairs = {
        one: MaskPair(label.array, Volume.read(masks[one]).array, label.grid.spacing_zyx)
        for one, label in labels.items()
    }
    found = evaluated.score(lambda: runner.case, pairs)
    return {key: None if math.isnan(value) else value for key, value in found.items()}


# One model at a time, under the digests of what it was loaded from: a worker may outlive many commands.
@lru_cache(maxsize=1)
def _algorithm(
    folder: Path | None, models: tuple[tuple[TaskName, str], ...], trust_checkpoint: bool, exact: bool
) -> Algorithm:
    found = digest_models(folder, trust_checkpoint=trust_checkpoint)
    _require_same(found, dict(models), f"model folder {folder}" if folder else "embedded models")
    return Algorithm(folder, trust_checkpoint=trust_checkpoint, exact=exact)


@lru_cache(maxsize=1)
def _engine(command: str, image: str, model: Path | None, models: tuple[tuple[TaskName, str], ...]) -> Engine:
    engine = Engine.find(command, image, model)
    _require_same(digest_models(model, engine), dict(models), f"image {image}")
    return engine


def _require_same(found: Mapping[TaskName, str], expected: Mapping[TaskName, str], what: str) -> None:
    if found != expected:
        raise ModelError(f"{what} on {socket.gethostname()}: expected the command's own, {expected}, found {found}")


def _versions() -> dict[str, str]:
    packages = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"lesionclick": __version__, **packages, "python": platform.python_version()}


def _readable(text: str) -> str:
    """Return a text as UTF-8 can hold it: the name of a file may have bytes of another encoding."""
    return text.encode(errors="backslashreplace").decode()


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def _warnings() -> Iterator[list[str]]:
    """Collect what this thread logs as a warning, which belongs into the record and not on a worker's terminal."""
    logger = logging.getLogger("lesionclick")
    propagate = logger.propagate
    logger.propagate = False
    try:
        with collected_warnings() as found:
            yield found
    finally:
        logger.propagate = propagate
