"""Cases that several benchmarks measure on, made once: phantoms by their seeds, and the patients kept from training.

What is chosen is chosen on `development`; `report` and `patients` are for what is then told.
"""

from argparse import ArgumentParser, Namespace
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from accuracy import FRESH_SEED, Labelled, phantom_cases, real_cases
from joblib import Memory

from lesionclick.petct.model import PetCtModel
from lesionclick.training.datasets import VALIDATION_SEED

SEEDS = {"development": VALIDATION_SEED, "report": FRESH_SEED}
"""First seeds of the phantoms: 3,000,000 and 1,000,000."""
SPLITS = (*SEEDS, "patients")


def add_options(parser: ArgumentParser) -> None:
    """Add the options that choose cases, and the model."""
    parser.add_argument("--split", choices=SPLITS, default="development")
    parser.add_argument("--count", type=int, default=8, help="of phantoms")
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"), help="crops of the real patients")
    parser.add_argument("--cache", type=Path, help="folder that keeps phantoms; empty it when their generator changes")
    parser.add_argument("--model", type=Path, help="model folder, by default the embedded model")
    parser.add_argument("--scale", type=float, help="instead of the model's calibration")
    parser.add_argument("--shift", type=float, help="instead of the model's calibration")


def load_model(args: Namespace) -> PetCtModel:
    """Return the model that the options chose, with the calibration that they give."""
    model = PetCtModel.load(args.model)
    prompt = model.content.prompt
    given = {key: value for key in ("scale", "shift") if (value := getattr(args, key)) is not None}
    calibrated = replace(prompt, calibration=replace(prompt.calibration, **given))
    model.content = replace(model.content, prompt=calibrated)
    return model


def chosen_cases(args: Namespace, *, lesions: int | None = None) -> Iterator[Labelled]:
    """Yield the cases that the options chose; `lesions` as for `accuracy.phantom_cases`."""
    if args.split == "patients":
        yield from real_cases(args.sts, training=False)
        return
    seed = SEEDS[args.split]
    make = Memory(args.cache, verbose=0).cache(_make)
    for _ in range(args.count):
        labelled = make(seed, lesions)
        yield labelled
        seed = int(labelled.name.split("_")[1]) + 1


def _make(seed: int, lesions: int | None) -> Labelled:
    return next(phantom_cases("new", 1, lesions, seed))
