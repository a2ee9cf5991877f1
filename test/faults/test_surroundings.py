"""Faults of the surroundings: model, disk, signals, clock, device. Each test stands for a row of `SURROUNDINGS`."""

import json
import os
import pickle
import resource
import shutil
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from threading import Thread

import pytest
import SimpleITK as sitk
import torch
from helpers.case_folder import images, write_case
from helpers.entry_point import ROOT, Server, files_in, run, start
from helpers.fault_table import SURROUNDINGS, Surrounding, table, write_good_case

ROWS = {row.name: row for row in SURROUNDINGS}
CHECKPOINT = "fold_0/checkpoint_final.pth"
LOST_GPU = """
import torch
def lose(*_): raise RuntimeError("CUDA error: unspecified launch failure")
import lesionclick.network.tiles as s
keep, s.average_flips = s.average_flips, lose
"""
TINY_DISK_BYTES = 100


@pytest.fixture
def case(tmp_path: Path) -> Path:
    return write_good_case(tmp_path / "input", "task1")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "resources/task1", tmp_path / "model"))


def folders(case: Path) -> list[object]:
    return ["--input", case, "--output", case.parent / "output"]


def outcome(code: int) -> str:
    return f"exit code {code}" if code >= 0 else f"killed by signal {-code}"


def check(row: Surrounding, case: Path, code: int, log: str) -> None:
    """Compare with the row; nothing is in the output folder unless it says so."""
    assert row.result.startswith(outcome(code)), log
    assert row.message in log
    assert len(files_in(case.parent / "output")) == (row.left != "nothing")


def no_model(model: Path) -> None:
    shutil.rmtree(model)


def broken_plans(model: Path) -> None:
    (model / "plans.json").write_text("{")


def truncated_weights(model: Path) -> None:
    os.truncate(model / CHECKPOINT, (model / CHECKPOINT).stat().st_size // 2)


def nan_weights(model: Path) -> None:
    content = torch.load(model / CHECKPOINT, weights_only=False)
    weights = content["network_weights"]
    content["network_weights"] = {name: torch.full_like(tensor, torch.nan) for name, tensor in weights.items()}
    torch.save(content, model / CHECKPOINT)


def other_task(model: Path) -> None:
    shutil.rmtree(model)
    shutil.copytree(ROOT / "resources/task2", model)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        ("no model folder", no_model),
        ("broken plans.json", broken_plans),
        ("truncated weights", truncated_weights),
        ("weights that are NaN", nan_weights),
        ("model of the other task", other_task),
    ],
)
def test_broken_model(name: str, spoil: Callable[[Path], None], case: Path, model: Path) -> None:
    spoil(model)
    code, log = run(*folders(case), "--model", model)
    check(ROWS[name], case, code, log)
    assert str(model) in log or name == "weights that are NaN"
    assert "Traceback" not in log


def test_broken_model_of_a_server(start_server: Callable[..., Server], model: Path) -> None:
    broken_plans(model)
    server = start_server("--model", model)
    row = ROWS["broken plans.json for a server"]
    assert row.result == outcome(server.process.wait(60))
    assert row.message in server.log_file.read_text()


class Bomb:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, (self.command,)


def test_checkpoint_with_code_in_it(case: Path, model: Path) -> None:
    sign = case.parent / "the code has run"
    (model / CHECKPOINT).write_bytes(pickle.dumps(Bomb(f"touch '{sign}'")))
    code, log = run(*folders(case), "--model", model)
    check(ROWS["checkpoint with code in it"], case, code, log)
    assert not sign.exists()


def test_output_is_a_file(case: Path) -> None:
    (case.parent / "output").touch()
    code, log = run(*folders(case))
    row = ROWS["output is a file"]
    assert (outcome(code), row.message in log) == (row.result, True)
    assert (case.parent / "output").read_bytes() == b""


def test_disk_full(case: Path) -> None:
    def fill() -> None:  # what is written beyond is refused, as by a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (TINY_DISK_BYTES, TINY_DISK_BYTES))

    code, log = run(*folders(case), preexec_fn=fill)
    check(ROWS["disk full"], case, code, log)


def test_disk_full_for_a_server(server: Server) -> None:
    server.lay_out(lambda folder: write_good_case(folder, "task1"))
    limits = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)
    # the log goes on: it is far beyond by now, and what a process may not write, it is told
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (TINY_DISK_BYTES, limits[1]))
    status, body = server.ask("POST", "/invoke")
    resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, limits)
    row = ROWS["disk full for a server"]
    assert row.result.startswith(f"status {status}")
    assert row.message in body
    assert files_in(server.output_dir) == []
    assert server.handles_a_good_case("task1")


