"""What an image for the invoke API promises besides right masks."""

import re
import shutil
import subprocess
import time
from pathlib import Path
from threading import Thread

import pytest
from helpers.case_folder import write_case

from lesionclick.evaluation.engine import Engine, ServerJob
from lesionclick.evaluation.jobs import ReplayError

INVOKES = 200
LOOKS = 5


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return write_case(tmp_path / "small")


def inside(server: ServerJob, *command: str) -> str:
    """Return what a command prints in the server's container."""
    return subprocess.run(
        [server.engine.command, "exec", server.name, *command], check=True, capture_output=True, text=True
    ).stdout


def memory_kib(server: ServerJob) -> int:
    return int(re.search(r"VmRSS:\s+(\d+)", inside(server, "cat", "/proc/1/status"))[1])


def stop(server: ServerJob) -> int:
    """Ask the server to stop as the platform does, and return its exit code; 137 if it had to be killed after 10 s."""
    command = server.engine.command
    subprocess.run([command, "stop", "--time", "10", server.name], check=True, capture_output=True)
    state = [command, "inspect", "--format", "{{.State.ExitCode}}", server.name]
    return int(subprocess.run(state, check=True, capture_output=True, text=True).stdout)


def test_many_cases_leave_memory_flat_and_tmp_empty(server: ServerJob, small: Path, output: Path) -> None:
    server(small, output)
    first = memory_kib(server)
    done = server.ask("invoke", str(INVOKES - 1))
    assert done.returncode == 0, done.stdout
    # what is freed goes back to the system a little later, what leaked never does: the least of a few looks counts
    looks = []
    for _ in range(LOOKS):
        server(small, output)
        looks.append(memory_kib(server))
    print(f"memory after 1 case: {first} KiB, after {INVOKES} and more: {looks} KiB")  # noqa: T201
    assert min(looks) <= 1.05 * first
    assert inside(server, "find", "/tmp", "-mindepth", "1") == ""


def test_a_bad_case_is_refused_and_the_next_one_handled(server: ServerJob, small: Path, output: Path) -> None:
    (small / "lesion-clicks.json").rename(small.parent / "clicks")
    with pytest.raises(ReplayError, match=r"(?s)expected 201, found 422.*lesion-clicks\.json"):
        server(small, output)
    assert [path for path in output.rglob("*") if path.is_file()] == []
    (small.parent / "clicks").rename(small / "lesion-clicks.json")
    server(small, output)
    assert len(list(output.rglob("*.mha"))) == 1


def test_an_idle_server_stops_at_once(engine: Engine) -> None:
    with engine.serve() as server:
        assert stop(server) == 0


def test_a_busy_server_ends_or_gives_up_its_case_in_time(engine: Engine, case: Path) -> None:
    with engine.serve() as server:
        shutil.copytree(case, server.input_dir, dirs_exist_ok=True)
        asking = Thread(target=server.ask, args=("invoke",))
        asking.start()
        while "read case" not in server.log():
            time.sleep(0.1)
        code = stop(server)
        asking.join(60)
        files = [path.suffix for path in server.output_dir.rglob("*") if path.is_file()]
        assert (code, files) in [(0, [".mha"]), (143, [])]
