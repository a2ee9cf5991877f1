"""An algorithm without models, for tests of what calls one."""

import shutil
import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.tasks import Task, task_of


class AnsweringAlgorithm:
    """Stands for `lesionclick.algorithm.Algorithm`: answers every case with the mask of its task.

    Attributes
    ----------
    masks
        File to answer with, by task.
    loaded
        What `load` was called with: the model folder and the tasks, sorted.
    """

    def __init__(self, masks: Mapping[str, Path]) -> None:
        self.masks = masks
        self.loaded: list[tuple[Path | None, list[str]]] = []

    def load(self, folder: Path | None = None, *, tasks: Any) -> "AnsweringAlgorithm":
        self.loaded.append((folder, sorted(tasks)))
        return self

    def model(self, _: Task) -> Any:
        return types.SimpleNamespace(device="cpu")

    def handle(self, input_dir: Path, output_dir: Path) -> None:
        folder = CaseFolder.open(input_dir)
        for path in folder.mask_paths(output_dir).values():
            path.parent.mkdir(parents=True)
            shutil.copy(self.masks[task_of(folder).name], path)
