"""A cohort on processes that are killed, its overhead, and a scheduler with far more workers than this machine has.

    python benchmarks/cohort.py survive --count 60
    python benchmarks/cohort.py overhead --count 60 --workers 2
    python benchmarks/cohort.py scheduler --tasks 10000 --workers 200 --seconds 5

``survive`` draws phantoms, segments them one after the other in one process, and then as a cohort on a scheduler and
two workers: a worker is killed with -9 after a third of the cases, the scheduler after half of them, and the same
command is run again. ``overhead`` tells what a cohort adds to the work on a case: on the worker, and between two cases.
``scheduler`` replaces the network by one that sleeps, and leaves masks and records as a cohort does.

Phantoms are small by default; ``--spacing 4.07 4.07 3`` and ``--view 0 1`` give those of a real PET.
"""

import argparse
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from statistics import mean, median

import dask
from distributed import Client, Scheduler, SpecCluster, Worker, get_task_stream

from lesionclick.cohort.cases import find_cohort
from lesionclick.cohort.cluster import SETTINGS, local_cluster
from lesionclick.cohort.fingerprints import digest_models
from lesionclick.cohort.run import run_cases
from lesionclick.cohort.work import CohortCase, Outcome, Work
from lesionclick.cohort.worker import run_case
from lesionclick.evaluation.records import CohortFolder, OptionsRecord, Record
from lesionclick.evaluation.samples import write_sample
from lesionclick.simulation.patients import make_patient
from lesionclick.simulation.uptake import Tracer

SINGLE = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
MASK_BYTES = 200_000
"""Size of a mask that the sleeping network leaves; a compressed one of 400 x 400 x 300 voxels has about so many."""


def draw(folder: Path, args: argparse.Namespace) -> None:
    """Write the phantoms as cases with labels."""
    for seed in range(args.count):
        tracer: Tracer = "psma" if seed % 2 else "fdg"
        name = f"{tracer}_{seed:04d}"
        patient = make_patient(seed, tracer, lesions=3, spacing_xyz=tuple(args.spacing), field_of_view=tuple(args.view))
        write_sample(patient, seed, folder / "cases" / name, folder / "labels" / f"{name}.mha")


def start(*arguments: object, log: Path) -> subprocess.Popen[bytes]:
    """Start a Python whose libraries compute with one thread, since sums in another order could differ."""
    with log.open("ab") as file:
        command = [sys.executable, *map(str, arguments)]
        return subprocess.Popen(command, stdout=file, stderr=file, env={**os.environ, **SINGLE}, start_new_session=True)


def start_cluster(folder: Path, name: str) -> tuple[list[subprocess.Popen[bytes]], str]:
    """Start a scheduler and two workers, and return the three and the scheduler's address."""
    file, log = folder / f"{name}.json", folder / f"{name}.log"
    quiet = ("--no-dashboard", "--scheduler-file", file)
    scheduler = start("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", *quiet, log=log)
    while not (file.exists() and file.read_bytes().endswith(b"}")):
        time.sleep(0.1)
    worker = ("-m", "dask", "worker", "--nthreads", "1", "--memory-limit", "0", *quiet)
    workers = [start(*worker, log=log) for _ in range(2)]
    return [scheduler, *workers], json.loads(file.read_bytes())["address"]


def wait_for(out: CohortFolder, count: int) -> list[Record]:
    """Wait for so many records and return them."""
    while len(records := list(out.records())) < count:
        time.sleep(0.1)
    return records


