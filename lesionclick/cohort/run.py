"""A cohort on a cluster: what is done is skipped, the rest goes to the workers, and the table is made in the end."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from threading import Event

from distributed import Client, KilledWorker, as_completed

from lesionclick.cohort.cluster import ClusterError
from lesionclick.cohort.table import make_table
from lesionclick.cohort.work import CohortCase, Outcome, Work, run_case
from lesionclick.cohort.worker import give_up
from lesionclick.evaluation.records import CohortFolder
from lesionclick.images import unwritable

POLL_S = 0.05
"""How often it is asked whether a case has ended."""


def run_cases(
    client: Client, cases: Sequence[CohortCase], work: Work, *, stop: Event | None = None
) -> Iterator[Outcome]:
    """Do cases on the workers of a cluster, and yield what became of each as it ends.

    A case whose worker dies is tried again by another, at most `lesionclick.cohort.cluster.TRIES_AGAIN` times. The
    cases that are not done yet are taken back in the end.

    Parameters
    ----------
    client
        Of the cluster.
    cases
        In the order in which they are begun.
    work
        What is done with each.
    stop
        Ends it before all are done, when it is set.

    Raises
    ------
    ClusterError
        If the scheduler is lost. What was done by then is done.
    InputError
        If records cannot be written: then no case can be done.
    """
    stop = stop or Event()
    case_of = dict(zip(client.map(run_case, cases, work=work, key="case", pure=False), cases, strict=True))
    ended = as_completed(list(case_of))
    try:
        while case_of and not stop.wait(0 if ended.has_ready() else POLL_S):
            for future in ended.next_batch(block=False):
                case = case_of.pop(future)
                try:
                    yield future.result()
                except KilledWorker as error:
                    yield give_up(case, work, error)
                except CancelledError as error:
                    expected = "a scheduler that runs until the end"
                    raise ClusterError(
                        f"cluster: expected {expected}, found it gone; the same command goes on"
                    ) from error
                except OSError as error:
                    raise unwritable(work.output, error) from error
    finally:
        client.cancel(list(case_of))


def write_table(out: CohortFolder) -> Path:
    """Write all records of a cohort as one table, and return its path.

    Raises
    ------
    InputError
        If there is a file among them that is no record.
    OSError
        If it cannot be written.
    """
    return out.write_table(make_table(out.records()))
