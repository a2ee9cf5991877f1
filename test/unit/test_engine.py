"""Jobs in containers, with an engine that is played by a script which records its arguments."""

import os
import shutil
import urllib.request
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread

import pytest

from lesionclick.errors import InputError
from lesionclick.evaluation import engine as engine_module
from lesionclick.evaluation import platform_client
from lesionclick.evaluation.engine import Engine, ServerJob
from lesionclick.evaluation.jobs import ReplayError
from lesionclick.evaluation.petct_replay import PetCtReplay
from lesionclick.evaluation.replay import replay_cases
from lesionclick.evaluation.steps import Options
from lesionclick.petct.rules import RulesActed

SOCKET = "images/tumor-lesion-segmentation"
FLAGS = (
    "--rm --network none --cap-drop ALL --security-opt no-new-privileges --memory 8g --memory-swap 8g "
    "--shm-size 128m --pids-limit 256 --read-only --tmpfs /tmp"
)


def replay(folder: Path, run, output: Path, **options) -> PetCtReplay:
    """Replay one case; its masks go to `output` with the case's name."""
    (replay,) = replay_cases([folder], run, output, Options(**options))
    return replay


def make_engine(tmp_path: Path, run: str = "", info: str = "exit 1") -> Path:
    """An engine whose `run` writes its arguments and copies a prepared mask; `run` and `info` are shell code."""
    script = tmp_path / "engine"
    script.write_text(f"""#!/bin/sh
echo "$@" >> {tmp_path}/calls
case "$1" in
info) {info} ;;
run)
  for word in "$@"; do
    case "$word" in
      *:/output) out="${{word%:/output}}" ;;
      *:/input:ro) in="${{word%:/input:ro}}" ;;
    esac
  done
  {run}
  mkdir -p "$out/{SOCKET}"
  cp {tmp_path}/mask.mha "$out/{SOCKET}/$(basename "$in"/images/ct/*)" ;;
esac
""")
    script.chmod(0o755)
    (tmp_path / "calls").touch()
    return script


@pytest.fixture
def mask(labels) -> None:
    """The mask that the fake engine's container answers with: the positive case's label."""
    shutil.copy(labels / "positive.mha", labels.parent / "mask.mha")


@pytest.mark.usefixtures("mask")
def test_engine_gets_the_platforms_flags(cases, labels, tmp_path):
    engine = Engine.find(str(make_engine(tmp_path)), "lesionclick:test")
    result = replay(cases / "positive", engine, tmp_path / "out", steps=(0, 1), labels=labels)

    assert [step.scores["dsc"] for step in result.steps] == [1, 1]
    assert [step.rules for step in result.steps] == [None, None]
    info, *runs = (tmp_path / "calls").read_text().splitlines()
    assert info.startswith("info")
    assert len(runs) == 2
    assert len({line.split("--name ")[1].split()[0] for line in runs}) == 2
    for line in runs:
        words = line.split()
        assert words[3:-5] == FLAGS.split()
        assert words[-5] == words[-3] == "-v"
        assert words[-4].endswith("/input:/input:ro")
        assert words[-2].endswith("/output:/output")
        assert words[-1] == "lesionclick:test"


@pytest.mark.parametrize(("info", "gpu"), [("echo '{\"nvidia\":{}}'", True), ("echo '{\"runc\":{}}'", False)])
def test_gpus_are_passed_only_where_the_engine_knows_an_nvidia_runtime(tmp_path, info, gpu):
    engine = Engine.find(str(make_engine(tmp_path, info=info)), "image", tmp_path / "model")
    line = " ".join(engine.arguments(tmp_path / "i", tmp_path / "o", "name"))
    assert (" --gpus all " in line) is gpu
    assert f" -v {tmp_path}/model:/opt/ml/model:ro " in line


def test_a_missing_engine_is_an_error(tmp_path):
    with pytest.raises(InputError, match="container engine"):
        Engine.find(str(tmp_path / "no-such-engine"), "image")


