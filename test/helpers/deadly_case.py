"""A stand-in for the work on a case, one of which kills every worker that begins it."""

import os
import signal
from pathlib import Path

from lesionclick.cohort.work import CohortCase, Outcome, Work

DEADLY = "deadly"


def run_case(case: CohortCase, work: Work) -> Outcome:
    if case.name == DEADLY:
        with (work.output / "attempts").open("a") as file:
            file.write("x")
        os.kill(os.getpid(), signal.SIGKILL)
    return Outcome(case.name, None, 0.0)


def attempts(output: Path) -> int:
    """Return how often the deadly case was begun."""
    return len((output / "attempts").read_text())
