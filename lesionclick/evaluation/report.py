"""The report of a replay: one HTML file that needs nothing else, `picture.png` and `scores.json`."""

import importlib.metadata
import platform
from collections.abc import Sequence
from pathlib import Path

from lesionclick.evaluation.expected import scores_of, write_scores
from lesionclick.evaluation.pages import render
from lesionclick.evaluation.registry import EVALUATIONS
from lesionclick.evaluation.steps import Replay

_PACKAGES = ("lesionclick", "nnunetv2", "torch", "SimpleITK", "numpy")


def remove_report(output: Path) -> None:
    """Remove the report of an earlier replay, which would tell of other masks."""
    for name in ("report.html", "scores.json", "picture.png"):
        (output / name).unlink(missing_ok=True)


def write_report(output: Path, replays: Sequence[Replay], *, run: str) -> Path:
    """Write `report.html`, `scores.json` and, where there are PET/CT cases, `picture.png` to `output`.

    Parameters
    ----------
    output
        Folder; made if it is not there.
    replays
        The cases, at least one.
    run
        What ran the jobs and on which device, in words.

    Returns
    -------
    Path
        The HTML file.
    """
    output.mkdir(parents=True, exist_ok=True)
    write_scores(output / "scores.json", scores_of(replays))
    parts = []
    for evaluation in EVALUATIONS.values():
        of_task = [replay for replay in replays if isinstance(replay, evaluation.kind)]
        if not of_task:
            continue
        if evaluation.write_picture:
            evaluation.write_picture(output / "picture.png", of_task)
        cards = [evaluation.make_card(replay) for replay in of_task]
        summary = evaluation.summarise(of_task)
        measures = of_task[0].measures
        parts.append({"evaluation": evaluation, "summary": summary, "measures": measures, "cards": cards})
    page = render("page.html", parts=parts, environment=describe_environment(run))
    path = output / "report.html"
    path.write_text(page, encoding="utf-8")
    return path


def describe_environment(run: str) -> str:
    """Return one line: what ran the jobs, the versions of what matters to the masks, and the machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"{run}; {versions}; Python {platform.python_version()} on {platform.system()} {platform.machine()}"
