"""The tasks that this package knows, each with its interfaces, its model and its session: the one place that tells.

A case is read without the networks' packages, which take longer to import than most cases to refuse: they come with the
model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from lesionclick.budget import Budget
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.grand_challenge.interfaces import (
    LESION_CLICKS,
    LONGITUDINAL_CT,
    PET_CT,
    REGION_OF,
    REGIONS,
    TUMOR_LESION_SEGMENTATION,
    Interface,
    Socket,
)
from lesionclick.images import Volume
from lesionclick.longitudinal.case import LongitudinalCase, read_followup_points
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.petct.case import PetCtCase, warn_about_prompts
from lesionclick.prompts.points import Prompts

if TYPE_CHECKING:
    import torch

    from lesionclick.longitudinal.model import LongitudinalModel
    from lesionclick.longitudinal.session import LongitudinalSegmentation, LongitudinalSession
    from lesionclick.network.model_folder import ModelFolder
    from lesionclick.petct.model import PetCtModel
    from lesionclick.petct.session import PetCtSession, Segmentation
    from lesionclick.prompts.spec import TaskName

    AnySegmentation = Segmentation | LongitudinalSegmentation

Case = PetCtCase | LongitudinalCase


class Model(Protocol):
    """A loaded model of any task, with the content of its folder."""

    content: ModelFolder
    device: torch.device


class Session(Protocol):
    """A model and a case of any task; what `segment` takes as prompts is the task's."""

    case: Any

    def segment(self, prompts: Any = None, /, *, budget: Budget | None = None) -> Any:
        """Return what the network and the rules say of the case."""


@dataclass(frozen=True)
class Task:
    """A task of the challenge.

    Attributes
    ----------
    name
        Also that of the folder with its model.
    title
        For people.
    interfaces
        Sets of inputs that it answers.
    prompt_sockets
        Inputs that change from step to step of one case.
    read
        Reads the case in a folder, and checks it.
    read_prompts
        Reads the prompts alone, for a case whose other inputs are known.
    load
        Loads a model; see `PetCtModel.load`.
    open
        Makes a session.
    masks
        Returns the masks of a segmentation by socket.
    """

    name: TaskName
    title: str
    interfaces: tuple[Interface, ...]
    prompt_sockets: tuple[Socket, ...]
    read: Callable[[CaseFolder], Case]
    read_prompts: Callable[[CaseFolder, Any], Any]
    load: Callable[..., Model]
    open: Callable[[Any, Any], Session]
    masks: Callable[[Any], Mapping[Socket, Volume]]


def _load_petct(*args: Any, **options: Any) -> PetCtModel:
    from lesionclick.petct.model import PetCtModel

    return PetCtModel.load(*args, **options)


def _load_longitudinal(*args: Any, **options: Any) -> LongitudinalModel:
    from lesionclick.longitudinal.model import LongitudinalModel

    return LongitudinalModel.load(*args, **options)


def _open_petct(model: PetCtModel, case: PetCtCase) -> PetCtSession:
    from lesionclick.petct.session import PetCtSession

    return PetCtSession(model, case)


def _open_longitudinal(model: LongitudinalModel, case: LongitudinalCase) -> LongitudinalSession:
    from lesionclick.longitudinal.session import LongitudinalSession

    return LongitudinalSession(model, case)


def _read_prompts(folder: CaseFolder, case: PetCtCase) -> Prompts:
    prompts = read_clicks(folder.json(LESION_CLICKS))
    warn_about_prompts(prompts, case.pet)
    return prompts


def _read_points(folder: CaseFolder, case: LongitudinalCase) -> dict[str, LesionPoints]:
    return {one.region: read_followup_points(folder, REGION_OF[one.region], one.ct.grid) for one in case.followups}


def _masks_by_region(segmentation: LongitudinalSegmentation) -> dict[Socket, Volume]:
    return {REGION_OF[region].mask.socket: mask for region, mask in segmentation.masks.items()}


TASKS: dict[TaskName, Task] = {
    task.name: task
    for task in (
        Task(
            name="task1",
            title="PET/CT",
            interfaces=PET_CT,
            prompt_sockets=(LESION_CLICKS,),
            read=PetCtCase.read,
            read_prompts=_read_prompts,
            load=_load_petct,
            open=_open_petct,
            masks=lambda segmentation: {TUMOR_LESION_SEGMENTATION.socket: segmentation.mask},
        ),
        Task(
            name="task2",
            title="longitudinal CT",
            interfaces=LONGITUDINAL_CT,
            prompt_sockets=tuple(region.followup_clicks for region in REGIONS),
            read=LongitudinalCase.read,
            read_prompts=_read_points,
            load=_load_longitudinal,
            open=_open_longitudinal,
            masks=_masks_by_region,
        ),
    )
}


def task_of(folder: CaseFolder) -> Task:
    """Return the task that a case is of."""
    return next(task for task in TASKS.values() if folder.interface in task.interfaces)


def read_case(path: Path) -> Case:
    """Read and check the case in a folder, of whichever task it is.

    Raises
    ------
    InputError
        If anything is missing, broken, or not what the platform promises.
    """
    folder = CaseFolder.open(path)
    return task_of(folder).read(folder)
