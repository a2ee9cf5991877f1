"""Accuracy of a Task 1 model over the 11 steps: real patients kept from training, and fresh phantoms.

    python benchmarks/accuracy.py real --sts ../shared/data/sts
    python benchmarks/accuracy.py phantoms --count 20 --steps 0 5 10
    python benchmarks/accuracy.py negatives --count 8 --steps 0 5 10

With ``--json FILE`` the scores are also written for `lesionclick evaluate` and `lesionclick card`.

Clicks of real patients are those of the organisers' script (seed 42); phantoms get the same procedure by their own
seed. ``real`` also moves each patient's clicks to the places of the next patient's, where they should do harm.
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from lesionclick.cohort.fingerprints import digest_models
from lesionclick.evaluation.measures import CHALLENGE, MaskPair, Scores, areas, mean, score
from lesionclick.evaluation.results.files import write_runs
from lesionclick.evaluation.results.runs import CaseResult, Origin, RunResult, tracer_in
from lesionclick.images import Grid, Volume
from lesionclick.petct.case import PetCtCase
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts
from lesionclick.simulation.patients import make_patient
from lesionclick.simulation.phantoms import Phantom, Tracer, make_phantom
from lesionclick.simulation.readers import official, simulate
from lesionclick.training.datasets import SPACING_XYZ, SPLIT_SEED, list_patients, split_patients

GENERATORS: dict[str, Callable[..., Phantom]] = {
    "new": make_patient,
    "randomised": partial(make_patient, randomised=True),
    "old": make_phantom,
}
ORGANS = {"new": "organs of true shape", "randomised": "organs of randomised shape and uptake", "old": "ellipsoids"}
"""What the phantoms of each generator are made of."""
FRESH_SEED = 1_000_000
"""First seed of the phantoms here; those of training count from 0."""


@dataclass(frozen=True)
class Labelled:
    """A case with its true mask."""

    name: str
    case: PetCtCase
    label: Volume


def real_cases(sts: Path, training: bool) -> Iterator[Labelled]:
    """Yield the held-out patients (or those of the training set) with official clicks.

    The official script fails for one of the training set, who is named and left out.
    """
    for patient in split_patients(list_patients(sts))[0 if training else 1]:
        try:
            one = read_patient(sts, patient)
        except ValueError as error:
            if not training:
                raise
            print(f"left out: {patient}: {error}")
        else:
            yield one


def read_patient(sts: Path, patient: str) -> Labelled:
    """Return a real patient with official clicks."""
    ct, pet, label = (Volume.read(sts / patient / f"{kind}.mha") for kind in ("ct", "pet", "label"))
    return Labelled(patient, PetCtCase(ct, pet, _clicks(*official(label.array > 0, pet.array))), label)


def phantom_cases(generator: str, count: int, lesions: int | None, seed: int = FRESH_SEED) -> Iterator[Labelled]:
    """Yield fresh phantoms of both tracers in turn with simulated clicks.

    Unless their number of lesions is given, phantoms without one are passed over.
    """
    while count:
        tracer: Tracer = "psma" if seed % 2 else "fdg"
        phantom = GENERATORS[generator](seed, tracer, lesions=lesions, spacing_xyz=SPACING_XYZ["task1"])
        if lesions is not None or phantom.label.array.any():
            points = simulate(phantom.label.array > 0, phantom.pet.array, np.random.default_rng(seed))
            case = PetCtCase(phantom.ct, phantom.pet, _clicks(*points))
            yield Labelled(f"{phantom.tracer}_{seed}", case, phantom.label)
            count -= 1
        seed += 1


def _clicks(tumor_zyx: np.ndarray, background_zyx: np.ndarray) -> Prompts:
    return Prompts.from_indices(tumor_zyx=tumor_zyx, background_zyx=background_zyx)


def move_clicks(clicks: Prompts, source: Grid, target: Grid) -> Prompts:
    """Carry clicks to the places of another image that lie at the same fractions of its size."""
    scale = np.array(target.shape_zyx) / np.array(source.shape_zyx)
    return clicks.moved(lambda places: np.floor(places * scale))


def run_steps(
    labelled: Labelled, model: PetCtModel, steps: Sequence[int], prompts: Prompts | None = None
) -> tuple[list[Scores], bool]:
    """Return the scores of the steps, and whether the last mask holds all clicks in the label and no other.

    The clicks are the case's own, or `prompts`.
    """
    session, label = PetCtSession(model, labelled.case), labelled.label.array
    clicks = labelled.case.prompts if prompts is None else prompts
    scores = []
    for step in steps:
        shown = clicks.at_step(step)
        mask = session.segment(shown).mask.array > 0
        scores.append(score(CHALLENGE, [MaskPair(label, mask, labelled.label.grid.spacing_zyx)]))
    tumor, background = (shown.on_grid(mask.shape).voxels_zyx(kind) for kind in (TUMOR, BACKGROUND))
    tumor = tumor[label[tuple(tumor.T)] > 0]
    return scores, bool(mask[tuple(tumor.T)].all() and not mask[tuple(background.T)].any())


def report(title: str, rows: dict[str, list[Scores]]) -> None:
    """Print the mean of each score per step, its area, and DSC of each case at the first and the last."""
    print(f"\n{title}: {len(rows)} cases")
    means = [mean(step) for step in zip(*rows.values(), strict=True)]
    whole = mean([areas(one) for one in rows.values()]) if len(means) == 11 else None
    for measure in CHALLENGE:
        if not all(np.isnan(step[measure.key]) for step in means):
            area = f"   area {whole[measure.key]:.3f}" if whole else ""
            print(f"{measure.key:7}" + " ".join(f"{step[measure.key]:7.3f}" for step in means) + area)
    print("  ".join(f"{name} {s[0]['dsc']:.2f}>{s[-1]['dsc']:.2f}" for name, s in rows.items()))


def main() -> None:
    """Run one of the three measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("real", "phantoms", "negatives"))
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"))
    parser.add_argument("--training-patients", action="store_true", help="real: the patients trained on instead")
    parser.add_argument("--count", type=int, default=20)
    parser.add_argument("--steps", type=int, nargs="+", default=list(range(11)))
    parser.add_argument("--model", type=Path)
    parser.add_argument("--generator", choices=GENERATORS, default="new", help="of the phantoms; old: ellipsoids")
    parser.add_argument("--json", type=Path, help="also write all scores to this file")
    args = parser.parse_args()
    model = PetCtModel.load(args.model)
    if args.what == "real":
        cases = list(real_cases(args.sts, args.training_patients))
    else:
        cases = list(phantom_cases(args.generator, args.count, 0 if args.what == "negatives" else None))
    results = {one.name: run_steps(one, model, args.steps) for one in cases}
    rows = {name: scores for name, (scores, _) in results.items()}
    runs = {args.what: rows}
    report(args.what, rows)
    held = sum(kept for _, kept in results.values())
    print(f"all clicks respected at step {args.steps[-1]} in {held} of {len(results)} cases")
    if args.what == "real":
        moved = {}
        for one, other in zip(cases, cases[1:] + cases[:1], strict=True):
            clicks = move_clicks(other.case.prompts, other.case.pet.grid, one.case.pet.grid)
            moved[one.name] = run_steps(one, model, args.steps, clicks)[0]
        report("clicks moved to another patient's places", moved)
        runs["real, clicks moved to another patient's places"] = moved
    if args.json:
        origin = replace(
            origins(args), model=digest_models(args.model)["task1"], command=shlex.join(["python", *sys.argv])
        )
        write_runs(args.json, [run_result(name, of_run, args.steps, origin) for name, of_run in runs.items()])


def origins(args: argparse.Namespace) -> Origin:
    """Name the data, the split and the seeds of what is measured."""
    if args.what == "real":
        split = "trained on" if args.training_patients else "held out from training"
        return Origin("Soft-tissue-Sarcoma, from the IBSI validation data set", split, f"split {SPLIT_SEED}, clicks 42")
    lesions = "without lesions" if args.what == "negatives" else "with lesions"
    return Origin(
        f"drawn patients with {ORGANS[args.generator]}, {lesions}", "fresh, never trained on", f"from {FRESH_SEED} on"
    )


def run_result(name: str, rows: dict[str, list[Scores]], steps: Sequence[int], origin: Origin) -> RunResult:
    """Return scores as a run that can be evaluated."""
    cases = [
        CaseResult(case, tracer_in(case), dict(zip(steps, scores, strict=True)))
        for case, scores in sorted(rows.items())
    ]
    return RunResult(name, "task1", cases, origin)


if __name__ == "__main__":
    main()
