"""What a worker does: one case of a cohort, from its folder to its masks and its record."""

from __future__ import annotations

import importlib.metadata
import logging
import math
import os
import platform
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
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
from lesionclick.cohort.steps import EVALUATED, CaseStep
from lesionclick.cohort.work import CohortCase, Outcome, Work
from lesionclick.errors import LesionClickError, ModelError
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.jobs import read_labels
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
from lesionclick.tasks import task_of

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
        run = _CaseRun(case, work, folder / "masks")
        try:
            if run.is_known(out.record(case.name)):
                out.amend(run.record, folder)
                return Outcome(case.name, None, perf_counter() - begin)
            run.run()
        except Exception as error:
            run.fail(error)
        seconds = {**run.watch.seconds, "total": perf_counter() - begin}
        told = tuple(dict.fromkeys([*run.kept_warnings, *warnings]))
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
        run = _CaseRun(case, work, folder / "masks")
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
    record = CohortFolder(work.output).record(case.name)
    if record is None or not record.done or record.task not in work.models:
        return False
    try:
        return record.files == _CaseRun(case, work, Path()).look() and CohortFolder(work.output).has_masks(record)
    except (LesionClickError, OSError):
        return False  # the worker tells of it


class _CaseRun:
    """A case that is being done, and what is known of it so far, as its record."""

    def __init__(self, case: CohortCase, work: Work, masks: Path) -> None:
        self.work = work
        self.watch = Stopwatch()
        self._case = case
        self._masks = masks
        self._earlier: Record | None = None
        self.kept_warnings: list[str] = []
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

    def look(self) -> str:
        """Open the case's folder, and return the digest that needs no look into the files."""
        self._folder = CaseFolder.open(self._case.path)
        self._task = task_of(self._folder)
        self._evaluated = EVALUATED[self._task.name]
        model = self.work.models.get(self._task.name, "")
        self._know(task=self._task.name, model=model)
        self._label_paths = self._find_labels()
        files = glance(self._case.path, self._label_paths.values(), model, self.work.options)
        self._know(files=files, labels={one.slug: str(path) for one, path in self._label_paths.items()})
        return files

    def learn_inputs(self) -> None:
        """Read what the result depends on, so that the record has its fingerprint."""
        with self.watch.stage("fingerprint"):
            self.look()
            images, labels = self._folder.fingerprint(), digest_files(self._label_paths.values())
            model, options = self.record.model, self.work.options
            self._know(
                fingerprint=digest((images, labels), self.record.labels.keys(), model, options),
                inputs=digest(images, model, options),
            )

    def is_known(self, earlier: Record | None) -> bool:
        """Tell whether the case was done from the same inputs, and if so let the record be that one."""
        self.learn_inputs()
        same = earlier is not None and earlier.done and earlier.fingerprint == self.record.fingerprint
        if earlier is None or not same or not CohortFolder(self.work.output).has_masks(earlier):
            self._earlier = earlier
            return False
        self.record = replace(earlier, files=self.record.files, path=self.record.path, labels=self.record.labels)
        return True

    def run(self) -> None:
        """Do the case."""
        runner = self._runner()
        self._know(worker=replace(self.record.worker, device=runner.device))
        self._masks.mkdir()
        if self.work.labels and not self._label_paths:
            logger.warning("%s: not all labels in %s, %s", self._case.name, self.work.labels, _NOT_SCORED)
        labels = read_labels(self._folder, self._label_paths, numbered=self._evaluated.numbered)
        steps = self._evaluated.steps(self._folder, self.work.options.steps)
        self._know(steps=tuple(self._run_step(runner, step, labels) for step in steps))

    def fail(self, error: Exception) -> None:
        """Let the record tell of an error, and of no masks; without a model there is no fingerprint either."""
        fingerprint = self.record.fingerprint if self.record.model else None
        self._know(error=ErrorRecord(type(error).__name__, str(error)), steps=(), fingerprint=fingerprint)

    def _run_step(self, runner: Runner, step: CaseStep, labels: Mapping[Socket, Volume]) -> StepRecord:
        parts = self._evaluated.parts(self._folder)
        paths = {one: self._masks / step.file_name(part) for one, part in parts.items()}
        told = runner.run(step, paths)
        watch = Stopwatch()
        scores = None
        if labels:
            with watch.stage("score"):
                pairs = {
                    one: MaskPair(label.array, Volume.read(paths[one]).array, label.grid.spacing_zyx)
                    for one, label in labels.items()
                }
                found = self._evaluated.score(lambda: runner.case, pairs)
                scores = {key: None if math.isnan(value) else value for key, value in found.items()}
        masks = {one.slug: f"masks/{self._case.name}/{path.name}" for one, path in paths.items()}
        return StepRecord(step.number, step.n_points, masks, scores, {**told.seconds, **watch.seconds}, told.rules)

    def _runner(self) -> Runner:
        work, models = self.work, tuple(self.work.models.items())
        earlier = self._earlier
        same = earlier is not None and earlier.done and earlier.inputs == self.record.inputs
        if earlier is not None and same and CohortFolder(self.work.output).has_masks(earlier):
            self._know(versions=earlier.versions)
            self.kept_warnings = [one for one in earlier.warnings if not one.endswith(_NOT_SCORED)]
            return FromMasks(work.output, earlier, self._task, self._folder)
        if work.options.container:
            engine = _engine(work.engine, work.options.container, work.model, models)
            return InContainers(engine, self._task, self._folder)
        algorithm = _algorithm(work.model, models, work.trust_checkpoint, work.options.exact)
        return InSession(algorithm, self._task, self._folder, self.watch)

    def _find_labels(self) -> dict[Socket, Path]:
        """Return the labels of all outputs, or none where one is missing."""
        if self.work.labels is None:
            return {}
        paths = self._evaluated.label_paths(self._folder, self._case.name, self.work.labels)
        return paths if all(path.is_file() for path in paths.values()) else {}

    def _know(self, **values: Any) -> None:
        self.record = replace(self.record, **values)


# One model at a time, under the digests of what it was loaded from: a worker may outlive many commands.
@lru_cache(maxsize=1)
def _algorithm(
    folder: Path | None, models: tuple[tuple[TaskName, str], ...], trust_checkpoint: bool, exact: bool
) -> Algorithm:
    _require_same(digest_models(folder), dict(models), f"model folder {folder}" if folder else "embedded models")
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
