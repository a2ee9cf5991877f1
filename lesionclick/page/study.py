"""What the page needs to know of an open case, whichever task it is of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from lesionclick.budget import Budget
from lesionclick.images import Volume
from lesionclick.page.marks import Mark, Marks
from lesionclick.prompts.points import Prompts

MACHINES_OWN = "lesionclick.network"
"""Package whose warnings are about the machine or the model, and not shown as those of a case."""


@dataclass(frozen=True)
class Answer:
    """What a session says of the marks.

    Attributes
    ----------
    masks
        By the name of the scan.
    final
        Whether no better answer follows.
    findings
        The table of lesions, ready for JSON; empty until the answer is final.
    csv
        The same as a file's content.
    """

    masks: Mapping[str, Volume]
    final: bool = False
    findings: Mapping[str, Any] = field(default_factory=dict)
    csv: str = ""


class Study(Protocol):
    """An open case with its session; only one thread at a time may ask for answers or suggestions."""

    name: str
    warnings: tuple[str, ...]
    """What the log warned of when the case was read: a reader at the page does not see the log."""
    scans: Mapping[str, Volume]
    """By name, in the order in which they are shown; points are set on `clickable` ones."""
    clickable: tuple[str, ...]

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the case is open, ready for JSON."""

    def marks(self, clicks: Mapping[str, Prompts] | None) -> Marks:
        """Return the marks of the case, or those of click files by name."""

    def placed(self, marks: Marks, mark: Mark) -> Marks:
        """Return the marks with a further one; others that it brings have numbers above its own.

        Raises
        ------
        ValueError
            If its kind is none of the task's.
        InputError
            If it comes before there are masks that it is set on.
        """

    def click_files(self, marks: Marks) -> dict[str, Prompts]:
        """Return the click files of the marks, by name, one for each of `clickable` and in this order."""

    def answers(self, marks: Marks, budget: Budget) -> Iterator[Answer]:
        """Yield answers, each better than the last; the budget's clock may raise to stop it between two tiles."""

    def suggest(self, budget: Budget) -> list[dict[str, Any]]:
        """Return where to click next, ready for JSON; the budget's clock may raise to stop it between two tiles."""

    def save(self, folder: Path, answer: Answer) -> list[Path]:
        """Write what a reader takes home of a final answer, and return the files."""

    def link(self, scan: str, ras_mm: list[float]) -> dict[str, list[float]]:
        """Return the places in the other scans that a place shows, by name, in the viewer's mm."""
