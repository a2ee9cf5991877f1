"""A case of a finished run seen again: what its replay's report shows of it, from the files that the run left."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.evaluation import longitudinal_report, petct_report
from lesionclick.evaluation.figures import Picture
from lesionclick.evaluation.longitudinal_replay import LongitudinalReplay, LongitudinalStep
from lesionclick.evaluation.petct_replay import PetCtReplay, PetCtStep
from lesionclick.evaluation.results.runs import CaseResult
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.interfaces import Socket
from lesionclick.images import Volume
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.petct.case import PetCtCase


@dataclass(frozen=True)
class CaseView:
    """What is shown of a case.

    Attributes
    ----------
    facts
        Its size and its lesions in words.
    pictures
        With captions.
    """

    facts: str
    pictures: Sequence[Picture]


def view_petct(case: CaseResult) -> CaseView:
    """Return the projections of a PET/CT case at the first and the last step.

    Raises
    ------
    InputError
        If its files are not known, or not where the run had them.
    """
    folder, labels, masks = _open(case)
    read = PetCtCase.read(folder)
    steps = [
        PetCtStep(number, masks[number], case.steps.get(number), 0.0, read.prompts.at_step(number))
        for number in sorted({min(masks), max(masks)})
    ]
    replay = PetCtReplay(case.name, labels, steps, read.pet)
    return CaseView(petct_report.describe(replay), [petct_report.projections(replay, step) for step in steps])


def view_longitudinal(case: CaseResult) -> CaseView:
    """Return the bodies of a longitudinal case, with the follow-up at every step.

    Raises
    ------
    InputError
        If its files are not known, or not where the run had them.
    """
    folder, labels, masks = _open(case)
    read = LongitudinalCase.read(folder)
    n_points = sum(len(followup.points) for followup in read.followups)
    steps = [
        LongitudinalStep(number, masks[number], case.steps.get(number), 0.0, n_points if number else 0, {})
        for number in sorted(masks)
    ]
    replay = LongitudinalReplay(case.name, labels, steps, read)
    return CaseView(longitudinal_report.describe(replay), longitudinal_report.bodies(replay))


def _open(case: CaseResult) -> tuple[CaseFolder, dict[Socket, Volume], dict[int, dict[Socket, Path]]]:
    """Return the folder of a case, its labels, and the files of its masks at each step."""
    if case.files is None:
        raise InputError(f"{case.name}: expected its folder, label and masks, found no record of them")
    folder = CaseFolder.open(case.files.case)
    sockets = {output.socket.slug: output.socket for output in folder.interface.outputs}
    for found in (case.files.labels, *case.files.masks.values()):
        if found.keys() != sockets.keys():
            raise InputError(f"{folder.path}: expected files of {sorted(sockets)}, found those of {sorted(found)}")
    labels = {sockets[slug]: Volume.read(path) for slug, path in case.files.labels.items()}
    masks = {
        number: {sockets[slug]: path for slug, path in paths.items()} for number, paths in case.files.masks.items()
    }
    return folder, labels, masks
