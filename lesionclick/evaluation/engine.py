"""A job of the replay in a container engine, under the platform's limits."""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
import uuid
from dataclasses import dataclass
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import ReplayError

logger = logging.getLogger(__name__)

TIME_LIMIT_S = 900.0
"""The platform's limit for one job."""

ENGINE_FLAGS = (
    "--rm",
    *("--network", "none"),
    *("--cap-drop", "ALL"),
    *("--security-opt", "no-new-privileges"),
    *("--memory", "8g", "--memory-swap", "8g"),
    *("--shm-size", "128m"),
    *("--pids-limit", "256"),
    "--read-only",
    *("--tmpfs", "/tmp"),
)
"""What the platform allows a job, with half of its memory: whoever passes here has room to spare there."""


@dataclass(frozen=True)
class Engine:
    """A job in a container: call it as `lesionclick.evaluation.jobs.Run`.

    Attributes
    ----------
    command : str
        Container engine, such as `docker` or `podman`.
    image : str
        Image to run.
    model : Path, optional
        Folder to mount at `/opt/ml/model`, where the platform unpacks an uploaded model.
    gpu : bool
        Pass all GPUs.
    """

    command: str
    image: str
    model: Path | None = None
    gpu: bool = False

    @classmethod
    def find(cls, command: str, image: str, model: Path | None = None) -> Engine:
        """Make an `Engine` that passes GPUs where the engine knows an NVIDIA runtime.

        Raises
        ------
        InputError
            If there is no such engine.
        """
        if shutil.which(command) is None:
            raise InputError(f"container engine: expected a command on PATH, found no {command!r}")
        # an engine without this field, such as podman, has no --gpus either: it fails here and is left on the CPU
        probe = subprocess.run(
            [command, "info", "--format", "{{json .Runtimes}}"], capture_output=True, text=True, check=False
        )
        return cls(command, image, model, gpu=probe.returncode == 0 and "nvidia" in probe.stdout)

    def arguments(self, input_dir: Path, output_dir: Path, name: str) -> list[str]:
        """Return the whole command line of one job; `name` is the container's."""
        mounts = ["-v", f"{input_dir}:/input:ro", "-v", f"{output_dir}:/output"]
        if self.model:
            mounts += ["-v", f"{self.model.resolve()}:/opt/ml/model:ro"]
        gpus = ["--gpus", "all"] if self.gpu else []
        return [self.command, "run", "--name", name, *ENGINE_FLAGS, *gpus, *mounts, self.image]

    def __call__(self, input_dir: Path, output_dir: Path) -> None:
        """Run one job.

        Raises
        ------
        ReplayError
            If the job exits with another code than 0, with the end of its log, or outlasts the platform's limit.
        """
        name = f"lesionclick-{uuid.uuid4()}"
        try:
            job = subprocess.run(
                self.arguments(input_dir, output_dir, name),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                timeout=TIME_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            subprocess.run([self.command, "kill", name], capture_output=True, check=False)
            raise ReplayError(
                f"container: expected an end within {TIME_LIMIT_S:.0f} s, found it still running"
            ) from error
        logger.info("container log:\n%s", job.stdout)
        self._unlock(output_dir)
        if job.returncode != 0:
            raise ReplayError(
                f"container: expected exit code 0, found {job.returncode}; its log ends:\n{job.stdout[-2000:]}"
            )

    def _unlock(self, output_dir: Path) -> None:
        """Let us delete what the container's user made, which a user other than root may not do otherwise."""
        if all(os.access(path, os.W_OK) for path in output_dir.rglob("*") if path.is_dir()):
            return
        script = [
            "--entrypoint",
            "chmod",
            self.image,
            "-R",
            "a+rwX",
            *(f"/output/{p.name}" for p in output_dir.iterdir()),
        ]
        subprocess.run(
            [self.command, "run", *ENGINE_FLAGS, "-v", f"{output_dir}:/output", *script],
            capture_output=True,
            check=False,
        )
