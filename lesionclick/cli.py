"""The command `lesionclick`: replay, score, phantom, courses, clicks, convert and train.

Each sub-command imports what it needs when it runs, so that none needs the extras of another. Results go
to standard output, log and errors to standard error; the exit code tells the class of an error.
"""

import argparse
import importlib.util
import json
import logging
import math
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesionclick.errors import InputError, LesionClickError

if TYPE_CHECKING:
    from lesionclick.evaluation.followup_replay import FollowupReplay
    from lesionclick.evaluation.jobs import Run
    from lesionclick.evaluation.measures import Scores
    from lesionclick.evaluation.replay import Replay
    from lesionclick.images import Volume

ROOT = Path(__file__).parents[1]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit code.

    Returns
    -------
    int
        0; 1 for bad input or scores that are not as expected; 2 for a broken model (or wrong usage, by `argparse`);
        3 for the rest.
    """
    options = _parser().parse_args(arguments)
    console = logging.StreamHandler()
    console.setLevel(logging.DEBUG if options.verbose else logging.WARNING)
    logging.basicConfig(level=console.level, format="%(levelname)s %(name)s: %(message)s", handlers=[console])
    try:
        code: int = options.command(options)
    except LesionClickError as error:
        logging.getLogger(__name__).debug("where the error came from", exc_info=True)
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="lesionclick", description="Click-guided lesion segmentation.")
    parser.add_argument("--verbose", action="store_true", help="log every stage and the origin of errors")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    replay = commands.add_parser("replay", help="run the platform's steps on cases, score them, write a report")
    replay.add_argument("input", type=Path, help="folder of cases of either task in the platform's layout, or one case")
    replay.add_argument("--output", type=Path, default=Path("out/replay"), help="folder for masks and report.html")
    model = (
        "model folder, or one with folders task1 and task2 (default: /opt/ml/model, else the embedded one of the task)"
    )
    replay.add_argument("--model", type=Path, help=model)
    labels = "folder of true masks, <case>.mha; for Task 2 <case>/<region>.mha"
    replay.add_argument("--labels", type=Path, help=labels)
    steps = "steps of Task 1's cases, such as 0,1,5,10 (default: 0 to 10); Task 2's have steps 0 and 1 always"
    replay.add_argument("--steps", type=_steps, default=tuple(range(11)), help=steps)
    replay.add_argument("--engine", help="container engine, such as docker or podman (default: in this process)")
    replay.add_argument("--image", help="container image, with --engine")
    replay.add_argument("--invoke", action="store_true", help="one server for all jobs, with --engine")
    clicks = replay.add_mutually_exclusive_group()
    clicks.add_argument("--expected", type=Path, help="scores to compare with; exit code 1 on any difference")
    clicks.add_argument(
        "--corrective", action="store_true", help="put each next click pair in the largest error (Task 1)"
    )
    replay.add_argument("--write-expected", type=Path, help="file to write the scores to, for --expected")
    replay.set_defaults(command=_replay)

    score = commands.add_parser("score", help="print the metrics of one mask as JSON")
    score.add_argument("label", type=Path)
    score.add_argument("prediction", type=Path)
    score.set_defaults(command=_score)

    phantom = commands.add_parser("phantom", help="write a digital phantom with clicks as a case")
    phantom.add_argument("--seed", type=int, required=True)
    phantom.add_argument("--tracer", choices=("fdg", "psma"), required=True)
    phantom.add_argument("--output", type=Path, required=True, help="case folder")
    phantom.add_argument("--label", type=Path, help="file for the true mask")
    phantom.add_argument("--lesions", type=int, help="number of lesions (default: drawn)")
    phantom.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), help="mm (default: drawn)")
    view = "lowest and highest part of the height from mid-thigh, 0, to vertex, 1 (default: drawn)"
    phantom.add_argument("--field-of-view", type=float, nargs=2, metavar=("LOW", "HIGH"), help=view)
    phantom.set_defaults(command=_phantom)

    courses = commands.add_parser("courses", help="write a digital patient at two times as a case of Task 2")
    courses.add_argument("--seed", type=int, required=True)
    courses.add_argument("--output", type=Path, required=True, help="case folder")
    courses.add_argument("--labels", type=Path, help="folder for the true masks, <region>.mha")
    courses.add_argument("--lesions", type=int, default=12, help="number of lesions of a region (default: 12)")
    courses.add_argument("--spacing", type=float, nargs=3, metavar=("X", "Y", "Z"), default=(2.0, 2.0, 3.0), help="mm")
    courses.add_argument("--field-of-view", type=float, nargs=2, metavar=("LOW", "HIGH"), help=view)
    second = courses.add_mutually_exclusive_group()
    second.add_argument("--secondary", type=float, nargs=2, metavar=("LOW", "HIGH"), help="a second region's, as well")
    second.add_argument("--halved", choices=("baseline", "follow-up"), help="scan that comes as two, upper and lower")
    courses.set_defaults(command=_courses)

    simulate = commands.add_parser("clicks", help="simulate clicks for a label and a PET")
    simulate.add_argument("label", type=Path)
    simulate.add_argument("pet", type=Path)
    simulate.add_argument("--output", type=Path, required=True, help="click file to write")
    simulate.add_argument("--seed", type=int, default=42)
    simulate.add_argument("--budget", type=int, default=10, help="clicks of each kind")
    simulate.add_argument("--official", action="store_true", help="as the organisers' script does, quirks included")
    simulate.set_defaults(command=_clicks)

    convert = commands.add_parser("convert", help="make a data set for training of the challenge's longitudinal CTs")
    convert.add_argument("download", type=Path, help="folder with inputsTr and targetsTr")
    convert.add_argument("--output", type=Path, required=True, help="new folder Dataset<NNN>_<Name>")
    convert.set_defaults(command=_convert)

    train = commands.add_parser("train", help="train a model")
    train.add_argument("task", choices=("task1", "task2"))
    train.add_argument("--dataset", type=Path, required=True, help="nnU-Net raw dataset folder")
    train.add_argument("--config", choices=("small", "standard", "large"), required=True)
    train.add_argument("--output", type=Path, required=True)
    train.add_argument("--device", default="auto", help="auto, cpu or cuda")
    train.add_argument("--fold", default="0", help="fold of the splits, or all (default: 0)")
    train.add_argument("--minutes", type=float, default=75.0, help="training time of small (default: 75)")
    train.add_argument("--initial", type=Path, help="model folder whose weights to begin with")
    train.add_argument("--resume", action="store_true", help="continue from the last checkpoint")
    train.set_defaults(command=_train)
    return parser


def _steps(text: str) -> tuple[int, ...]:
    try:
        steps = tuple(sorted({int(part) for part in text.split(",")}))
    except ValueError:
        steps = ()
    if not steps or not 0 <= steps[0] <= steps[-1] <= 10:
        raise argparse.ArgumentTypeError(f"expected numbers from 0 to 10 with commas between them, found {text!r}")
    return steps


def _replay(options: argparse.Namespace) -> int:
    from lesionclick.evaluation import expected, replay, report
    from lesionclick.evaluation.jobs import find_cases

    if options.invoke and not options.engine:
        raise InputError("replay: expected --engine together with --invoke, found none")
    cases = find_cases(options.input)
    wanted = expected.read_scores(options.expected) if options.expected else None
    done = []
    with _runner(options, cases) as (run, runner):
        for result in replay.replay_cases(
            cases, run, options.output, steps=options.steps, labels=options.labels, corrective=options.corrective
        ):
            done.append(result)
            print(_steps_table(result), flush=True)
    print(f"report: {report.write_report(options.output, done, run=runner)}")

    scores = expected.scores_of(done)
    if options.write_expected:
        expected.write_scores(options.write_expected, scores)
    if wanted is None:
        return 0
    if cases == [options.input]:
        wanted = {name: steps for name, steps in wanted.items() if name == options.input.name}
    different = expected.differences(wanted, scores, options.steps)
    for one in different:
        print(f"DIFFERENT  {one.case}  step {one.step:>2}  {one.measure}: expected {one.expected}, found {one.found}")
    print(f"scores: {len(different)} differ from {options.expected}" if different else "scores: all as expected")
    return 1 if different else 0


@contextmanager
def _runner(options: argparse.Namespace, cases: Sequence[Path]) -> Iterator[tuple["Run", str]]:
    """Give what runs a job of any of the cases, and its description."""
    if options.engine:
        from lesionclick.evaluation.engine import Engine

        if not options.image:
            raise InputError("replay: expected --image together with --engine, found none")
        engine = Engine.find(options.engine, options.image, options.model)
        where = f"container image {options.image} under {options.engine}, {'GPU' if engine.gpu else 'CPU'}"
        if options.invoke:
            with engine.serve() as server:
                yield server, f"server in {where}"
        else:
            yield engine, where
        return

    from lesionclick.grand_challenge.interfaces import find_interface

    # the entry point is a script beside the package, not a module of it
    spec = importlib.util.spec_from_file_location("inference", ROOT / "inference.py")
    if spec is None or spec.loader is None or not (ROOT / "inference.py").is_file():
        raise InputError(f"replay: expected inference.py in {ROOT}; use a checkout of the repository, or --engine")
    inference: Any = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(inference)
    # loaded before the first job, so that no step's seconds hold it
    models = {task: inference.init_model(options.model, task=task) for task in {find_interface(c).task for c in cases}}

    def run(input_dir: Path, output_dir: Path) -> None:
        inference.run(models[find_interface(input_dir).task], input_dir, output_dir)

    yield run, f"in one process on {next(iter(models.values())).device}"


def _steps_table(replay: "Replay | FollowupReplay") -> str:
    from lesionclick.evaluation.followup_replay import FollowupReplay

    if isinstance(replay, FollowupReplay):
        lines = [f"\n{replay.name}\nstep  points    DSC  FPV ml  FNV ml  lesion DSC  seconds"]
        for step in replay.steps:
            lesions = _cell(step.summary.dsc, 3)
            lines.append(f"{step.number:4d}{step.points:8d}{_scores(step.scores)}{lesions:>12}{step.seconds:9.1f}")
        return "\n".join(lines)
    lines = [f"\n{replay.name}\nstep  clicks    DSC  FPV ml  FNV ml  seconds"]
    for one in replay.steps:
        lines.append(f"{one.number:4d}{len(one.clicks):8d}{_scores(one.scores)}{one.seconds:9.1f}")
    return "\n".join(lines)


def _scores(scores: "Scores | None") -> str:
    dsc, fpv, fnv = (scores.dsc, scores.fpv_ml, scores.fnv_ml) if scores else (math.nan,) * 3
    return f"{_cell(dsc, 3):>7}{_cell(fpv, 2):>8}{_cell(fnv, 2):>8}"


def _cell(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


def _score(options: argparse.Namespace) -> int:
    from lesionclick.evaluation import measures
    from lesionclick.evaluation.jobs import read_volume

    label, prediction = _read_pair(options.label, options.prediction, "label", "prediction")
    grid = read_volume(options.label).grid
    values = asdict(measures.score(label.array, prediction.array, grid.voxel_ml))
    values |= asdict(measures.surface_distances(label.array, prediction.array, grid.spacing_zyx))
    print(json.dumps({name: None if math.isnan(value) else value for name, value in values.items()}, indent=2))
    return 0


def _read_pair(path_a: Path, path_b: Path, name_a: str, name_b: str) -> tuple["Volume", "Volume"]:
    from lesionclick.evaluation.jobs import read_volume
    from lesionclick.images import require_same_grid

    a, b = read_volume(path_a), read_volume(path_b)
    require_same_grid(a, b, name_a, name_b)
    return a, b


def _phantom(options: argparse.Namespace) -> int:
    from lesionclick.evaluation.samples import write_sample
    from lesionclick.simulation.phantoms import make_phantom

    phantom = make_phantom(
        options.seed,
        options.tracer,
        lesions=options.lesions,
        spacing_xyz=options.spacing and tuple(options.spacing),
        field_of_view=options.field_of_view and tuple(options.field_of_view),
    )
    write_sample(phantom, options.seed, options.output, options.label)
    print(options.output)
    return 0


def _courses(options: argparse.Namespace) -> int:
    from lesionclick.evaluation.samples import phantom_visits, write_followup_sample
    from lesionclick.grand_challenge.interfaces import PRIMARY, SECONDARY

    views = [(PRIMARY, options.field_of_view)] + ([(SECONDARY, options.secondary)] if options.secondary else [])
    visits = [
        phantom_visits(
            options.seed,
            options.lesions,
            spacing_xyz=tuple(options.spacing),
            field_of_view=view and tuple(view),
            region=region,
            first=1 + number * options.lesions,
        )
        for number, (region, view) in enumerate(views)
    ]
    name = f"courses {options.seed}"
    write_followup_sample(visits, name, options.output, options.labels, options.halved)
    print(options.output)
    return 0


def _convert(options: argparse.Namespace) -> int:
    from lesionclick.training.conversion import convert

    print(convert(options.download, options.output))
    return 0


def _clicks(options: argparse.Namespace) -> int:
    import numpy as np

    from lesionclick.prompts.points import clicks_from_indices, write_clicks
    from lesionclick.simulation.readers import official, simulate

    label, pet = _read_pair(options.label, options.pet, "label", "PET")
    truth = label.array > 0
    try:
        if options.official:
            found = official(truth, pet.array, seed=options.seed, budget=options.budget)
        else:
            found = simulate(truth, pet.array, np.random.default_rng(options.seed), options.budget)
    except ValueError as error:
        raise InputError(f"{options.label}: {error}") from error
    write_clicks(options.output, clicks_from_indices(*found))
    print(options.output)
    return 0


def _train(options: argparse.Namespace) -> int:
    from lesionclick.training.train import train

    folder = train(
        options.task,
        options.dataset,
        options.config,
        options.output,
        device=options.device,
        minutes=options.minutes,
        fold=options.fold,
        resume=options.resume,
        initial=options.initial,
    )
    print(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
