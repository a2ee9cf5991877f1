"""The command `cohort`."""

import signal
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

from cyclopts import Group, Parameter
from cyclopts.types import PositiveInt
from cyclopts.validators import mutually_exclusive

from lesionclick.commands.options import read_steps
from lesionclick.errors import InputError

if TYPE_CHECKING:
    from distributed import Client

    from lesionclick.cohort.work import Outcome

INTERRUPTED = 130
"""Exit code after Ctrl+C, as of a shell's command."""


_Steps = Annotated[tuple[int, ...] | None, Parameter(converter=read_steps, n_tokens=1, metavar="FIRST..LAST")]
_WHERE, _JOBS, _JOB = Group("Where it runs"), Group("With --slurm"), Group("In containers")
_ONE = Parameter(group=(_WHERE, Group(show=False, validator=mutually_exclusive)))


@Parameter(name="*", group=_WHERE)
@dataclass(frozen=True)
class _Where:
    """Where a cohort runs.

    Attributes
    ----------
    workers
        Number of workers, by default one for each GPU here, else one for every two cores; or of SLURM's jobs, by
        default 1.
    threads
        Threads of a worker, or cores of a job; by default an equal share of the cores here, and 2 of a job.
    scheduler
        Address of a Dask scheduler that is running, such as `tcp://node1:8786`.
    slurm
        Ask SLURM for the workers.
    memory
        Memory of a job.
    walltime
        Time of a job.
    directive
        Further option of sbatch, such as `--gres=gpu:1`; may come several times.
    """

    workers: PositiveInt | None = None
    threads: PositiveInt | None = None
    scheduler: Annotated[str | None, _ONE] = None
    slurm: Annotated[bool, _ONE] = False
    memory: Annotated[str, Parameter(group=_JOBS)] = "16GB"
    walltime: Annotated[str, Parameter(group=_JOBS)] = "24:00:00"
    directive: Annotated[tuple[str, ...], Parameter(group=_JOBS)] = ()

    @property
    def elsewhere(self) -> bool:
        """Whether workers may outlive the command."""
        return self.slurm or self.scheduler is not None

    def cluster(self) -> "AbstractContextManager[Client]":
        """Return the cluster, which runs as long as its context."""
        from lesionclick.cohort.cluster import Slurm, local_cluster, running_cluster, slurm_cluster

        if self.scheduler:
            return running_cluster(self.scheduler)
        if self.slurm:
            return slurm_cluster(
                Slurm(self.workers or 1, self.threads or 2, self.memory, self.walltime, self.directive)
            )
        return local_cluster(self.workers, self.threads)


