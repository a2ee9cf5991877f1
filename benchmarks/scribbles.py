"""Scribbles against clicks: Dice and DMM of autoPET V over six steps, on fresh phantoms, for one model.

    python benchmarks/scribbles.py --count 10
    python benchmarks/scribbles.py --count 20 --seed 1000000

Step k of ``scribbles`` shows k strokes, each drawn into the largest error of the mask before; step k of ``clicks``
shows the first k clicks of each kind by autoPET/CT IV's procedure, and of ``corrective`` k pairs in the largest errors.
The first seed is the validation's; that of the report is 1,000,000.
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

import numpy as np
from accuracy import GENERATORS, Labelled, phantom_cases
from numpy.typing import ArrayLike

from lesionclick.evaluation.measures import SCRIBBLES, MaskPair, Scores, areas, mean, score
from lesionclick.evaluation.steps import STEPS
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import BACKGROUND, TUMOR, Prompts
from lesionclick.simulation.readers import corrective_pair
from lesionclick.simulation.strokes import corrective_stroke
from lesionclick.training.datasets import VALIDATION_SEED

Add = Callable[[Labelled, Prompts, np.ndarray, np.random.Generator], Prompts]
"""Gives the prompts of the next step from those of the last one and its mask."""


def add_stroke(one: Labelled, prompts: Prompts, mask: np.ndarray, rng: np.random.Generator) -> Prompts:
    """Draw a stroke into the largest error."""
    stroke = corrective_stroke(one.label.array > 0, mask, rng)
    if stroke is None:
        return prompts
    kinds: dict[str, ArrayLike] = {TUMOR: (), BACKGROUND: (), stroke.kind: stroke.voxels_zyx}
    return prompts.followed_by(Prompts.from_indices(tumor_zyx=kinds[TUMOR], background_zyx=kinds[BACKGROUND]))


def add_clicks(one: Labelled, prompts: Prompts, mask: np.ndarray, rng: np.random.Generator) -> Prompts:
    """Show one more of the case's own clicks of each kind."""
    del mask, rng
    shown = max((len(prompts.of(kind)) for kind in (TUMOR, BACKGROUND)), default=0)
    return one.case.prompts.at_step(shown + 1)


def add_pair(one: Labelled, prompts: Prompts, mask: np.ndarray, rng: np.random.Generator) -> Prompts:
    """Click the middle of the largest error of each kind."""
    tumor, background = (() if place is None else place for place in corrective_pair(one.label.array > 0, mask, rng))
    return prompts.followed_by(Prompts.from_indices(tumor_zyx=tumor, background_zyx=background))


def run_steps(one: Labelled, model: PetCtModel, add: Add) -> tuple[list[Scores], list[int], float]:
    """Return the scores and the numbers of points of all steps, and the seconds of the longest."""
    session, rng, prompts = PetCtSession(model, one.case), np.random.default_rng(0), Prompts()
    scores, points, longest_s = [], [], 0.0
    for step in STEPS["autopet5"]:
        begin = perf_counter()
        mask = session.segment(prompts).mask.array > 0
        longest_s = max(longest_s, perf_counter() - begin) if step else 0.0  # the first prepares the images
        scores.append(score(SCRIBBLES, [MaskPair(one.label.array, mask, one.label.grid.spacing_zyx)]))
        points.append(len(prompts))
        prompts = add(one, prompts, mask, rng)
    return scores, points, longest_s


def main() -> None:
    """Run the three ways and print their means by step, with the areas."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--count", type=int, default=10)
    parser.add_argument("--seed", type=int, default=VALIDATION_SEED, help="first seed of the phantoms")
    parser.add_argument("--lesions", type=int, help="in each phantom; default: as drawn, but at least one")
    parser.add_argument("--generator", choices=GENERATORS, default="new")
    args = parser.parse_args()
    model = PetCtModel.load(args.model)
    cases = list(phantom_cases(args.generator, args.count, args.lesions, args.seed))
    print(f"{len(cases)} phantoms from seed {args.seed}")
    for name, add in {"scribbles": add_stroke, "clicks": add_clicks, "corrective": add_pair}.items():
        rows = [run_steps(one, model, add) for one in cases]
        steps = [mean(step) for step in zip(*(scores for scores, _, _ in rows), strict=True)]
        whole = mean([areas(scores) for scores, _, _ in rows])
        print(f"\n{name}: points {np.mean([points for _, points, _ in rows], axis=0).round(1).tolist()}")
        for measure in SCRIBBLES:
            values = " ".join(measure.text(step[measure.key]) for step in steps)
            print(f"{measure.title:5} {values}   area {measure.text(whole[measure.key])}")
        print(f"longest step {max(longest_s for _, _, longest_s in rows):.1f} s")


if __name__ == "__main__":
    main()
