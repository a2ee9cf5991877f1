"""Cohorts on real processes: workers and schedulers that are killed, Ctrl+C, and the same command again."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import pyarrow.parquet as pq
import pytest
import torch
from helpers import deadly_case
from helpers.model_folder import write_model_folder
from helpers.tiny_phantom import tiny_phantom

from lesionclick.algorithm import Algorithm
from lesionclick.cohort import run
from lesionclick.cohort.cases import find_cohort
from lesionclick.cohort.cluster import Slurm, local_cluster, slurm_cluster
from lesionclick.cohort.work import CohortCase, Work
from lesionclick.evaluation.records import CohortFolder, OptionsRecord, Record
from lesionclick.evaluation.replay import replay_cases
from lesionclick.evaluation.samples import write_sample
from lesionclick.evaluation.steps import Options

ROOT = Path(__file__).parents[2]
PATIENCE_S = 300.0  # for a machine that is busy
NAMES = [f"case{number:02}" for number in range(12)]  # so many that a signal comes before the last is done


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `cases`, `labels` and `model`."""
    folder = tmp_path_factory.mktemp("cohort")
    for number, name in enumerate(NAMES):
        write_sample(tiny_phantom(number % 3 > 0), number, folder / "cases" / name, folder / "labels" / f"{name}.mha")
    write_model_folder(folder / "model", patch_size=(16, 16, 16))
    return folder


Process: TypeAlias = "subprocess.Popen[str]"


