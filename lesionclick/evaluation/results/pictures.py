"""A case of a finished run seen again: what its replay's report shows of it, from the files that the run left."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.evaluation import longitudinal_report, petct_report
from lesionclick.evaluation.figures import Picture
from lesionclick.evaluation.longitudinal_replay import LongitudinalReplay, LongitudinalStep
from lesionclick.evaluation.petct_replay import PetCtReplay, PetCtStep
from lesionclick.evaluation.results.runs import CaseFiles, CaseResult
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
    files, folder, sockets = _open(case)
    read = PetCtCase.read(folder)
    shown = sorted({min(files.masks), max(files.masks)})
    steps = [
        PetCtStep(
            number, _by_socket(files.masks[number], sockets), case.steps.get(number), 0.0, read.prompts.at_step(number)
        )
        for number in shown
    ]
    replay = PetCtReplay(case.name, _read_labels(files, sockets), steps, read.pet)
    return CaseView(petct_report.describe(replay), [petct_report.projections(replay, step) for step in steps])


def view_longitudinal(case: CaseResult) -> CaseView:
    """Return the bodies of a longitudinal case, with the follow-up at every step.

    Raises
    ------
    InputError
        If its files are not known, or not where the run had them.
    """
    files, folder, sockets = _open(case)
    read = LongitudinalCase.read(folder)
    n_points = sum(len(followup.points) for followup in read.followups)
    steps = [
        LongitudinalStep(number, _by_socket(masks, sockets), case.steps.get(number), 0.0, n_points if number else 0, {})
        for number, masks in sorted(files.masks.items())
    ]
    replay = LongitudinalReplay(case.name, _read_labels(files, sockets), steps, read)
    return CaseView(longitudinal_report.describe(replay), longitudinal_report.bodies(replay))


def _open(case: CaseResult) -> tuple[CaseFiles, CaseFolder, dict[str, Socket]]:
    """Return the files of a case, its folder, and its outputs by their slugs."""
    if case.files is None:
        raise InputError(f"{case.name}: expected its folder, label and masks, found no record of them")
    folder = CaseFolder.open(case.files.case)
    return case.files, folder, {output.socket.slug: output.socket for output in folder.interface.outputs}


def _by_socket(by_slug: Mapping[str, Path], sockets: Mapping[str, Socket]) -> dict[Socket, Path]:
    return {sockets[slug]: one for slug, one in by_slug.items()}


def _read_labels(files: CaseFiles, sockets: Mapping[str, Socket]) -> dict[Socket, Volume]:
    return {sockets[slug]: Volume.read(path) for slug, path in files.labels.items()}
