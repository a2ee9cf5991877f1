"""The command `evaluate`."""

import sys
from pathlib import Path

from cyclopts.types import NonNegativeInt

from lesionclick.commands.options import Seed


def evaluate(
    *runs: Path,
    output: Path = Path("out/evaluation"),
    groups: Path | None = None,
    data: str = "",
    split: str = "",
    data_seed: str = "",
    seed: Seed = 0,
    worst: NonNegativeInt = 6,
) -> None:
    """Sum up finished runs: the challenge's table with intervals, curves, a ranking, and the worst cases in pictures.

    For example:

        lesionclick evaluate out/cohort out/other --output out/evaluation

    Parameters
    ----------
    runs
        Output folders of `cohort` or `replay`, or files of results. Each is compared with the first one, case by case.
    output
        Folder for `report.html`, `scores.csv` and `results.json`.
    groups
        Table with the head `case,group` and a row for each case, whose group is its tracer or hospital for example; by
        default the tracer in the name of the case.
    data
        Name of the data, for runs that do not tell it; a model card wants it.
    split
        Which part of the data, and how it was kept from training, for runs that do not tell it.
    data_seed
        Seed of what was drawn, the split or the clicks, for runs that do not tell it.
    seed
        Of the resamples for the intervals.
    worst
        How many of the worst cases are shown in pictures.
    """
    from lesionclick.errors import InputError
    from lesionclick.evaluation.results.files import read_groups, read_runs
    from lesionclick.evaluation.results.report import write_evaluation
    from lesionclick.evaluation.results.runs import Origin

    if not runs:
        raise InputError("expected one output folder of a run or more, found none")
    given = Origin(data=data, split=split, seed=data_seed)
    table = read_groups(groups) if groups else None
    found = [run.with_origin(given) for path in runs for run in read_runs(path, table)]
    known = {case.name for run in found for case in run.cases}
    if table and (strangers := sorted(table.keys() - known)):
        print(
            f"{groups}: {len(strangers)} of {len(table)} names are of no case, such as {strangers[0]}", file=sys.stderr
        )
    print(f"report: {write_evaluation(output, found, seed=seed, worst=worst)}")