@pytest.mark.usefixtures("mask")
def test_a_container_that_fails_shows_the_end_of_its_log(cases, tmp_path):
    engine = Engine(str(make_engine(tmp_path, run="echo the weights are broken >&2; exit 2")), "image")
    with pytest.raises(ReplayError, match=r"(?s)step 0: .*exit code 0, found 2.*the weights are broken"):
        replay(cases / "positive", engine, tmp_path / "out")


@pytest.mark.usefixtures("mask")
def test_a_container_that_never_ends_is_killed(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "TIME_LIMIT_S", 3.0)
    engine = Engine(str(make_engine(tmp_path, run="exec sleep 600")), "image")
    with pytest.raises(ReplayError, match="still running"):
        replay(cases / "positive", engine, tmp_path / "out")
    run, kill = (tmp_path / "calls").read_text().splitlines()
    assert kill == f"kill {run.split()[2]}"


@pytest.mark.parametrize(
    ("answer", "rules"),
    [
        ('{"masks": [], "rules": null}', None),
        (
            '{"masks": [], "rules": {"tumor": 5, "background": 4, "corrected_tumor": 3, "corrected_background": 2, '
            '"removed": 1}}',
            RulesActed(5, 4, 3, 2, 1),
        ),
    ],
)
def test_a_server_tells_what_its_rules_did(tmp_path, answer, rules):
    script = tmp_path / "engine"
    script.write_text(f"#!/bin/sh\n[ $1 = logs ] || printf '%s' '201 {answer}'\n")
    script.chmod(0o755)
    folders = [tmp_path / name for name in ("case", "out", "input", "output")]
    for folder in folders:
        folder.mkdir()
    for folder in folders[2:]:
        (folder / "of the case before").touch()
    server = ServerJob(Engine(str(script), "image"), "name", *folders[2:])
    assert server(*folders[:2]) == rules
    assert not [path for folder in folders[1:] for path in folder.iterdir()]


@pytest.mark.usefixtures("mask")
def test_what_a_container_leaves_is_unlocked_when_its_time_is_up_too(cases, tmp_path, monkeypatch):
    monkeypatch.setattr(engine_module, "TIME_LIMIT_S", 3.0)
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for a user other than root
    run = 'case "$*" in *--entrypoint*) exit ;; esac; mkdir "$out/images"; exec sleep 600'
    engine = Engine(str(make_engine(tmp_path, run)), "image")
    with pytest.raises(ReplayError, match="still running"):
        replay(cases / "positive", engine, tmp_path / "out")
    *_, unlock = (tmp_path / "calls").read_text().splitlines()
    assert "--entrypoint chmod image -R a+rwX /output/images" in unlock


SERVER = """#!/bin/sh
echo "$@" >> CALLS
case "$*" in
image*) echo invoke ;;
*--detach*) exit START ;;
*) printf 0.5 ;;
esac
"""


@pytest.mark.parametrize("start", [0, 1])
def test_a_server_is_stopped_and_removed_even_where_its_start_fails(tmp_path, start):
    """By options that both docker and podman have."""
    script = tmp_path / "engine"
    script.write_text(SERVER.replace("CALLS", str(tmp_path / "calls")).replace("START", str(start)))
    script.chmod(0o755)
    try:
        with Engine(str(script), "image").serve() as server:
            assert start == 0
            name = server.name
    except ReplayError:
        assert start == 1
    calls = (tmp_path / "calls").read_text().splitlines()
    (run,) = (call for call in calls if "--detach" in call)
    name = run.split("--name ")[1].split()[0]
    assert calls[-2:] == [f"stop -t 10 {name}", f"rm --force {name}"]


class Healthy(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"ready")

    def log_message(self, *_: object) -> None:
        pass


def test_the_client_beside_a_server_asks_no_proxy(monkeypatch):
    """Engines hand the host's proxy to containers."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.setattr(urllib.request, "_opener", None)  # that of an earlier test
    with HTTPServer(("127.0.0.1", 0), Healthy) as server:
        Thread(target=server.serve_forever).start()
        monkeypatch.setattr(platform_client, "URL", f"http://127.0.0.1:{server.server_port}")
        answer = platform_client.ask("GET", "/health", 60)
        server.shutdown()
    assert answer == (200, "ready")