def cohort(
    cases: Path,
    /,
    *,
    output: Path,
    pattern: str | None = None,
    labels: Path | None = None,
    model: Path | None = None,
    steps: _Steps = None,
    exact: bool = False,
    trust_checkpoint: bool = False,
    where: _Where = _Where(),
    container: Annotated[str | None, Parameter(group=_JOB)] = None,
    engine: Annotated[str, Parameter(group=_JOB)] = "docker",
) -> int:
    """Segment many cases on many workers, and go on where an earlier run ended.

    For example:

        lesionclick cohort out/cases --labels out/labels --output out/cohort --steps 0..10

    Parameters
    ----------
    cases
        Folder of cases of either task in the platform's layout, or a text file with the path of one in each line.
    output
        Folder for masks, records and `cohort.parquet`. A case that is done there from the same inputs, labels, model
        and options is skipped.
    pattern
        Pattern of the case folders in `cases`, such as `sub-*/ses-*`.
    labels
        Folder of true masks, `<case>.mha`; for Task 2 `<case>/<region>.mha`.
    model
        Model folder, or one with folders `task1` and `task2`; by default `/opt/ml/model`, else the embedded one.
    steps
        Replay these steps of the challenge, as `0..10` or `0,5,10`; those of Task 2 are 0 and 1 always. By default a
        case is run once, with the clicks that it has.
    exact
        Compute as nnU-Net does, at its speed; not in containers.
    trust_checkpoint
        Let checkpoints run any code that they hold; not in containers.
    where
        Which workers.
    container
        Image; each job is run in a container of it.
    engine
        Container engine, such as docker or podman.

    Returns
    -------
    int
        Exit code: 1 where cases failed, 130 after Ctrl+C.
    """
    from lesionclick.cohort.cases import find_cohort
    from lesionclick.cohort.fingerprints import digest_models
    from lesionclick.cohort.run import run_cases, write_table
    from lesionclick.cohort.work import Work
    from lesionclick.cohort.worker import is_done
    from lesionclick.evaluation.engine import Engine
    from lesionclick.evaluation.records import CohortFolder, OptionsRecord

    if container and (exact or trust_checkpoint):
        raise InputError(f"--container {container}: expected no --exact and no --trust-checkpoint")
    found = find_cohort(cases, pattern)
    if labels is not None:
        _look_for_labels([case.name for case in found], labels)
    labels, model = (None if path is None else path.resolve() for path in (labels, model))
    contained = Engine.find(engine, container, model) if container else None
    digests = digest_models(model, contained, trust_checkpoint=trust_checkpoint)
    options = OptionsRecord(steps, exact, container)
    work = Work(output.resolve(), options, digests, labels, model, engine, trust_checkpoint)
    failed = 0
    with CohortFolder(work.output).opened() as out, _interrupts() as stop:
        if strangers := sorted(out.names() - {case.name for case in found}):
            what = f"{len(strangers)} records of cases that are not among these stay, such as {strangers[0]}"
            print(f"{work.output}: {what}; `lesionclick evaluate` counts them", file=sys.stderr)
        todo = [case for case in found if not is_done(case, work)]
        skipped = len(found) - len(todo)
        if todo:
            with where.cluster() as client:
                failed = _follow(run_cases(client, todo, work, stop=stop), skipped, len(found))
            if not where.elsewhere:
                out.remove_leftovers()  # the workers are gone
        print(write_table(out))
    if stop.is_set():
        print("stopped; the same command goes on", file=sys.stderr)
        return INTERRUPTED
    print(f"{len(found)} cases: {skipped} were done, {len(todo) - failed} done now, {failed} failed")
    return 1 if failed else 0


def _look_for_labels(cases: Sequence[str], labels: Path) -> None:
    """Tell which cases have no label, and refuse a folder without any, as of a share that is not mounted."""
    missing = [name for name in cases if not ((labels / f"{name}.mha").exists() or (labels / name).is_dir())]
    expected = f"such as {missing[0]}.mha or, for Task 2, a folder {missing[0]}" if missing else ""
    if len(missing) == len(cases):  # all scores that are there would go
        raise InputError(f"{labels}: expected a folder with labels, {expected}, found none")
    if missing:
        print(f"{labels}: {len(missing)} of {len(cases)} cases have no label, {expected}", file=sys.stderr)


@contextmanager
def _interrupts() -> Iterator[Event]:
    """Give what Ctrl+C sets, so that it interrupts nothing; a second one does."""
    stop = Event()

    def note(*_: object) -> None:
        if stop.is_set():
            raise KeyboardInterrupt
        stop.set()

    before = signal.signal(signal.SIGINT, note)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _follow(outcomes: "Iterable[Outcome]", skipped: int, total: int) -> int:
    """Show what becomes of the cases, with rate and remaining time on a terminal, and return how many failed."""
    from tqdm import tqdm

    failed, terminal = 0, sys.stderr.isatty()
    with tqdm(initial=skipped, total=total, unit="case", disable=not terminal, smoothing=0.05) as bar:
        for number, outcome in enumerate(outcomes, skipped + 1):
            bar.update()
            failed += outcome.error is not None
            if outcome.error is not None or not terminal:
                became = f"failed: {outcome.error}" if outcome.error is not None else "done"
                tqdm.write(f"{number}/{total} {outcome.case}: {outcome.seconds:.1f} s, {became}", file=sys.stderr)
            bar.set_postfix(failed=failed)
    return failed
