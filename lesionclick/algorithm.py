"""One case folder becomes its masks: choose the model, read, segment, write."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lesionclick.budget import Budget, Stopwatch
from lesionclick.grand_challenge.case_folder import CaseFolder, remove_masks
from lesionclick.grand_challenge.image_files import write_masks
from lesionclick.tasks import TASKS, Case, Model, Session, Task, task_of

if TYPE_CHECKING:
    from lesionclick.prompts.spec import TaskName
    from lesionclick.tasks import AnySegmentation

logger = logging.getLogger(__name__)

_REFUSED_WITHIN_S = 0.1
"""Most cases that are refused are so within this time, before the networks' packages are imported."""


@dataclass(frozen=True)
class Done:
    """A case that was handled.

    Attributes
    ----------
    masks
        The files that were written.
    segmentation
        What the session said.
    seconds
        Spent on each stage, reading and writing included.
    """

    masks: tuple[Path, ...]
    segmentation: AnySegmentation
    seconds: Mapping[str, float]


class Algorithm:
    """The models, and the session of the case that came last: further steps of it need no second preprocessing.

    The model of a task is chosen by one rule, however the process runs: a folder that is given, else the platform's
    where it holds a model, else the embedded models. A case of a task that the folder has no model for is refused.

    Parameters
    ----------
    folder
        Model folder, or one that holds ``task1`` and ``task2``.
    trust_checkpoint
        Let checkpoints run any code that they hold.
    exact
        Compute as nnU-Net does, at its speed.
    """

    def __init__(self, folder: Path | None = None, *, trust_checkpoint: bool = False, exact: bool = False) -> None:
        self._folder = folder
        self._options = {"trust_checkpoint": trust_checkpoint, "exact": exact}
        self._models: dict[TaskName, Model] = {}
        self._latest: tuple[str, Session] | None = None

    @classmethod
    def load(
        cls,
        folder: Path | None = None,
        *,
        trust_checkpoint: bool = False,
        exact: bool = False,
        tasks: Iterable[TaskName] | None = None,
    ) -> Algorithm:
        """Return an algorithm whose models are loaded.

        Parameters
        ----------
        folder, trust_checkpoint, exact
            See `Algorithm`.
        tasks
            Whose models are loaded now; by default all that the folder has.

        Raises
        ------
        ModelError
            If a model is missing, broken, of an unknown kind, or refused.
        """
        from lesionclick.network.model_folder import available_models

        algorithm = cls(folder, trust_checkpoint=trust_checkpoint, exact=exact)
        for task in available_models(folder, trust_checkpoint=trust_checkpoint) if tasks is None else tasks:
            algorithm.model(TASKS[task])
        return algorithm

    def model(self, task: Task) -> Model:
        """Return the model of a task, loaded when it is first needed.

        Raises
        ------
        ModelError
            As `load`.
        """
        if task.name not in self._models:
            from lesionclick.network.model_folder import find_model_folder

            folder = find_model_folder(self._folder, task.name)
            logger.info("model: %s", folder)
            self._models[task.name] = task.load(folder, **self._options)
        return self._models[task.name]

    def handle(self, input_dir: Path, output_dir: Path, budget: Budget | None = None) -> Done:
        """Handle the case in `input_dir` within its budget and write its masks to `output_dir`.

        Masks that are there under their names from an earlier run go first.

        Raises
        ------
        InputError
            If the case is not what the platform promises, or the masks cannot be written. Then there is no mask.
        ModelError
            If there is no model for its task, or it is broken.
        OutOfMemoryError
            If the memory does not suffice.
        """
        watch = Stopwatch()
        remove_masks(input_dir, output_dir)
        folder = CaseFolder.open(input_dir)
        task = task_of(folder)
        session, prompts = self._session(task, folder, watch)
        paths = folder.mask_paths(output_dir)
        folder.prepare_output(output_dir)
        segmentation = session.segment(prompts, budget=budget)
        with watch.stage("write"):
            masks = task.masks(segmentation)
            write_masks({paths[socket]: mask for socket, mask in masks.items()})
        logger.info("wrote %s", ", ".join(map(str, paths.values())))
        return Done(tuple(paths.values()), segmentation, {**watch.seconds, **segmentation.seconds})

    def _session(self, task: Task, folder: CaseFolder, watch: Stopwatch) -> tuple[Session, object]:
        """Return a session for the case, the latest one where only the prompts are others, and its prompts."""
        with watch.stage("open case"):
            content = folder.fingerprint(without=task.prompt_sockets)
            if self._latest is not None and self._latest[0] == content:
                session = self._latest[1]
                return session, task.read_prompts(folder, session.case)
        self._latest = None  # its memory is free before the new case is read
        with ThreadPoolExecutor(1) as pool:  # inflating leaves Python's lock alone, for imports and the model
            reading = pool.submit(task.read, folder)
            _raise_soon(reading)
            with watch.stage("load model"):
                model = self.model(task)
            with watch.stage("read case"):
                case = reading.result()
        session = task.open(model, case)
        self._latest = content, session
        return session, None


def _raise_soon(reading: Future[Case]) -> None:
    """Raise the error of a case that is refused at once; for the others, wait no longer than that."""
    with contextlib.suppress(TimeoutError):
        reading.result(timeout=_REFUSED_WITHIN_S)
