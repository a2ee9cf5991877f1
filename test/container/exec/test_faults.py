"""Faults of the case, and of what the engine gives, with the image for single cases."""

import subprocess
import time
import uuid
from collections.abc import Sequence
from pathlib import Path

import pytest
from helpers.fault_table import FAULTS, Fault, write_good_case

from lesionclick.evaluation.engine import ENGINE_FLAGS, Engine

FILL_AND_RUN = """head -c 4k /dev/zero >/output/other
python /opt/app/inference.py
code=$?
find /output -type f
exit $code"""


def run(engine: Engine, case: Path, *flags: str, command: Sequence[str] = ()) -> tuple[int, str]:
    """Handle a case with more flags, and return exit code and log."""
    arguments = [engine.command, "run", *ENGINE_FLAGS, "-v", f"{case}:/input:ro", *flags, engine.image, *command]
    job = subprocess.run(arguments, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return job.returncode, job.stdout


@pytest.mark.parametrize("fault", [fault for fault in FAULTS if fault.container], ids=lambda fault: fault.name)
def test_container_ends_with_its_code_and_says_why(fault: Fault, engine: Engine, tmp_path: Path, output: Path) -> None:
    case = write_good_case(tmp_path / "case/input", fault.task)
    fault.spoil(case)
    code, log = run(engine, case, "-v", f"{output}:/output")
    engine.unlock(output)
    assert (code, fault.message in log, "Traceback" in log) == (fault.code, True, False), log
    assert len([path for path in output.rglob("*") if path.is_file()]) == (code == 0)


def test_full_disk_is_named(engine: Engine, tmp_path: Path) -> None:
    case = write_good_case(tmp_path / "input", "task1")
    disk = ("--tmpfs", "/output:size=4k,mode=1777", "--entrypoint", "sh")
    code, log = run(engine, case, *disk, command=("-c", FILL_AND_RUN))
    *_, message, left = log.splitlines()
    assert (code, left, "Traceback" in log) == (1, "/output/other", False), log
    assert "found a full disk" in message


def test_killed_container_leaves_no_half_mask(engine: Engine, case: Path, output: Path) -> None:
    name = f"lesionclick-{uuid.uuid4()}"
    job = subprocess.Popen(
        engine.arguments(case, output, name), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert job.stdout is not None
    while "read case" not in job.stdout.readline():
        assert job.poll() is None
    time.sleep(0.5)
    subprocess.run([engine.command, "kill", name], check=True, capture_output=True)
    job.communicate(timeout=60)
    engine.unlock(output)
    assert job.returncode == 137
    assert [path for path in output.rglob("*") if path.is_file()] == []
