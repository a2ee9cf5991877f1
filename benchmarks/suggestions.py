"""Three proposed points against three by the challenge's procedure, from the same mask.

    python benchmarks/suggestions.py --split development --count 8 --cache out/cases
    python benchmarks/suggestions.py --split report --count 20
    python benchmarks/suggestions.py --split patients --sts ../shared/data/sts --start 1

Proposals are made at once, for the mask of the challenge's step `--start`, and answered truthfully: the label says
whether a place is tumour or background. Against them stand the next three points of the challenge's procedure, tumour
and background in turn; its tumour points are drawn from the label and find lesions that nobody proposed.
"""

import argparse
import time
from dataclasses import replace
from itertools import chain, zip_longest

import numpy as np
from accuracy import Labelled
from cases import add_options, chosen_cases, load_model

from lesionclick.evaluation.measures import CHALLENGE, MaskPair, Scores, mean, score
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.session import PetCtSession
from lesionclick.petct.suggestions import Suggestion
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

POINTS = 3
ARMS = ("start", "proposed", "challenge")


def answer(suggestion: Suggestion, label: np.ndarray) -> Point:
    """Return the point that a reader sets who knows the label."""
    x, y, z = suggestion.point_xyz
    return Point(TUMOR if label[z, y, x] else BACKGROUND, (float(x), float(y), float(z)))


def next_points(prompts: Prompts, start: int) -> tuple[Point, ...]:
    """Return the three points that follow a step of the challenge, tumour and background in turn."""
    kinds = (prompts.of(kind).points[start:] for kind in (TUMOR, BACKGROUND))
    in_turn = chain.from_iterable(zip_longest(*kinds))
    return tuple(point for point in in_turn if point is not None)[:POINTS]


def compare(labelled: Labelled, model: PetCtModel, start: int) -> tuple[dict[str, Scores], int, int, float]:
    """Return the scores of each arm, how many proposals there were, how many hit an error, and their seconds."""
    before, label = labelled.case.prompts.at_step(start), labelled.label.array > 0
    session = PetCtSession(model, replace(labelled.case, prompts=before))

    def scores(prompts: Prompts) -> Scores:
        mask = session.segment(prompts).mask.array
        return score(CHALLENGE, [MaskPair(label, mask, labelled.label.grid.spacing_zyx)])

    found = {"start": scores(before)}
    begin = time.perf_counter()
    proposals = session.suggest(POINTS)
    seconds = time.perf_counter() - begin
    answers = [answer(one, label) for one in proposals]
    found["proposed"] = scores(before.followed_by(answers))
    found["challenge"] = scores(before.followed_by(next_points(labelled.case.prompts, start)))
    hits = sum(one.kind == point.kind for one, point in zip(proposals, answers, strict=True))
    return found, len(proposals), hits, seconds


def main() -> None:
    """Compare on the chosen cases and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--negatives", action="store_true", help="phantoms without lesions")
    parser.add_argument("--start", type=int, default=0, help="step of the challenge to begin at")
    args = parser.parse_args()
    model = load_model(args)
    rows: dict[str, dict[str, Scores]] = {}
    proposals = hits = 0
    for labelled in chosen_cases(args, lesions=0 if args.negatives else None):
        rows[labelled.name], made, hit, seconds = compare(labelled, model, args.start)
        proposals, hits = proposals + made, hits + hit
        texts = (f"{arm} {_text(rows[labelled.name][arm])}" for arm in ARMS)
        print(f"{labelled.name}: {'; '.join(texts)}; {hit} of {made} proposals at errors, {seconds:.1f} s", flush=True)
    print(f"\n{args.split}, {len(rows)} cases, from step {args.start}: mean DSC, FPV and FNV in ml")
    for arm in ARMS:
        print(f"{arm:10} {_text(mean([row[arm] for row in rows.values()]))}")
    gains = np.array([row["proposed"]["dsc"] - row["challenge"]["dsc"] for row in rows.values()])
    if not args.negatives:
        better, worse = np.sum(gains > 0), np.sum(gains < 0)
        print(f"proposed - challenge: DSC {gains.mean():+.3f}, better in {better}, worse in {worse}")
    print(f"{hits} of {proposals} proposals were at errors of the mask")


def _text(scores: Scores) -> str:
    return " ".join(measure.text(scores[measure.key]) for measure in CHALLENGE)


if __name__ == "__main__":
    main()
