"""Replay of Task 1: step k is a job that sees the first k tumour and the first k background clicks of a PET/CT case.

With autoPET V's steps it sees k strokes, each drawn into the largest error of the mask before.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from tqdm import tqdm

from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import Done, Jobs, Run, label_paths, read_labels
from lesionclick.evaluation.measures import PETCT, SCRIBBLES, MaskPair, Scores, areas, score
from lesionclick.evaluation.steps import STEPS, Challenge, Options, Replay, Step
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.interfaces import LESION_CLICKS, TUMOR_LESION_SEGMENTATION
from lesionclick.images import Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.rules import RulesActed
from lesionclick.petct.session import Segmentation
from lesionclick.prompts.points import Point, Prompts
from lesionclick.simulation.readers import corrective_pair
from lesionclick.simulation.strokes import corrective_stroke

MASK = TUMOR_LESION_SEGMENTATION.socket
"""The one output."""


@dataclass(frozen=True)
class PetCtStep(Step):
    """One job of a PET/CT case.

    Attributes
    ----------
    prompts
        What it saw.
    rules
        How often the rules after the network acted; None where the job does not tell.
    """

    prompts: Prompts
    rules: RulesActed | None = None

    @property
    def n_points(self) -> int:
        """How many clicks the job saw."""
        return len(self.prompts)

    @property
    def mask(self) -> Path:
        """What it left, a file of the replay's output."""
        return self.masks[MASK]


@dataclass(frozen=True)
class PetCtReplay(Replay[PetCtStep]):
    """All steps of one PET/CT case, with the PET that a report shows."""

    measures = PETCT
    challenge: ClassVar[Challenge] = "autopet4"
    points_are: ClassVar[str] = "clicks"
    """What a report calls the points that a step saw."""

    pet: Volume

    @property
    def label(self) -> Volume | None:
        """The true mask, where there is one."""
        return self.labels.get(MASK)

    @property
    def areas(self) -> Scores | None:
        """Areas under the scores over the steps of the challenge; None where they are not all there."""
        scores = [step.scores for step in self.steps if step.scores]
        is_complete = [step.number for step in self.steps] == list(STEPS[self.challenge])
        return areas(scores) if is_complete and scores else None


@dataclass(frozen=True)
class StrokeReplay(PetCtReplay):
    """All steps of one PET/CT case with strokes, scored as autoPET V does."""

    measures = SCRIBBLES
    challenge = "autopet5"
    points_are = "points"


def replay_case(folder: CaseFolder, run: Run, output: Path, options: Options) -> PetCtReplay:
    """Replay one PET/CT case.

    Parameters
    ----------
    folder
        The case.
    run
        What handles a job.
    output
        Masks go to `<output>/step_<kk>.mha`.
    options
        Which steps, with which labels and clicks.

    Raises
    ------
    LesionClickError
        If a step fails or breaks the output contract, with the name of the case and the step.
    """
    case = PetCtCase.read(folder)
    jobs = Jobs(folder, run, output, {MASK: "step_{step:02d}.mha"})
    labels = read_labels(folder, label_paths(options.labels, jobs.case_name, {MASK: ""}) if options.labels else {})
    all_steps = STEPS[options.challenge]
    if options.corrections and not (labels and list(options.numbers) == list(all_steps[: len(options.numbers)])):
        raise InputError(
            f"{jobs.case_name}: {options.corrections} need a label and steps 0, 1, 2, ... up to {all_steps[-1]}, "
            f"found {list(options.numbers)}{'' if labels else ' and no label'}"
        )

    rng = np.random.default_rng(0)
    kind = StrokeReplay if options.challenge == "autopet5" else PetCtReplay
    prompts = Prompts() if options.corrections else case.prompts
    steps = []
    for number in tqdm(options.numbers, desc=jobs.case_name, unit="step", disable=None):
        given = prompts if options.corrections else prompts.at_step(number)
        job = jobs.run_step(number, {LESION_CLICKS: given})
        pairs = list(job.pairs(labels).values())
        scores = score(kind.measures, pairs) if pairs else None
        steps.append(PetCtStep(number, job.masks, scores, job.seconds, given, _find_rules(job.told)))
        if kind is StrokeReplay:
            prompts = prompts.followed_by(_corrective_stroke(pairs[0], number, rng))
        elif options.corrective:
            prompts = prompts.followed_by(_corrective_clicks(pairs[0], rng))
    return kind(jobs.case_name, labels, tuple(steps), case.pet)


def _find_rules(told: Done | RulesActed | None) -> RulesActed | None:
    if told is None or isinstance(told, RulesActed):
        return told
    return told.segmentation.rules if isinstance(told.segmentation, Segmentation) else None


def _corrective_clicks(masks: MaskPair, rng: np.random.Generator) -> tuple[Point, ...]:
    tumor, background = corrective_pair(masks.true_voxels, masks.predicted_voxels, rng)
    return Prompts.from_indices(
        tumor_zyx=() if tumor is None else tumor, background_zyx=() if background is None else background
    ).points


def _corrective_stroke(masks: MaskPair, number: int, rng: np.random.Generator) -> tuple[Point, ...]:
    stroke = corrective_stroke(masks.true_voxels, masks.predicted_voxels, rng)
    if stroke is None:
        return ()
    return tuple(Point(stroke.kind, (float(x), float(y), float(z)), number) for z, y, x in stroke.voxels_zyx.tolist())
