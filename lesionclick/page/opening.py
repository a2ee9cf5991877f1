"""Whatever a reader has of a case becomes an open study: a case folder, two image files, or a DICOM study."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import LISTING
from lesionclick.grand_challenge.interfaces import INTERFACES
from lesionclick.log import collected_warnings
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.longitudinal.model import LongitudinalModel
from lesionclick.longitudinal.session import LongitudinalSession
from lesionclick.page.longitudinal import LongitudinalStudy
from lesionclick.page.petct import PetCtStudy
from lesionclick.page.study import MACHINES_OWN, Study
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.tasks import read_case

IMAGES = (".mha", ".mhd", ".nii", ".nii.gz", ".nrrd")


@dataclass(frozen=True)
class Choice:
    """Which series of a DICOM study are meant, by UID or number; None where there is one of a kind."""

    pet: str | None = None
    ct: str | None = None


def open_study(paths: Sequence[Path], *, model: Path | None = None, choice: Choice = Choice()) -> Study:
    """Read a case, load its model, and open a session; the study tells what was warned of.

    Parameters
    ----------
    paths
        A case folder of Grand Challenge, a CT and a PET file in this order, or the folder of a DICOM study.
    model
        Model folder; by default the platform's, else the embedded one of the task.
    choice
        Of the series of a DICOM study.

    Raises
    ------
    InputError
        If the case is none of these, or not as it should be.
    ModelError
        If the model is broken or missing.
    """
    if choice != Choice() and not (len(paths) == 1 and paths[0].is_dir() and _is_dicom(paths[0])):
        shown = ", ".join(map(str, paths)) or "nothing"
        raise InputError(f"{shown}: expected the folder of a DICOM study, of which --pet and --ct choose series")
    with collected_warnings(without=MACHINES_OWN) as warnings:
        study = _open(paths, model, choice)
    study.warnings = tuple(warnings)
    return study


def default_output(paths: Sequence[Path]) -> Path:
    """Return the folder beside a case that a reading writes to."""
    last = paths[-1].resolve()
    return last.with_name(f"{_stem(last)}-lesionclick")


def _open(paths: Sequence[Path], model: Path | None, choice: Choice) -> Study:
    match paths:
        case [folder] if folder.is_dir():
            name = folder.resolve().name
            if _is_dicom(folder):
                from lesionclick.dicom.study import read_study

                study = read_study(folder, pet=choice.pet, ct=choice.ct)
                return PetCtStudy(PetCtSession(PetCtModel.load(model), study.case), name, study.pet)
            case = read_case(folder)
            if isinstance(case, LongitudinalCase):
                return LongitudinalStudy(LongitudinalSession(LongitudinalModel.load(model), case), name)
        case [ct, pet] if _is_image(ct) and _is_image(pet):
            case, name = PetCtCase.from_files(ct, pet), _stem(pet)
        case _:
            found = ", ".join(map(str, paths)) or "nothing"
            raise InputError(f"case: expected a folder, or a CT and a PET file ({', '.join(IMAGES)}), found {found}")
    return PetCtStudy(PetCtSession(PetCtModel.load(model), case), name)


def _is_dicom(folder: Path) -> bool:
    """Tell whether a folder holds a DICOM study; a case is told without the packages that read one."""
    sockets = (socket for task in INTERFACES for interface in task for socket in interface.inputs)
    if any((folder / path).exists() for path in (LISTING, *(socket.relative_path for socket in sockets))):
        return False
    from lesionclick.dicom.study import is_dicom_folder

    return is_dicom_folder(folder)


def _is_image(path: Path) -> bool:
    return not path.is_dir() and path.name.endswith(IMAGES)


def _stem(path: Path) -> str:
    endings = [ending for ending in IMAGES if path.name.endswith(ending)]
    return path.name.removesuffix(max(endings, key=len)) if endings else path.name