def test_killed_while_it_writes(tmp_path: Path) -> None:
    ct, pet = (sitk.Expand(image, (6, 6, 6)) for image in images())
    case = write_case(tmp_path / "input", ct, pet)
    process = start(*folders(case), stdout=None)
    output = tmp_path / "output"
    while process.poll() is None and not files_in(output):
        time.sleep(0.0005)
    process.kill()
    process.wait()
    masks = [path for path in output.rglob("*.mha") if not path.name.startswith(".")]
    for mask in masks:
        assert sitk.ReadImage(str(mask)).GetSize() == pet.GetSize()


def test_asked_to_stop_in_the_middle(case: Path) -> None:
    process = start(
        *folders(case), prelude=LOST_GPU.replace("raise RuntimeError", "import time; time.sleep(60); raise OSError")
    )
    while not (case.parent / "output").exists():
        time.sleep(0.05)
    process.terminate()
    log, _ = process.communicate(timeout=60)
    check(ROWS["asked to stop in the middle"], case, process.returncode, log)
    assert process.returncode == -signal.SIGTERM


def test_gpu_vanishes(case: Path) -> None:
    code, log = run(*folders(case), prelude=LOST_GPU)
    check(ROWS["GPU vanishes"], case, code, log)


def test_gpu_vanishes_for_a_server(start_server: Callable[..., Server]) -> None:
    once = LOST_GPU.replace("def lose(*_): ", "def lose(*_):\n    s.average_flips = keep\n    ")
    server = start_server(prelude=once)
    server.wait_until_ready()
    server.lay_out(lambda folder: write_good_case(folder, "task2"))
    status, body = server.ask("POST", "/invoke")
    row = ROWS["GPU vanishes for a server"]
    assert row.result.startswith(f"status {status}")
    assert row.message in body
    assert files_in(server.output_dir) == []
    assert server.handles_a_good_case("task2")


def test_out_of_memory_everywhere(case: Path) -> None:
    code, log = run(*folders(case), prelude=LOST_GPU.replace("RuntimeError", "torch.OutOfMemoryError"))
    check(ROWS["out of memory everywhere"], case, code, log)
    assert "Traceback" not in log


def test_clock_jumps_by_years(case: Path) -> None:
    jumping = """
import itertools, time
real, jumps = time.time, itertools.cycle((-1e8, 1e8))
time.time = lambda: real() + next(jumps)
"""
    code, log = run(*folders(case), "--budget", 300, prelude=jumping)
    check(ROWS["clock jumps by years"], case, code, log)
    assert "plan: 1 of 1 folds" in log


def test_no_time_at_all(case: Path) -> None:
    code, log = run(*folders(case), "--budget", 0.001)
    check(ROWS["no time at all"], case, code, log)
    (mask,) = (sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (case.parent / "output").rglob("*.mha"))
    assert mask[8, 7, 6] == 1
    assert mask[3, 2, 1] == 0


@pytest.mark.parametrize("budget", ["0", "-3", "nan", "inf", "soon"])
def test_budget_that_is_no_time(budget: str, case: Path) -> None:
    code, log = run(*folders(case), f"--budget={budget}")
    check(ROWS["budget that is no time"], case, code, log)


@pytest.mark.parametrize("port", ["-1", "65536", "http", "4_743"])
def test_port_that_is_none(port: str, case: Path) -> None:
    code, log = run(*folders(case), "--serve", f"--port={port}")
    check(ROWS["port that is none"], case, code, log)


def test_port_that_is_taken(case: Path) -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        code, log = run(*folders(case), "--serve", "--port", taken.getsockname()[1])
    check(ROWS["port that is taken"], case, code, log)
    assert "model" not in log.lower()


def test_second_case_while_one_runs(start_server: Callable[..., Server]) -> None:
    slow = LOST_GPU.replace("raise RuntimeError", "import time; time.sleep(2); return keep(*_); raise OSError")
    server = start_server(prelude=slow)
    server.wait_until_ready()
    server.lay_out(lambda folder: write_good_case(folder, "task2"))
    answers: list[int] = []
    first = Thread(target=lambda: answers.append(server.ask("POST", "/invoke")[0]))
    first.start()
    while "read case" not in server.log_file.read_text():
        time.sleep(0.05)
    status, body = server.ask("POST", "/invoke")
    first.join()
    row = ROWS["second case while one runs"]
    assert row.result == f"status {status}, the first gets {answers[0]}"
    assert row.message in json.loads(body)["detail"]
    assert len(files_in(server.output_dir)) == 1


def test_the_page_is_up_to_date() -> None:
    assert (ROOT / "docs/faults.md").read_text(encoding="utf-8") == table(), (
        "run PYTHONPATH=test python -m helpers.fault_table > docs/faults.md"
    )
