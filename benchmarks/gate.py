"""Whether a mask before the first click that is small and weak is better emptied: the gate of `docs/rules.md`.

    python benchmarks/gate.py --split development --count 12 --cache out/cases
    python benchmarks/gate.py --split report --count 20 --gate 5 4

Cases are phantoms with lesions and as many without. Without `--gate`, every pair of limits on a grid is tried on every
second case of each kind, and the best one is measured on the others, which it was not chosen on; the same is done with
the halves exchanged. Best is the pair with the highest mean DSC of the cases with lesions less `ML_PER_DSC` times the
mean false positives of all of them; none at all is among the pairs.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, product

import numpy as np
from accuracy import Labelled
from cases import add_options, chosen_cases, load_model

from lesionclick.evaluation.measures import CHALLENGE, MaskPair, Scores, mean, score
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.rules import is_negligible
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import Prompts
from lesionclick.prompts.spec import Gate

VOLUMES_ML = (0.5, 1, 2, 5, 10, 20, 50)
UPTAKES_SUV = (2, 3, 4, 6, 8, 12, 100)
GATES = (None, *(Gate(ml, suv) for ml, suv in product(VOLUMES_ML, UPTAKES_SUV)))
ML_PER_DSC = 0.002
"""DSC that a ml of false positives is worth: the issue's goals have 15 ml beside 0.03 in DSC."""


@dataclass(frozen=True)
class First:
    """A mask before the first click: which gates empty it, and its scores as it is and empty."""

    name: str
    emptied_by: frozenset[Gate]
    whole: Scores
    empty: Scores

    def after(self, gate: Gate | None) -> Scores:
        """Return the scores with a gate."""
        return self.empty if gate in self.emptied_by else self.whole


def look(labelled: Labelled, model: PetCtModel, gates: Sequence[Gate | None]) -> First:
    """Predict a case without clicks, and print its mask's volume and highest uptake."""
    grid, pet = labelled.label.grid, labelled.case.pet
    mask = PetCtSession(model, labelled.case).segment(Prompts()).mask.array > 0
    whole, empty = (
        score(CHALLENGE, [MaskPair(labelled.label.array, one, grid.spacing_zyx)]) for one in (mask, np.zeros_like(mask))
    )
    hottest = pet.array[mask].max() if mask.any() else 0.0
    volume_ml = mask.sum() * grid.voxel_ml
    print(f"{labelled.name}: {volume_ml:.2f} ml, SUVmax {hottest:.1f}, DSC {whole['dsc']:.3f}", flush=True)
    emptied_by = frozenset(gate for gate in gates if gate is not None and is_negligible(mask, pet, gate))
    return First(labelled.name, emptied_by, whole, empty)


def value(cases: Sequence[First], gate: Gate | None) -> float:
    """Return what a gate is worth on cases."""
    scores = mean([case.after(gate) for case in cases])
    return float(np.nan_to_num(scores["dsc"])) - ML_PER_DSC * scores["fpv_ml"]


def tell(title: str, cases: Sequence[First], gate: Gate | None) -> None:
    """Print mean scores without and with a gate."""
    for name, one in (("no gate", None), (str(gate), gate)):
        scores = mean([case.after(one) for case in cases])
        texts = (f"{measure.title} {measure.text(scores[measure.key])}" for measure in CHALLENGE)
        emptied = sum(one in case.emptied_by for case in cases)
        print(f"{title}, {name}: {', '.join(texts)}, {emptied} of {len(cases)} emptied")


def main() -> None:
    """Choose a gate on one half and measure it on the other, or measure a given one."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_options(parser)
    parser.add_argument("--gate", type=float, nargs=2, metavar=("ML", "SUV"), help="limits to measure, on all cases")
    args = parser.parse_args()
    if args.split == "patients":
        parser.error("the real patients all have a tumour that fills their crop; choose phantoms")
    model = load_model(args)
    gates = (Gate(*args.gate),) if args.gate else GATES
    kinds = [[look(case, model, gates) for case in chosen_cases(args, lesions=lesions)] for lesions in (None, 0)]
    if args.gate:
        tell(args.split, list(chain(*kinds)), gates[0])
        return
    halves = [[case for kind in kinds for case in kind[half::2]] for half in (0, 1)]
    for chosen_on, measured_on in (halves, halves[::-1]):
        best = max(GATES, key=lambda gate: value(chosen_on, gate))
        print(f"\nchosen on {len(chosen_on)} cases: {best}")
        tell("the others", measured_on, best)


if __name__ == "__main__":
    main()
