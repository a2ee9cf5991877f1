"""How often a voxel of probability p is tumour, by step: a reliability table and the expected calibration error.

    python benchmarks/calibration.py --split development --count 8 --cache out/cases --fit
    python benchmarks/calibration.py --split report --count 20
    python benchmarks/calibration.py --split patients --sts ../shared/data/sts

Probabilities are those of the logits before the rules, through the calibration of the model's `prompt.json`, or of
`--scale` and `--shift`. Voxels of the body with a probability above 1 % count, all cases together; a third of the
phantoms of the generator has no lesion, and so many are added here. The error is the mean over ten equal bins of the
difference between the mean probability and the share of tumour, weighted by voxels (Guo et al., ICML 2017). `--fit`
prints the pair of Platt's scaling that makes these voxels likeliest, which is to be fitted on `development` alone.
"""

import argparse
from collections.abc import Iterator

import numpy as np
from accuracy import Labelled
from cases import add_options, chosen_cases, load_model
from scipy.optimize import minimize

from lesionclick.petct.model import PetCtModel
from lesionclick.petct.prediction import BODY_HU, BODY_SUV
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.spec import Calibration

STEPS = (0, 1, 3, 10)
LEAST = 0.01
BINS = np.linspace(0, 1, 11)


def read_logits(labelled: Labelled, model: PetCtModel) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return logits and truth of the voxels of the body, for each step."""
    session = PetCtSession(model, labelled.case)
    case = labelled.case
    body = (case.ct.array > BODY_HU) | (case.pet.array > BODY_SUV)
    truth = labelled.label.array[body] > 0
    steps = (session.segment(case.prompts.at_step(step)) for step in STEPS)
    return [(segmentation.lesion_logit.array[body], truth) for segmentation in steps]


def reliability(probability: np.ndarray, truth: np.ndarray) -> tuple[list[tuple[int, float, float]], float]:
    """Return the voxels, mean probability and share of tumour of each bin, and the expected calibration error."""
    numbers = np.clip(np.digitize(probability, BINS) - 1, 0, len(BINS) - 2)
    rows = []
    for number in range(len(BINS) - 1):
        inside = numbers == number
        count = int(inside.sum())
        rows.append((count, *((probability[inside].mean(), truth[inside].mean()) if count else (np.nan, np.nan))))
    gaps = [count * abs(likely - true) for count, likely, true in rows if count]
    return rows, sum(gaps) / max(len(truth), 1)


def fit(logits: np.ndarray, truth: np.ndarray) -> Calibration:
    """Return the scaling under which the truth is likeliest."""

    def cost(pair: np.ndarray) -> float:
        scaled = pair[0] * logits + pair[1]
        return float(np.mean(np.logaddexp(0, scaled) - truth * scaled))

    scale, shift = minimize(cost, (1.0, 0.0), method="Nelder-Mead").x
    return Calibration(round(float(scale), 3), round(float(shift), 3))


def cases(args: argparse.Namespace) -> Iterator[Labelled]:
    """Yield the chosen cases, and with phantoms half as many without lesions."""
    yield from chosen_cases(args)
    if args.split != "patients":
        yield from chosen_cases(argparse.Namespace(**{**vars(args), "count": args.count // 2}), lesions=0)


def main() -> None:
    """Print a table for each step."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--fit", action="store_true", help="print the scaling that fits best, all steps together")
    args = parser.parse_args()
    model = load_model(args)
    calibration = model.content.prompt.calibration
    found = [read_logits(labelled, model) for labelled in cases(args)]
    print(f"{args.split}, {len(found)} cases, {calibration}")
    everything = []
    for step, parts in zip(STEPS, zip(*found, strict=True), strict=True):
        logits, truth = (np.concatenate(part) for part in zip(*parts, strict=True))
        probability = calibration.probability(logits)
        counted = probability > LEAST
        rows, error = reliability(probability[counted], truth[counted])
        print(f"\nstep {step}: expected calibration error {error:.3f} over {counted.sum()} voxels")
        print("probability " + " ".join(f"{likely:8.3f}" for _, likely, _ in rows))
        print("tumour      " + " ".join(f"{true:8.3f}" for _, _, true in rows))
        print("voxels      " + " ".join(f"{count:8d}" for count, _, _ in rows))
        kept = logits > np.log(LEAST / (1 - LEAST))
        everything.append((logits[kept], truth[kept]))
    if args.fit:
        print(f"\nfits best: {fit(*(np.concatenate(part) for part in zip(*everything, strict=True)))}")


if __name__ == "__main__":
    main()