def survive(folder: Path, args: argparse.Namespace) -> None:
    """Kill a worker and a scheduler, run again, and compare with the serial run."""
    draw(folder, args)
    begin = time.monotonic()
    serial, out = folder / "serial", CohortFolder(folder / "out")
    script = (
        "import sys; from pathlib import Path; from lesionclick.algorithm import Algorithm\n"
        "cases, out = map(Path, sys.argv[1:]); algorithm = Algorithm()\n"
        "for case in sorted(cases.iterdir()): algorithm.handle(case, out / case.name)"
    )
    if start("-c", script, folder / "cases", serial, log=folder / "serial.log").wait() != 0:
        sys.exit((folder / "serial.log").read_text())
    print(f"serial: {args.count} cases in {time.monotonic() - begin:.0f} s", flush=True)

    common = (
        "-m",
        "lesionclick.cli",
        "cohort",
        folder / "cases",
        "--labels",
        folder / "labels",
        "--output",
        out.folder,
    )
    processes, address = start_cluster(folder, "first")
    begin = time.monotonic()
    command = start(*common, "--scheduler", address, log=folder / "command.log")
    victim = wait_for(out, args.count // 3)[0].worker.pid
    os.kill(victim, signal.SIGKILL)
    wait_for(out, args.count // 2)
    processes[0].kill()
    code = command.wait()
    before = {record.case: out.record_path(record.case).stat().st_mtime_ns for record in out.records()}
    print(f"killed a worker and the scheduler: exit code {code}, {len(before)} cases done", flush=True)
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)

    processes, address = start_cluster(folder, "second")
    code = start(*common, "--scheduler", address, log=folder / "command.log").wait()
    for process in processes:
        os.killpg(process.pid, signal.SIGKILL)
    records = list(out.records())
    again = sum(out.record_path(name).stat().st_mtime_ns != written for name, written in before.items())
    equal = sum(
        next((serial / record.case).rglob("*.mha")).read_bytes()
        == (out.folder / next(iter(record.steps[0].masks.values()))).read_bytes()
        for record in records
        if record.done
    )
    print(f"the same command again: exit code {code}, {time.monotonic() - begin:.0f} s in all")
    print(f"{sum(record.done for record in records)} of {args.count} done, {again} of {len(before)} done twice")
    print(f"{equal} masks have the serial run's bytes")


def overhead(folder: Path, args: argparse.Namespace) -> None:
    """Tell what a cohort adds to reading, segmenting, writing and scoring, on a worker and between two cases."""
    draw(folder, args)
    cases = find_cohort(folder / "cases")
    with (
        CohortFolder(folder / "out").opened() as out,
        local_cluster(args.workers, 1) as client,
        get_task_stream(client) as stream,
    ):
        work = Work(out.folder, OptionsRecord(), digest_models(None), folder / "labels")
        outcomes = list(run_cases(client, cases, work))
    records = [record for record in out.records() if record.done]
    useful = [
        sum(step.seconds[stage] for step in record.steps for stage in step.seconds)
        + record.seconds["load model"]
        + record.seconds["read case"]
        for record in records
    ]
    around = [record.seconds["total"] - seconds for record, seconds in zip(records, useful, strict=True)]
    kept = [outcome.seconds for outcome in sorted(outcomes, key=lambda outcome: outcome.case)]
    keeping = [spent - record.seconds["total"] for spent, record in zip(kept, records, strict=True)]
    gaps = _gaps(stream.data)
    added = [("on the worker", around), ("the record", keeping), ("between two cases", gaps)]
    print(f"{len(records)} cases on {args.workers} workers, {mean(useful):.2f} s of work each")
    for what, seconds in added:
        print(f"{what}: {1e3 * mean(seconds):.1f} ms, median {1e3 * median(seconds):.1f} ms")
    for name, average in (("mean", mean), ("median", median)):
        total = sum(average(seconds) for _, seconds in added)
        print(f"in all, {name}: {1e3 * total:.0f} ms a case, {100 * total / average(useful):.1f} % of its work")


def _gaps(tasks: list[dict]) -> list[float]:
    """Return the seconds between the end of a task and the beginning of the next on the same worker."""
    spans: dict[str, list[tuple[float, float]]] = {}
    for task in tasks:
        (span,) = (one for one in task["startstops"] if one["action"] == "compute")
        spans.setdefault(task["worker"], []).append((span["start"], span["stop"]))
    ordered = [sorted(some) for some in spans.values()]
    return [after[0] - before[1] for some in ordered for before, after in pairwise(some)]


def sleeping_case(case: CohortCase, work: Work, template: Record, seconds: float) -> Outcome:
    """Do a case whose network sleeps, and leave what a real one leaves; the outcome's seconds are those on files."""
    out = CohortFolder(work.output)
    begin = time.monotonic()
    with out.working_folder(case.name) as folder:
        before = time.monotonic() - begin
        time.sleep(seconds)
        begin = time.monotonic()
        (folder / "masks").mkdir()
        (folder / "masks" / "mask.mha").write_bytes(os.urandom(MASK_BYTES))
        out.keep(replace(template, case=case.name), folder)
    return Outcome(case.name, None, before + time.monotonic() - begin)


def nothing(_: int) -> None:
    """Be a task without work."""


def scheduler(folder: Path, args: argparse.Namespace) -> None:
    """Let many workers, all in this process, do cases whose network sleeps."""
    draw(folder, argparse.Namespace(**{**vars(args), "count": 1}))
    (example,) = find_cohort(folder / "cases")
    cases = [CohortCase(f"case{number:06d}", example.path) for number in range(args.tasks)]
    workers = {
        number: {"cls": Worker, "options": {"nthreads": 1, "memory_limit": 0, "dashboard": False}}
        for number in range(args.workers)
    }
    server = {"cls": Scheduler, "options": {"host": "127.0.0.1", "port": 0, "dashboard_address": "127.0.0.1:0"}}
    with (
        dask.config.set(SETTINGS),
        CohortFolder(folder / "out").opened() as out,
        SpecCluster(workers, scheduler=server) as cluster,
        Client(cluster) as client,
    ):
        client.wait_for_workers(args.workers)
        work = Work(out.folder, OptionsRecord(), digest_models(None), folder / "labels")
        run_case(example, work)
        template = out.record(example.name)
        begin, cpu = time.monotonic(), time.process_time()
        client.gather(client.map(nothing, range(args.tasks)))
        empty, used = time.monotonic() - begin, time.process_time() - cpu
        print(f"tasks without work: {1e3 * empty / args.tasks:.2f} ms each, {1e3 * used / args.tasks:.2f} ms of CPU")
        begin, cpu = time.monotonic(), time.process_time()
        futures = client.map(sleeping_case, cases, work=work, template=template, seconds=args.seconds, key="case")
        on_files = [outcome.seconds for outcome in client.gather(futures)]
        wall, used = time.monotonic() - begin, time.process_time() - cpu
    ideal = args.tasks * args.seconds / args.workers
    added = (wall - ideal) * args.workers / args.tasks
    print(f"{args.tasks} cases of {args.seconds:g} s on {args.workers} workers: {wall:.0f} s, {ideal:.0f} s at best")
    print(f"added to a case: {1e3 * added:.0f} ms of its worker, {1e3 * mean(on_files):.0f} ms of it on files")
    print(f"CPU of all together (scheduler, {args.workers} workers, files): {1e3 * used / args.tasks:.2f} ms a case")
    print(f"{sum(1 for _ in out.records()) - 1} records")


def main() -> None:
    """Run what the command line says in a new folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("survive", "overhead", "scheduler"))
    parser.add_argument("--count", type=int, default=60, help="phantoms")
    parser.add_argument("--spacing", type=float, nargs=3, default=(10.0, 10.0, 10.0), help="of a phantom, in mm")
    parser.add_argument("--view", type=float, nargs=2, default=(0.45, 0.6), help="part of the height that is scanned")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--tasks", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5.0, help="that the sleeping network takes")
    parser.add_argument("--folder", type=Path, help="for all files; by default a temporary one")
    args = parser.parse_args()
    logging.getLogger("distributed").setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory(prefix="lesionclick-cohort-", dir=args.folder) as folder:
        {"survive": survive, "overhead": overhead, "scheduler": scheduler}[args.what](Path(folder), args)


if __name__ == "__main__":
    main()
