"""What a case's result depends on, as digests: equal digests, equal masks and scores."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.evaluation.engine import Engine
from lesionclick.evaluation.records import OptionsRecord
from lesionclick.network.model_folder import available_models
from lesionclick.prompts.spec import TaskName
from lesionclick.tasks import TASKS

_DIGEST_BYTES = 16
_WHOLE = (".json", ".pth")
"""Endings of the files of a model folder that its predictions depend on."""


def digest(*parts: object) -> str:
    """Return the digest of values that `repr` tells apart."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=_DIGEST_BYTES).hexdigest()


def digest_files(paths: Iterable[Path]) -> str:
    """Return the digest of the content of files in an order.

    Raises
    ------
    InputError
        If one cannot be read.
    """
    total = hashlib.blake2b(digest_size=_DIGEST_BYTES)
    for path in paths:
        try:
            with path.open("rb") as file:
                total.update(hashlib.file_digest(file, hashlib.blake2b).digest())
        except OSError as error:
            raise InputError(f"{path}: expected a readable file, found {error}") from error
    return total.hexdigest()


def glance(case: Path, labels: Iterable[Path], model: str, options: OptionsRecord) -> str:
    """Return a digest that tells, without opening a file, whether anything may have changed since.

    Names, sizes and times of the files count, the time of the last change of a file's state too, which no copying tool
    sets back.

    Parameters
    ----------
    case
        Its folder.
    labels
        Files of its labels.
    model
        Digest of the model.
    options
        How it is run.

    Raises
    ------
    OSError
        If a file or folder cannot be looked at.
    """
    files = sorted(path for path in case.rglob("*") if not path.is_dir())
    states = [(str(path), path.stat()) for path in (*files, *labels)]
    seen = [(path, state.st_size, state.st_mtime_ns, state.st_ctime_ns) for path, state in states]
    return digest(seen, model, asdict(options))


def digest_models(
    folder: Path | None, engine: Engine | None = None, *, trust_checkpoint: bool = False
) -> dict[TaskName, str]:
    """Return the digest of the model of each task that there is one for.

    Parameters
    ----------
    folder
        As for `lesionclick.algorithm.Algorithm`.
    engine
        Where cases run in containers; then the image's identity counts, and the folder's files where there is one.
    trust_checkpoint
        As for `lesionclick.algorithm.Algorithm`.

    Raises
    ------
    ModelError
        If there is no model at all, or one is broken or unknown.
    """
    image = engine.image_id() if engine else ""
    if engine and folder is None:
        return dict.fromkeys(TASKS, digest(image))
    models = available_models(folder, trust_checkpoint=trust_checkpoint)
    return {task: digest(image, digest_files(_model_files(path))) for task, path in models.items()}


def _model_files(folder: Path) -> list[Path]:
    """Return the files that predictions depend on; a fold may be a link to a folder elsewhere."""
    paths = (Path(place, name) for place, _, names in os.walk(folder, followlinks=True) for name in names)
    return sorted(path for path in paths if path.suffix in _WHOLE and path.is_file())
