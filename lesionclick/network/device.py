"""The device that networks run on."""

import logging

import torch

logger = logging.getLogger(__name__)


def default_device() -> torch.device:
    """Return CUDA where there is one, else the CPU with a warning."""
    if torch.cuda.is_available():
        torch.backends.cudnn.benchmark = True  # all tiles have one shape, so the search pays off
        return torch.device("cuda")
    logger.warning("no CUDA device found: predicting on the CPU, which takes many times longer")
    return torch.device("cpu")
