"""The device that networks run on, and what a process sets for its sake."""

import ctypes
import logging
import sys

import torch

logger = logging.getLogger(__name__)

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)
_LARGEST_KEPT = 32 * 2**20
"""Bytes of the largest block that GNU's C library keeps, by its own limit."""
_KEPT_IN_ALL = 2**31 - 1


def default_device() -> torch.device:
    """Return CUDA where there is one, else the CPU with a warning."""
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True  # all tiles have one shape, so the search pays off
        return torch.device("cuda")
    logger.warning("no CUDA device found: predicting on the CPU, which takes many times longer")
    keep_memory()
    return torch.device("cpu")


def keep_memory() -> None:
    """Let this process keep the memory of blocks of up to 32 MiB that are freed, and some more at its end.

    Features of tile after tile ask for the same blocks, and the system clears each page that it gives: a seventh of a
    training step on a CPU.
    """
    if sys.platform == "linux" and (mallopt := getattr(ctypes.CDLL(None), "mallopt", None)):  # not every C library's
        mallopt(_MMAP_THRESHOLD, _LARGEST_KEPT)
        mallopt(_TRIM_THRESHOLD, _KEPT_IN_ALL)
        mallopt(_TOP_PAD, 2 * _LARGEST_KEPT)
