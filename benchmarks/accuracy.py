"""Accuracy of a Task 1 model over the 11 steps: real patients kept from training, and fresh phantoms.

    python benchmarks/accuracy.py real --sts ../shared/data/sts
    python benchmarks/accuracy.py phantoms --count 20 --steps 0 5 10
    python benchmarks/accuracy.py negatives --count 8 --steps 0 5 10 --survey off

Clicks of real patients are those of the organisers' script (seed 42); phantoms get the same procedure by their own
seed. ``real`` also moves each patient's clicks to the places of the next patient's, where they should do harm.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.case import PetCtCase
from lesionclick.clicks import BACKGROUND, TUMOR, Click, at_step, clicks_from_indices, indices_zyx
from lesionclick.evaluation.metrics import Scores, areas, score
from lesionclick.images import Grid, Volume
from lesionclick.model import Model, find_model_folder
from lesionclick.petct import segment
from lesionclick.simulation.clicks import official, simulate
from lesionclick.simulation.patients import make_patient
from lesionclick.simulation.phantoms import Tracer, make_phantom
from lesionclick.training.embedded import SPACING_XYZ, split_patients

GENERATORS = {"new": make_patient, "old": make_phantom}
FRESH_SEED = 1_000_000
"""First seed of the phantoms here; those of training count from 0."""


def real_cases(sts: Path, training: bool) -> Iterator[tuple[PetCtCase, Volume]]:
    """Yield the held-out patients (or those of the training set) with official clicks, and their labels."""
    for patient in split_patients([path.name for path in sts.iterdir()])[0 if training else 1]:
        yield read_patient(sts, patient)


def read_patient(sts: Path, patient: str) -> tuple[PetCtCase, Volume]:
    """Return a real patient with official clicks, and the label."""
    images = [sitk.ReadImage(str(sts / patient / f"{kind}.mha")) for kind in ("ct", "pet", "label")]
    ct, pet, label = (Volume(sitk.GetArrayFromImage(image), Grid.from_image(image)) for image in images)
    clicks = clicks_from_indices(*official(label.array > 0, pet.array))
    return PetCtCase(ct, pet, clicks, patient), label


def phantom_cases(
    generator: str, count: int, lesions: int | None, seed: int = FRESH_SEED
) -> Iterator[tuple[PetCtCase, Volume]]:
    """Yield fresh phantoms of both tracers in turn with simulated clicks, and their labels.

    Unless their number of lesions is given, phantoms without one are passed over.
    """
    while count:
        tracer: Tracer = "psma" if seed % 2 else "fdg"
        phantom = GENERATORS[generator](seed, tracer, lesions=lesions, spacing_xyz=SPACING_XYZ["task1"])
        if lesions is not None or phantom.label.array.any():
            points = simulate(phantom.label.array > 0, phantom.pet.array, np.random.default_rng(seed))
            clicks = clicks_from_indices(*points)
            yield PetCtCase(phantom.ct, phantom.pet, clicks, f"{phantom.tracer}_{seed}"), phantom.label
            count -= 1
        seed += 1


def move_clicks(clicks: tuple[Click, ...], source: Grid, target: Grid) -> tuple[Click, ...]:
    """Carry clicks to the places of another image that lie at the same fractions of its size."""
    scale = np.array(target.size_xyz) / np.array(source.size_xyz)
    return tuple(Click(c.name, tuple(np.floor(np.array(c.point_xyz) * scale).tolist())) for c in clicks)


def run_steps(case: PetCtCase, label: Volume, model: Model, steps: Sequence[int]) -> tuple[list[Scores], bool]:
    """Return the scores of the steps, and whether the last mask holds all clicks in the label and no other."""
    scores = []
    for step in steps:
        clicks = at_step(case.clicks, step)
        mask = segment(PetCtCase(case.ct, case.pet, clicks, case.stem), model).array > 0
        scores.append(score(label.array > 0, mask, label.grid.voxel_ml))
    tumor, background = (indices_zyx(clicks, name, mask.shape) for name in (TUMOR, BACKGROUND))
    tumor = tumor[label.array[tuple(tumor.T)] > 0]
    return scores, bool(mask[tuple(tumor.T)].all() and not mask[tuple(background.T)].any())


def report(title: str, rows: dict[str, list[Scores]]) -> None:
    """Print the mean of each score per step, its area, and DSC of each case at the first and the last."""
    print(f"\n{title}: {len(rows)} cases")
    for field in ("dsc", "fpv_ml", "fnv_ml"):
        values = np.array([[getattr(s, field) for s in scores] for scores in rows.values()])
        if np.isnan(values).all():
            continue
        mean = np.nanmean(values, axis=0)
        all_steps = len(mean) == 11
        area = f"   area {np.nanmean([getattr(areas(one), field) for one in rows.values()]):.3f}" if all_steps else ""
        print(f"{field:7}" + " ".join(f"{v:7.3f}" for v in mean) + area)
    print("  ".join(f"{name} {s[0].dsc:.2f}>{s[-1].dsc:.2f}" for name, s in rows.items()))


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
    parser.add_argument("--survey", choices=("on", "off"), help="default: as the model asks")
    parser.add_argument("--json", type=Path, help="also write all scores to this file")
    args = parser.parse_args()
    model = Model.load(find_model_folder(args.model))
    if args.survey is not None:
        model.prompt = replace(model.prompt, survey=args.survey == "on")
    if args.what == "real":
        cases = list(real_cases(args.sts, args.training_patients))
    else:
        cases = list(phantom_cases(args.generator, args.count, 0 if args.what == "negatives" else None))
    results = {case.stem: run_steps(case, label, model, args.steps) for case, label in cases}
    rows = {stem: scores for stem, (scores, _) in results.items()}
    report(args.what, rows)
    held = sum(kept for _, kept in results.values())
    print(f"all clicks respected at step {args.steps[-1]} in {held} of {len(results)} cases")
    if args.what == "real":
        moved = {}
        for (case, label), (other, _) in zip(cases, cases[1:] + cases[:1], strict=True):
            clicks = move_clicks(other.clicks, other.pet.grid, case.pet.grid)
            moved[case.stem] = run_steps(PetCtCase(case.ct, case.pet, clicks, case.stem), label, model, args.steps)[0]
        report("clicks moved to another patient's places", moved)
    if args.json:
        table = {name: [vars(s) for s in scores] for name, scores in rows.items()}
        args.json.write_text(json.dumps(table, indent=1))


if __name__ == "__main__":
    main()
