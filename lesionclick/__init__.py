"""Click-guided lesion segmentation in PET/CT and longitudinal CT, for the autoPET/CT IV challenge and for scripts."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from lesionclick.images import Grid, Volume
    from lesionclick.longitudinal.case import Baseline, Followup, LongitudinalCase
    from lesionclick.longitudinal.model import LongitudinalModel
    from lesionclick.longitudinal.session import LongitudinalSession
    from lesionclick.petct.case import PetCtCase
    from lesionclick.petct.model import PetCtModel
    from lesionclick.petct.session import PetCtSession
    from lesionclick.prompts.points import Point, Prompts

_HOMES = {
    "Grid": "images",
    "Volume": "images",
    "Point": "prompts.points",
    "Prompts": "prompts.points",
    "PetCtCase": "petct.case",
    "PetCtModel": "petct.model",
    "PetCtSession": "petct.session",
    "Baseline": "longitudinal.case",
    "Followup": "longitudinal.case",
    "LongitudinalCase": "longitudinal.case",
    "LongitudinalModel": "longitudinal.model",
    "LongitudinalSession": "longitudinal.session",
}

__all__ = [  # noqa: RUF022  (in the order of use)
    "Grid",
    "Volume",
    "Point",
    "Prompts",
    "PetCtCase",
    "PetCtModel",
    "PetCtSession",
    "Baseline",
    "Followup",
    "LongitudinalCase",
    "LongitudinalModel",
    "LongitudinalSession",
]


def __getattr__(name: str) -> object:
    """Import what is asked for when it is asked for: a command that needs no network does not wait for PyTorch."""
    if name in _HOMES:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
