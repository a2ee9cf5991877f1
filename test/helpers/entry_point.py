"""Processes of the entry point, for one case and as a server."""

import os
import shutil
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from helpers.fault_table import write_good_case

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "inference.py"


def files_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def start(
    *arguments: object, prelude: str = "", stdout: int | IO[str] = subprocess.PIPE, **options: Any
) -> subprocess.Popen[str]:
    """Start the entry point as a process; `prelude` is Python that runs in it before."""
    script = f"import runpy, sys\n{prelude}\nrunpy.run_path({str(SCRIPT)!r}, run_name='__main__')\n"
    command = [sys.executable, "-c", script] if prelude else [sys.executable, str(SCRIPT)]
    return subprocess.Popen(
        [*command, *map(str, arguments)],
        stdout=stdout,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        **options,
    )


def run(*arguments: object, **options: Any) -> tuple[int, str]:
    """Run the entry point to its end, and return exit code and log."""
    process = start(*arguments, **options)
    log, _ = process.communicate(timeout=120)
    return process.returncode, log


@dataclass(frozen=True)
class Server:
    """A server as a process, with its folders and the file of its log."""

    process: subprocess.Popen[str]
    port: int
    input_dir: Path
    output_dir: Path
    log_file: Path

    def ask(self, method: str, path: str) -> tuple[int, str]:
        request = urllib.request.Request(f"http://localhost:{self.port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()

    def wait_until_ready(self) -> None:
        while self.process.poll() is None:
            try:
                if self.ask("GET", "/health")[0] == 200:
                    return
            except OSError:  # it does not listen yet
                pass
            time.sleep(0.1)
        raise RuntimeError(f"the server ended with {self.process.returncode}:\n{self.log_file.read_text()}")

    def lay_out(self, make: Callable[[Path], object]) -> None:
        """Empty both folders and let `make` write the case."""
        for folder in (self.input_dir, self.output_dir):
            shutil.rmtree(folder, ignore_errors=True)
        self.output_dir.mkdir()
        make(self.input_dir)

    def handles_a_good_case(self, task: str) -> bool:
        """Whether the server is healthy, answers 201 to a good case and leaves its mask alone."""
        self.lay_out(lambda folder: write_good_case(folder, task))
        healthy = self.ask("GET", "/health")[0] == 200
        return healthy and self.ask("POST", "/invoke")[0] == 201 and len(files_in(self.output_dir)) == 1
