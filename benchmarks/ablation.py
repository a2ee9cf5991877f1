"""Compare recipes of Task 1's small model at equal steps, on phantoms and on training patients left out.

    python benchmarks/ablation.py build --sts ../shared/data/sts --output out/ablation
    python benchmarks/ablation.py run clicks-late --steps 1000 --output out/ablation

``build`` makes the data set once, ``run`` trains one recipe and measures it: at steps 0 and 10, on fresh
phantoms with lesions (seeds 3,000,000 on) and on the training patients `LEFT_OUT`. The patients that the model
card reports on take no part.
"""

import argparse
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from accuracy import phantom_cases, read_patient, report, run_steps

from lesionclick.network.model_folder import embedded_models
from lesionclick.petct.model import PetCtModel
from lesionclick.prompts.encodings import Fields
from lesionclick.training.datasets import VALIDATION_SEED, build_dataset, list_patients, split_patients
from lesionclick.training.export import export_model
from lesionclick.training.plans import FIELDS, RECIPES
from lesionclick.training.train import find_trainer, make_trainer, prepare, set_folders
from lesionclick.training.warm_start import take_weights

LEFT_OUT = 4
"""Training patients that no recipe here is trained on."""
STEPS = [0, 10]


@dataclass(frozen=True)
class Variant:
    """A recipe: attributes of the trainer, changes of the plans, and what it begins with.

    `sureness` is what the logits of the embedded model are multiplied by; without it, the weights begin at random.
    """

    attributes: Mapping[str, float]
    changes: Mapping[str, Any] = field(default_factory=dict)
    sureness: float | None = None
    organs: bool = True


def _fields(cutoff_mm: float | None) -> dict[str, Any]:
    return {"prompt": replace(FIELDS, encoding=Fields(radius=6.0, far_mm=30.0, cutoff_mm=cutoff_mm)).to_mapping()}


PATCH_96 = {"configuration": {"patch_size": [96, 64, 64], "batch_size": 1}}
LATE = {"CLICKS_FROM": 0.4}
CONTINUED = {"CLICKS_FROM": 0.0, "PEAK_LR": 1e-3, "UNCLICKED_SHARE": 0.25}
SURENESS = RECIPES["task1", "small"].sureness
VARIANTS = {
    "clicks-late": Variant(LATE),
    "clicks-from-start": Variant({"CLICKS_FROM": 0.0}),
    "no-withholding": Variant({"CLICKS_FROM": 0.0, "UNCLICKED_SHARE": 0.0}),
    "large-tile": Variant(LATE, PATCH_96),
    "warm": Variant(LATE, sureness=SURENESS),
    "warm-large-tile": Variant(LATE, PATCH_96, sureness=SURENESS),
    "continued": Variant(CONTINUED, _fields(40.0), sureness=1.0),
    "continued-far": Variant(CONTINUED, _fields(60.0), sureness=1.0),
    "continued-endless": Variant(CONTINUED, _fields(None), sureness=1.0),
    "continued-unclicked": Variant({**CONTINUED, "UNCLICKED_SHARE": 0.4}, _fields(40.0), sureness=1.0),
    "continued-no-organs": Variant(CONTINUED, _fields(40.0), sureness=1.0, organs=False),
}


def build(args: argparse.Namespace) -> None:
    """Make the data set without the patients `LEFT_OUT`, and preprocess it."""
    left_out = left_out_patients(args.sts)
    dataset = build_dataset(args.sts, args.output / "raw", args.phantoms, left_out=left_out)
    prepare("task1", dataset, "small", args.output, minutes=1.0, processes=2)


def left_out_patients(sts: Path) -> list[str]:
    """Return the training patients that are measured here."""
    return split_patients(list_patients(sts))[0][:LEFT_OUT]


def run(args: argparse.Namespace) -> None:
    """Train a recipe and measure it."""
    variant = VARIANTS[args.variant]
    torch.manual_seed(args.seed)
    base = find_trainer(RECIPES["task1", "small"].trainer)
    trainer = make_trainer(
        type(f"{base.__name__}_{args.variant}_{args.seed}", (base,), dict(variant.attributes)),
        "task1",
        "Dataset001_PhantomsAndSarcomas",
        "small",
        output=args.output,
        device="cpu",
        changes={**variant.changes, "steps": args.steps},
    )
    if not variant.organs:
        trainer.dataset_json.pop("organs", None)
    if variant.sureness is not None:
        trainer.initialize()
        take_weights(trainer.network, embedded_models() / "task1", variant.sureness)
    trainer.run_training()
    model = PetCtModel.load(export_model(Path(trainer.output_folder_base), args.output / args.variant))
    # the embedded model was trained on these patients
    left_out = left_out_patients(args.sts) if variant.sureness is None else []
    real = [read_patient(args.sts, patient) for patient in left_out]
    for title, cases in (
        ("phantoms", phantom_cases("new", args.count, None, VALIDATION_SEED + 100)),
        ("without lesions", phantom_cases("new", args.count // 2, 0, VALIDATION_SEED + 200)),
        ("real", real),
    ):
        rows = {one.name: run_steps(one, model, STEPS)[0] for one in cases}
        if rows:
            report(f"{args.variant}, {args.steps} steps, seed {args.seed}: {title}", rows)


def main() -> None:
    """Build the data set, or run a recipe on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("build", "run"))
    parser.add_argument("variant", nargs="?", choices=VARIANTS)
    parser.add_argument("--sts", type=Path, default=Path("../shared/data/sts"))
    parser.add_argument("--output", type=Path, default=Path("out/ablation"))
    parser.add_argument("--phantoms", type=int, default=100)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0, help="of the first weights")
    parser.add_argument("--count", type=int, default=6, help="phantoms with lesions that are measured")
    args = parser.parse_args()
    set_folders(args.output / "raw", args.output)
    (build if args.what == "build" else run)(args)


if __name__ == "__main__":
    main()