@pytest.fixture
def start() -> Iterator[Callable[..., Process]]:
    """Start a Python in a process group of its own, as a terminal does; what still runs in the end is killed."""
    started: list[Process] = []

    def start_python(*arguments: object) -> Process:
        process = subprocess.Popen(
            [sys.executable, *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            start_new_session=True,
        )
        started.append(process)
        return process

    yield start_python
    for process in started:
        process.kill()
        process.communicate()


class Command:
    """`lesionclick cohort` as a process."""

    def __init__(self, start: Callable[..., Process], data: Path, out: Path, *arguments: str) -> None:
        fixed = ["cohort", data / "cases", "--labels", data / "labels", "--model", data / "model", "--output", out]
        self.out = CohortFolder(out)
        self.process = start("-m", "lesionclick.cli", *fixed, "--steps", "0..5", *arguments)

    def wait_for_records(self, count: int) -> list[Record]:
        """Wait until so many cases are done, and return their records."""
        wait_until(lambda: len(list(self.out.records())) >= count, self.process)
        return list(self.out.records())

    def end(self) -> tuple[int, str]:
        """Wait until it ends by itself, and return exit code and log."""
        log, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, log


def wait_until(reached: Callable[[], bool], process: Process) -> None:
    end = time.monotonic() + PATIENCE_S
    while not reached():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < end, "timed out"
        time.sleep(0.02)


def written(out: CohortFolder) -> dict[str, int]:
    """Return when each mask was written."""
    return {str(path): path.stat().st_mtime_ns for path in (out.folder / "masks").rglob("*.mha")}


def masks(out: CohortFolder) -> dict[str, bytes]:
    folder = out.folder / "masks"
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.mha")}


@pytest.fixture(scope="module")
def serial(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The masks of a run of one process, case after case."""
    out = tmp_path_factory.mktemp("serial")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as the workers; sums in another order could differ
    handle = Algorithm(data / "model").handle
    list(replay_cases([data / "cases" / name for name in NAMES], handle, out / "masks", Options(range(6))))
    torch.set_num_threads(threads)
    return masks(CohortFolder(out))


def test_a_killed_worker_loses_no_case_and_after_ctrl_c_the_same_command_goes_on(
    start: Callable[..., Process], data: Path, tmp_path: Path, serial: dict[str, bytes]
) -> None:
    workers = ("--workers", "2", "--threads", "1")
    command = Command(start, data, tmp_path / "out", *workers)
    (first, *_) = command.wait_for_records(1)
    os.kill(first.worker.pid, signal.SIGKILL)
    command.wait_for_records(2)  # few, for all must not be done when the signal comes
    os.killpg(command.process.pid, signal.SIGINT)
    code, log = command.end()
    assert code == 130, log
    # not that there is no traceback: the worker that takes the killed one's place may just be starting, and tells so
    assert log.rstrip().endswith("the same command goes on"), log
    assert [path.name for path in (tmp_path / "out/.working").iterdir()] == ["lock"]
    before = list(command.out.records())
    assert 2 <= len(before) < len(NAMES)
    assert all(record.done for record in before)
    times = written(command.out)
    assert len(times) >= 6 * len(before)

    code, log = (again := Command(start, data, tmp_path / "out", *workers)).end()
    assert code == 0, log
    assert f"{len(before)} were done, {len(NAMES) - len(before)} done now, 0 failed" in log
    assert [record.case for record in again.out.records()] == NAMES
    kept = {name for name in times if Path(name).parent.name in {record.case for record in before}}
    assert {name: time for name, time in written(again.out).items() if name in kept} == {
        name: times[name] for name in kept
    }
    assert masks(again.out) == serial
    lines = [line for line in log.splitlines() if " s, done" in line]
    assert len(lines) == len(NAMES) - len(before)  # one for each case


def test_a_cohort_whose_data_is_not_mounted_stays_done(
    start: Callable[..., Process], data: Path, tmp_path: Path
) -> None:
    """The same command with its data, without, and with it again."""
    share, out = tmp_path / "share", CohortFolder(tmp_path / "out")
    for name in NAMES[:2]:
        shutil.copytree(data / "cases" / name, share / name)
    cases = tmp_path / "cases.txt"
    cases.write_text("".join(f"share/{name}\n" for name in NAMES[:2]))
    options = ["--labels", data / "labels", "--model", data / "model", "--output", out.folder, "--workers", "1"]

    def command() -> tuple[int, str]:
        process = start("-m", "lesionclick.cli", "cohort", cases, *options, "--threads", "1")
        log, _ = process.communicate(timeout=PATIENCE_S)
        return process.returncode, log

    code, log = command()
    assert code == 0, log
    records, made, times = list(out.records()), masks(out), written(out)
    assert len(made) == 2

    share.rename(tmp_path / "elsewhere")
    code, log = command()
    assert code == 1, log
    assert "2 cases: 0 were done, 0 done now, 2 failed" in log
    assert log.count("expected the folder of a case, found none; what was done before stays") == 2
    assert (list(out.records()), masks(out)) == (records, made)
    rows = pq.read_table(out.folder / "cohort.parquet").to_pylist()
    assert [(row["case"], row["error"]) for row in rows] == [(name, None) for name in NAMES[:2]]

    (tmp_path / "elsewhere").rename(share)
    code, log = command()
    assert code == 0, log
    assert "2 cases: 2 were done, 0 done now, 0 failed" in log
    assert written(out) == times


def start_cluster(start: Callable[..., Process], file: Path) -> tuple[Process, str]:
    """Start a scheduler and a worker, and return the scheduler and its address."""
    named = ("--scheduler-file", file)
    scheduler = start("-m", "dask", "scheduler", "--host", "127.0.0.1", "--port", "0", "--no-dashboard", *named)
    wait_until(lambda: file.exists() and file.read_bytes().endswith(b"}"), scheduler)
    start("-m", "dask", "worker", *named, "--nthreads", "1", "--no-dashboard", "--no-nanny")
    address: str = json.loads(file.read_bytes())["address"]
    return scheduler, address


def test_a_killed_scheduler_ends_the_command_and_the_next_one_goes_on(
    start: Callable[..., Process], data: Path, tmp_path: Path, serial: dict[str, bytes]
) -> None:
    scheduler, address = start_cluster(start, tmp_path / "first.json")
    command = Command(start, data, tmp_path / "out", "--scheduler", address)
    command.wait_for_records(2)
    scheduler.kill()
    code, log = command.end()
    assert code == 3, log
    assert "error: cluster: expected a scheduler that runs until the end, found" in log
    assert all(record.done for record in command.out.records())

    _, address = start_cluster(start, tmp_path / "second.json")
    code, log = (again := Command(start, data, tmp_path / "out", "--scheduler", address)).end()
    assert code == 0, log
    assert ", 0 failed" in log
    assert [record.case for record in again.out.records()] == NAMES
    assert masks(again.out) == serial


def test_a_case_that_kills_its_workers_is_given_up_and_the_others_are_done(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "run_case", deadly_case.run_case)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join((str(ROOT), str(ROOT / "test"))))
    cases = [CohortCase(deadly_case.DEADLY, data / "cases" / NAMES[0]), *find_cohort(data / "cases")]
    with CohortFolder(tmp_path / "out").opened() as out, local_cluster(2, 1) as client:
        work = Work(out.folder, OptionsRecord(), {"task1": ""})
        outcomes = {outcome.case: outcome.error for outcome in run.run_cases(client, cases, work)}
    assert outcomes.keys() == {deadly_case.DEADLY, *NAMES}
    assert {name for name, error in outcomes.items() if error is not None} == {deadly_case.DEADLY}
    assert deadly_case.attempts(out.folder) == 4  # the first, and three more
    record = out.record(deadly_case.DEADLY)
    assert record is not None
    assert record.error is not None
    assert record.error.type == "KilledWorker"


def test_gpus_are_dealt_out_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with local_cluster(3, 1) as client:
        client.wait_for_workers(3)
        seen = client.run(os.getenv, "CUDA_VISIBLE_DEVICES")
    assert sorted(seen.values()) == ["4", "4", "7"]


def test_slurm_is_asked_for_jobs_with_one_worker_each() -> None:
    slurm = Slurm(0, cores=8, memory="32GB", walltime="02:00:00", directives=("--gres=gpu:1",))
    with slurm_cluster(slurm) as client:
        script = client.cluster.job_script()
    for line in (
        "#SBATCH --cpus-per-task=8",
        "#SBATCH -t 02:00:00",
        "#SBATCH --gres=gpu:1",
        "export OMP_NUM_THREADS=8",
    ):
        assert line in script, script
    assert "--nthreads 1" in script


SBATCH = """#!/bin/bash
# runs the job here, as SLURM does on a node, and answers as it does
cp "${@: -1}" "$JOBS/script"
setsid bash "$JOBS/script" > "$JOBS/log.$$" 2>&1 < /dev/null &
touch "$JOBS/started.$!"
echo "Submitted batch job $!"
"""
SCANCEL = """#!/bin/bash
mv "$JOBS/started.$1" "$JOBS/cancelled.$1"
kill -- "-$1"
"""


def test_workers_of_slurm_jobs_do_the_cases_and_end_with_the_command(
    start: Callable[..., Process],
    data: Path,
    tmp_path: Path,
    serial: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """SLURM itself is not here: its two commands are stood in for, the jobs' script, the workers and all else run."""
    jobs = tmp_path / "jobs"
    jobs.mkdir()
    for name, script in (("sbatch", SBATCH), ("scancel", SCANCEL)):
        (jobs / name).write_text(script)
        (jobs / name).chmod(0o755)
    monkeypatch.setenv("JOBS", str(jobs))
    monkeypatch.setenv("PATH", f"{jobs}{os.pathsep}{os.environ['PATH']}")
    out = tmp_path / "out"
    options = ["--model", data / "model", "--output", out, "--steps", "0,1", "--workers", "2", "--threads", "1"]
    process = start("-m", "lesionclick.cli", "cohort", data / "cases", *options, "--slurm")
    log, _ = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, log
    made = masks(CohortFolder(out))
    assert made
    assert made.items() <= serial.items()
    assert {record.case for record in CohortFolder(out).records()} == set(NAMES)
    assert len(list(jobs.glob("cancelled.*"))) == 2
    assert not list(jobs.glob("started.*"))
