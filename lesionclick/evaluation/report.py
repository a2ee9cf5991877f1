"""The report of a replay: one HTML file that needs nothing else, `picture.png` and `scores.json`."""

import importlib.metadata
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lesionclick.evaluation.expected import scores_of, write_scores
from lesionclick.evaluation.pages import render
from lesionclick.evaluation.registry import EVALUATIONS, Evaluation
from lesionclick.evaluation.steps import Replay, Result
from lesionclick.images import replacing

PICTURED = 5
"""Number of cases that `picture.png` shows: one picture has no room for a cohort."""

_PACKAGES = ("lesionclick", "nnunetv2", "torch", "SimpleITK", "numpy")


def remove_report(output: Path) -> None:
    """Remove the report of an earlier replay, which would tell of other masks."""
    for name in ("report.html", "scores.json", "picture.png"):
        (output / name).unlink(missing_ok=True)


class Report:
    """The report of a replay, made case by case.

    Each case is drawn when it is added, so that its images need not stay in memory.

    Parameters
    ----------
    output
        Folder; made if it is not there.
    """

    def __init__(self, output: Path) -> None:
        self.output = output
        self._cases: list[_Case] = []
        self._pictured: list[Replay[Any]] = []

    @property
    def results(self) -> tuple[Result[Any], ...]:
        """Of the cases that were added, in order."""
        return tuple(case.result for case in self._cases)

    def add(self, replay: Replay[Any]) -> None:
        """Take in a case, and write the scores of all so far to `scores.json`, whatever becomes of the next case."""
        (evaluation,) = (one for one in EVALUATIONS.values() if isinstance(replay, one.kind))
        write_scores(self.output / "scores.json", scores_of([*self.results, replay.result]))
        self._cases.append(_Case(evaluation, replay.result, evaluation.make_card(replay)))
        if evaluation.write_picture and len(self._pictured) < PICTURED:
            self._pictured.append(replay)

    def write(self, *, run: str) -> Path:
        """Write `report.html` and, where there are PET/CT cases, `picture.png` of the first `PICTURED`.

        Parameters
        ----------
        run
            What ran the jobs and on which device, in words.

        Returns
        -------
        Path
            The HTML file.
        """
        parts = []
        for evaluation in EVALUATIONS.values():
            own = [case for case in self._cases if case.evaluation is evaluation]
            if own and evaluation.write_picture:
                evaluation.write_picture(self.output / "picture.png", self._pictured)
            if own:
                results = [case.result for case in own]
                parts.append(
                    {
                        "evaluation": evaluation,
                        "summary": evaluation.summarise(results),
                        "measures": results[0].measures,
                        "cards": [case.card for case in own],
                    }
                )
        page = render("page.html", parts=parts, environment=describe_environment(run))
        path = self.output / "report.html"
        with replacing(path) as temporary:
            temporary.write_text(page, encoding="utf-8")
        return path


@dataclass(frozen=True)
class _Case:
    """What is left of a case once its images are drawn."""

    evaluation: Evaluation
    result: Result[Any]
    card: object


def describe_environment(run: str) -> str:
    """Return one line: what ran the jobs, the versions of what matters to the masks, and the machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"{run}; {versions}; Python {platform.python_version()} on {platform.system()} {platform.machine()}"
