"""How sure must the first fold be of background, that the others need not be asked? Calls of networks against DSC.

    python benchmarks/adaptive.py --count 8      # chooses on seeds from 3,000,000, reports on seeds from 1,000,000

All folds, mirrored, look everywhere at drawn patients. What the adaptive way would have said with a threshold follows
from that: in voxels where the first fold's lesion logit is above it, and at the clicks, what all add to the first in
the tiles nearest to them, elsewhere what the first says alone. Its masks, before the rules, are compared with those of
all folds everywhere.

The folds are copies of one model's weights, each with noise of its own: training five would take hours here. How far
they differ is printed, as the mean DSC between the masks of two folds.
"""

import argparse
import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from lesionclick.budget import Budget
from lesionclick.evaluation.measures import MaskPair, dice_or_empty
from lesionclick.network import ensemble, tiles
from lesionclick.network.preprocessing import index_on_network, preprocess
from lesionclick.network.tile_cache import TileCache
from lesionclick.petct.model import PetCtModel
from lesionclick.petct.prediction import BODY_HU, BODY_SUV
from lesionclick.petct.tile_prompts import TilePrompts, are_shown_by_tile
from lesionclick.prompts.points import Prompts
from lesionclick.simulation.patients import make_patient
from lesionclick.simulation.phantoms import Phantom, Tracer
from lesionclick.simulation.readers import simulate

CHOICE_SEED, REPORT_SEED = 3_000_000, 1_000_000
THRESHOLDS = (0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0)
WANTED_DSC = 0.998
SPACING_XYZ = (4.07, 4.07, 3.0)
MIRRORED_ALONG = 3


@dataclass(frozen=True)
class Patients:
    """Which are drawn: their seeds, the part of the height that is scanned, and the steps at which they are clicked."""

    seeds: range
    field_of_view: tuple[float, float]
    steps: tuple[int, ...]


@dataclass(frozen=True)
class Outcome:
    """What a threshold does to one case: DSC to all folds everywhere, and by how much fewer calls it takes."""

    dsc: float
    ratio: float


def perturbed(network: nn.Module, noise: float, seed: int) -> nn.Module:
    """Return a copy whose weights have noise of a share of their own spread."""
    random = torch.Generator().manual_seed(seed)
    fold = copy.deepcopy(network)
    with torch.no_grad():
        for weights in fold.parameters():
            if weights.numel() > 1:
                weights.add_(noise * weights.std() * torch.randn(weights.shape, generator=random))
    return fold


def draw(seed: int, field_of_view: tuple[float, float]) -> Phantom:
    """Return a patient with lesions, of either tracer."""
    tracer: Tracer = "psma" if seed % 2 else "fdg"
    return make_patient(seed, tracer, lesions=6, spacing_xyz=SPACING_XYZ, field_of_view=field_of_view)


