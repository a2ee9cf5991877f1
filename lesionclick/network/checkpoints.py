"""nnU-Net's checkpoints: one of each fold, read without running code."""

from __future__ import annotations

import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lesionclick.errors import ModelError

# What NumPy's scalars and arrays name in a pickle; NumPy 1 wrote numpy.core where NumPy 2 writes numpy._core.
_NUMPY_FUNCTIONS = {"scalar": np.float64(0).__reduce__()[0], "_reconstruct": np.zeros(0).__reduce__()[0]}
_NUMPY_NAMES = ("bool", "uint8", "int32", "int64", "float16", "float32", "float64")
SAFE_GLOBALS: list[Any] = [
    np.ndarray,
    np.dtype,
    *(type(np.dtype(name)) for name in _NUMPY_NAMES),
    *((f, f"numpy.{core}.multiarray.{name}") for name, f in _NUMPY_FUNCTIONS.items() for core in ("core", "_core")),
]
"""All that an honest nnU-Net checkpoint holds besides what `torch.load(weights_only=True)` reads by itself."""


@dataclass(frozen=True)
class Checkpoint:
    """What inference needs of a checkpoint.

    Attributes
    ----------
    path
        The file.
    weights
        By their names. They stay in the file until they are used, and so does what training keeps beside them.
    configuration
        Name of the configuration that the fold was trained with.
    trainer
        Name of its trainer's class; empty where the file does not say.
    mirror_axes
        Axes (of z, y, x) over which nnU-Net may mirror at inference.
    """

    path: Path
    weights: Mapping[str, torch.Tensor]
    configuration: str
    trainer: str
    mirror_axes: tuple[int, ...]

    @classmethod
    def read(cls, path: Path, *, trust: bool = False) -> Checkpoint:
        """Read a checkpoint.

        Parameters
        ----------
        path
            The file.
        trust
            Let it run any code that it holds.

        Raises
        ------
        ModelError
            If it is broken, or holds more than tensors, plain Python values and NumPy numbers.
        """
        with (
            broken_is_an_error(path, "expected an nnU-Net v2 checkpoint"),
            torch.serialization.safe_globals(SAFE_GLOBALS),
        ):
            unsafe = [] if trust else torch.serialization.get_unsafe_globals_in_checkpoint(str(path))
            if unsafe:
                raise ModelError(
                    f"{path}: expected tensors, plain Python values and NumPy numbers, found {unsafe}, which may run "
                    "code; --trust-checkpoint loads it all the same, if you trust its source"
                )
            # the oldest form of PyTorch's files, which is no archive, cannot be mapped
            mapped = zipfile.is_zipfile(path)
            content = torch.load(path, map_location="cpu", weights_only=not trust, mmap=mapped)
            return cls(
                path,
                weights=content["network_weights"],
                configuration=content["init_args"]["configuration"],
                trainer=content.get("trainer_name", ""),
                mirror_axes=tuple(content.get("inference_allowed_mirroring_axes") or ()),
            )


def find_checkpoints(folder: Path) -> list[Path]:
    """Return one checkpoint of each fold of a model folder, in the order of the folds' names.

    A fold without ``checkpoint_final.pth`` gives ``checkpoint_best.pth``.

    Raises
    ------
    ModelError
        If there is no fold, or one without either.
    """
    folds = sorted(path for path in folder.glob("fold_*") if path.is_dir())
    if not folds:
        raise ModelError(f"{folder}: expected folders fold_<n> or fold_all, found none")
    found = []
    for fold in folds:
        paths = [fold / f"checkpoint_{kind}.pth" for kind in ("final", "best")]
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            raise ModelError(f"{fold}: expected checkpoint_final.pth or checkpoint_best.pth, found neither")
        found.append(path)
    return found


@contextmanager
def broken_is_an_error(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a foreign file makes its reader raise into a ModelError."""
    try:
        yield
    except ModelError:
        raise
    except Exception as error:
        raise ModelError(f"{path}: {expected}, found {type(error).__name__}: {error}") from error
