"""The report of a replay: one HTML file that needs nothing else, `picture.png` and `scores.json`."""

import importlib.metadata
import platform
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lesionclick.evaluation.expected import scores_of, write_scores
from lesionclick.evaluation.pages import render
from lesionclick.evaluation.registry import EVALUATIONS, Evaluation
from lesionclick.evaluation.steps import Replay, Result

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
        self._parts = {evaluation.kind: _Part(evaluation) for evaluation in EVALUATIONS.values()}
        self._results: list[Result[Any]] = []

    @property
    def results(self) -> tuple[Result[Any], ...]:
        """Of the cases that were added, in order."""
        return tuple(self._results)

    def add(self, replay: Replay[Any]) -> None:
        """Take in a case, and write the scores of all so far to `scores.json`, whatever becomes of the next case."""
        self._results.append(replay.result)
        self.output.mkdir(parents=True, exist_ok=True)
        write_scores(self.output / "scores.json", scores_of(self._results))
        (part,) = (part for kind, part in self._parts.items() if isinstance(replay, kind))
        part.results.append(replay.result)
        part.cards.append(part.evaluation.make_card(replay))
        if part.evaluation.write_picture and len(part.pictured) < PICTURED:
            part.pictured.append(replay)

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
        for part in (part for part in self._parts.values() if part.results):
            if part.evaluation.write_picture:
                part.evaluation.write_picture(self.output / "picture.png", part.pictured)
            parts.append(
                {
                    "evaluation": part.evaluation,
                    "summary": part.evaluation.summarise(part.results),
                    "measures": part.results[0].measures,
                    "cards": part.cards,
                }
            )
        page = render("page.html", parts=parts, environment=describe_environment(run))
        path = self.output / "report.html"
        path.write_text(page, encoding="utf-8")
        return path


@dataclass(frozen=True)
class _Part:
    """What is known of the cases of one task."""

    evaluation: Evaluation
    results: list[Result[Any]] = field(default_factory=list)
    cards: list[object] = field(default_factory=list)
    pictured: list[Replay[Any]] = field(default_factory=list)


def describe_environment(run: str) -> str:
    """Return one line: what ran the jobs, the versions of what matters to the masks, and the machine."""
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES)
    return f"{run}; {versions}; Python {platform.python_version()} on {platform.system()} {platform.machine()}"
