"""Jobs of the replay in a container engine, under the platform's limits: a container each, or one server for all."""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import ReplayError
from lesionclick.petct.rules import RulesActed

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

READY_LIMIT_S = 300.0
"""How long the platform waits for a server, about: 30 times 10 s."""
STOP_S = 10
"""How long a server may take to stop before it is killed: the container engines' own limit."""
API_METHOD = "org.grand-challenge.api-method"
"""Label of an image that tells the platform how to run it: exec or invoke."""
_CLIENT = Path(__file__).parent / "platform_client.py"


@dataclass(frozen=True)
class Engine:
    """A job in a container: call it as `lesionclick.evaluation.jobs.Run`.

    Attributes
    ----------
    command
        Container engine, such as `docker` or `podman`.
    image
        Image to run.
    model
        Folder to mount at `/opt/ml/model`, where the platform unpacks an uploaded model.
    gpu
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

    def image_id(self) -> str:
        """Return the identity of the image's content.

        Raises
        ------
        ReplayError
            If the engine does not have the image.
        """
        return self._output("image", "inspect", "--format", "{{.Id}}", self.image).strip()

    @contextmanager
    def serve(self) -> Iterator[ServerJob]:
        """Start a server of an image that was built for it, wait until it is ready, and stop it in the end.

        Raises
        ------
        InputError
            If the image was built for another way to run it.
        ReplayError
            If the server is not ready within `READY_LIMIT_S`, with the end of its log.
        """
        label = ["image", "inspect", "--format", f'{{{{index .Config.Labels "{API_METHOD}"}}}}', self.image]
        method = self._output(*label).strip()
        if method != "invoke":
            raise InputError(f"image {self.image}: expected the label {API_METHOD}=invoke, found {method!r}")
        name = f"lesionclick-{uuid.uuid4()}"
        with tempfile.TemporaryDirectory(prefix="lesionclick-server-") as folder:
            server = ServerJob(self, name, Path(folder, "input"), Path(folder, "output"))
            for mount in (server.input_dir, server.output_dir):
                mount.mkdir()
                mount.chmod(0o777)  # the container's user is not ours
            first, *others = self.arguments(server.input_dir, server.output_dir, name)[1:]
            try:
                self._output(first, "--detach", *(flag for flag in others if flag != "--rm"))
                server.wait_until_ready()
                yield server
            finally:
                for stop in (["stop", "-t", f"{STOP_S}"], ["rm", "--force"]):  # docker's rm has no time to wait
                    subprocess.run([self.command, *stop, name], capture_output=True, check=False)
                self.unlock(server.output_dir)

    def _output(self, *arguments: str) -> str:
        """Return what the engine prints.

        Raises
        ------
        ReplayError
            If it fails.
        """
        done = subprocess.run([self.command, *arguments], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ReplayError(f"{self.command} {arguments[0]}: expected exit code 0, found: {done.stderr.strip()}")
        return done.stdout

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
        finally:
            self.unlock(output_dir)
        logger.info("container log:\n%s", job.stdout)
        if job.returncode != 0:
            raise ReplayError(
                f"container: expected exit code 0, found {job.returncode}; its log ends:\n{job.stdout[-2000:]}"
            )

    def unlock(self, output_dir: Path) -> None:
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


@dataclass(frozen=True)
class ServerJob:
    """A job that a server in a container handles: call it as `lesionclick.evaluation.jobs.Run`.

    The server has no network, as on the platform. What asks it is a container beside it that shares its network
    namespace.

    Attributes
    ----------
    engine
        What runs the server.
    name
        Of its container.
    input_dir, output_dir
        What it sees as `/input` and `/output`, for one job after the other.
    """

    engine: Engine
    name: str
    input_dir: Path
    output_dir: Path

    def wait_until_ready(self) -> None:
        """Poll `/health` until it answers.

        Raises
        ------
        ReplayError
            If it takes longer than `READY_LIMIT_S`, with the end of the log.
        """
        done = self.ask("ready", f"{READY_LIMIT_S:.0f}")
        if done.returncode != 0:
            raise ReplayError(
                f"server: expected /health 200, found {done.stdout or done.stderr}:\n{self.log()[-2000:]}"
            )
        logger.info("server: ready after %s s", done.stdout)

    def __call__(self, input_dir: Path, output_dir: Path) -> RulesActed | None:
        """Hand a case to the server, collect what it writes, and return what its rules did, where it tells.

        Raises
        ------
        ReplayError
            If the server answers with anything but 201.
        """
        for folder in (self.input_dir, self.output_dir):
            for path in folder.iterdir():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
        shutil.copytree(input_dir, self.input_dir, symlinks=True, dirs_exist_ok=True)
        before = len(self.log())
        done = self.ask("invoke")
        logger.info("container log:\n%s", self.log()[before:])
        self.engine.unlock(self.output_dir)
        shutil.copytree(self.output_dir, output_dir, dirs_exist_ok=True)
        if done.returncode != 0:
            raise ReplayError(f"server: expected 201, found {done.stdout or done.stderr}; log:\n{self.log()[-2000:]}")
        _, _, answer = done.stdout.partition(" ")
        rules = json.loads(answer).get("rules")
        return RulesActed(**rules) if rules else None

    def ask(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run `platform_client.py` beside the server."""
        beside = ["run", "--rm", "--interactive", "--network", f"container:{self.name}", "--entrypoint", "python"]
        return subprocess.run(
            [self.engine.command, *beside, self.engine.image, "-", *arguments],
            input=_CLIENT.read_text(encoding="utf-8"),
            capture_output=True,
            text=True,
            timeout=2 * TIME_LIMIT_S,
            check=False,
        )

    def log(self) -> str:
        """Return what the server has logged."""
        command = [self.engine.command, "logs", self.name]
        return subprocess.run(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace", check=False
        ).stdout