def measure(model: PetCtModel, folds: Sequence[nn.Module], patient: Phantom, step: int) -> tuple[list[Outcome], float]:
    """Return the outcome of each threshold for a patient, and the mean DSC between two folds."""
    ct, pet = patient.ct.array.astype(np.float32), patient.pet.array
    tumor, background = simulate(patient.label.array > 0, pet, np.random.default_rng(0))
    clicks = Prompts.from_indices(tumor_zyx=tumor, background_zyx=background).at_step(step)
    content = model.content
    case = preprocess(content, [ct, pet], patient.pet.grid.spacing_zyx, body=(ct > BODY_HU) | (pet > BODY_SUV))
    assert case.needed is not None
    moved = clicks.moved(lambda places: index_on_network(content, case, places))
    spacing = tuple(float(mm) for mm in content.configuration.spacing)
    patch = content.configuration.patch_size
    assert are_shown_by_tile(model.encoding, patch, spacing)
    shown = TilePrompts(model.encoding, moved, spacing)

    def lesion_logit(networks: Sequence[nn.Module], **options: Any) -> torch.Tensor:
        with model.arithmetic.autocast(model.device):
            logits = ensemble.predict(
                networks,
                case.images,
                patch,
                device=model.device,
                budget=Budget(),
                painted=shown,
                **{"needed": case.needed, **options},
            ).logits
        assert logits is not None
        return (logits[1] - logits[0]).float()

    def compare(a: torch.Tensor, b: torch.Tensor) -> float:
        return dice_or_empty([MaskPair((b > 0).numpy(), (a > 0).numpy(), spacing)])

    alone = [lesion_logit([fold]) for fold in folds]
    between = np.mean([compare(a, b) for a, b in combinations(alone, 2)])
    # outputs of tiles by where they begin, so that no threshold asks for them again
    *remembered, plain = (
        TileCache(2**40).of(lambda tile: tuple(axis.start for axis in tile), 0) for _ in range(len(folds) + 1)
    )
    mirrored: dict[str, Any] = {  # along one axis: what is asked is the same, and a quarter of the time
        "mirror_axes": (2,),
        "kept": lambda _, fold: remembered[fold],
    }
    together = lesion_logit(folds, **mirrored)
    everywhere = len(tiles.list_tiles(case.images.shape[1:], patch, 0.5, case.needed))
    outcomes = []
    for threshold in THRESHOLDS:
        unsure = alone[0] > -threshold
        for place in moved.indices_zyx().round().astype(int).tolist():
            unsure[tuple(place)] = True
        unsure &= case.needed
        adaptive, again = alone[0], 0
        if unsure.any():
            there = lesion_logit(folds[:1], needed=unsure, nearest=True, kept=lambda *_: plain)
            added = lesion_logit(folds, needed=unsure, nearest=True, **mirrored) - there
            adaptive = torch.where(unsure, adaptive + added, adaptive)
            again = len(tiles.list_tiles(case.images.shape[1:], patch, 0.5, unsure, nearest=True))
        passes = len(folds) * 2**MIRRORED_ALONG
        ratio = passes * everywhere / (everywhere + (passes + 1) * again)
        outcomes.append(Outcome(compare(adaptive, together), ratio))
    return outcomes, float(between)


def tabulate(model: PetCtModel, folds: Sequence[nn.Module], patients: Patients) -> float:
    """Print what each threshold does on average, and return the least one that is near enough to all folds."""
    measured = []
    for seed in patients.seeds:
        patient = draw(seed, patients.field_of_view)
        measured += [measure(model, folds, patient, step) for step in patients.steps]
    seeds = patients.seeds
    print(f"\n{len(seeds)} patients, seeds {seeds[0]:,} to {seeds[-1]:,}, steps {patients.steps}")
    print(f"mean DSC between two folds: {np.mean([between for _, between in measured]):.3f}\n")
    print(f"| sure below | DSC to all, mean | least | fewer calls, mean | least |\n|{' --- |' * 5}")
    chosen = THRESHOLDS[-1]
    for number, threshold in reversed(list(enumerate(THRESHOLDS))):
        scores = [outcomes[number].dsc for outcomes, _ in measured]
        ratios = [outcomes[number].ratio for outcomes, _ in measured]
        print(f"| -{threshold:g} | {np.mean(scores):.4f} | {min(scores):.4f} ", end="")
        print(f"| {np.mean(ratios):.1f} | {min(ratios):.1f} |", flush=True)
        if np.mean(scores) >= WANTED_DSC:
            chosen = threshold
    return chosen


def main() -> None:
    """Choose on some patients, and report on others."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=4, help="patients of each set")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--view", type=float, nargs=2, default=(0.0, 1.0), help="part of the height, default all of it")
    parser.add_argument("--steps", type=int, nargs="+", default=(0, 5), help="default: before a click, and five pairs")
    parser.add_argument("--noise", type=float, default=0.1, help="in units of the spread of the weights")
    parser.add_argument("--model", type=Path, help="model folder (default: the embedded one)")
    args = parser.parse_args()
    model = PetCtModel.load(args.model)
    folds = [perturbed(model.networks[0], args.noise, seed) for seed in range(args.folds)]
    choice, report = (
        Patients(range(first, first + args.count), tuple(args.view), tuple(args.steps))
        for first in (CHOICE_SEED, REPORT_SEED)
    )
    chosen = tabulate(model, folds, choice)
    print(f"\nchosen: -{chosen:g}, the highest whose mean DSC is {WANTED_DSC} or more")
    tabulate(model, folds, report)


if __name__ == "__main__":
    main()
