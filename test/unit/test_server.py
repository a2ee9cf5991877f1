"""The invoke API: what is answered while the models load, while a case runs, and when one fails."""

import asyncio
import logging
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np
import pytest
import torch
from fastapi.testclient import TestClient

from lesionclick.algorithm import Done
from lesionclick.errors import InputError, ModelError
from lesionclick.images import Grid, Volume
from lesionclick.petct.rules import RulesActed
from lesionclick.petct.session import Segmentation
from lesionclick.server import STOPPED, Handle, Service, create_app

GRID = Grid((1, 1, 1), (1.0, 1.0, 1.0))
VOXEL = Volume(np.zeros((1, 1, 1), np.uint8), GRID)
DONE = Done(
    (Path("/output/images/a/1.mha"), Path("/output/images/b/2.mha")),
    Segmentation(VOXEL, VOXEL, RulesActed(2, 1, 1, 0, 3), (), {}),
    {"predict": 1.23456},
)


@pytest.fixture
def started() -> Iterator[Callable[..., TestClient]]:
    """Start a service that loads by the given function; its clients are closed at the end."""
    clients = []

    def start(load: Callable[[], Handle]) -> TestClient:
        service = Service(load)
        client = TestClient(create_app(service))
        client.service = service
        clients.append(client.__enter__())
        return client

    yield start
    for client in clients:
        client.__exit__(None, None, None)


def wait_for_loading(client: TestClient) -> None:
    client.service.loading.exception(timeout=10)


def ready(start: Callable[..., TestClient], handle: Handle) -> TestClient:
    client = start(lambda: handle)
    wait_for_loading(client)
    return client


def test_health_is_503_until_the_models_are_loaded(started) -> None:
    loaded = Event()

    def load() -> Handle:
        loaded.wait(10)
        return lambda: DONE

    client = started(load)
    assert client.get("/health").status_code == client.post("/invoke").status_code == 503
    assert client.service.exit_code == STOPPED
    loaded.set()
    wait_for_loading(client)
    assert client.get("/health").status_code == 200
    assert client.service.exit_code == 0


def test_a_case_gives_201_and_the_paths_of_its_masks(started) -> None:
    answer = ready(started, lambda: DONE).post("/invoke")
    assert answer.status_code == 201
    acted = {
        "tumor": 2,
        "background": 1,
        "corrected_tumor": 1,
        "corrected_background": 0,
        "removed": 3,
    }
    masks = ["/output/images/a/1.mha", "/output/images/b/2.mha"]
    assert answer.json() == {"masks": masks, "rules": acted, "seconds": {"predict": 1.235}}


@pytest.mark.parametrize(
    ("error", "status", "detail", "trace"),
    [
        (InputError("ct: expected an image"), 422, "ct: expected an image", False),
        (ModelError("plans.json: broken"), 500, "plans.json: broken", False),
        (KeyError("x"), 500, "KeyError: 'x'", True),
        (RuntimeError("CUDA error: device lost"), 500, "RuntimeError: CUDA error: device lost", True),
    ],
)
def test_a_case_that_fails_says_why_and_leaves_the_server_healthy(
    started, caplog: pytest.LogCaptureFixture, error: Exception, status: int, detail: str, trace: bool
) -> None:
    outcomes: list[Exception | None] = [error, None]

    def handle() -> Done:
        if (outcome := outcomes.pop(0)) is not None:
            raise outcome
        return DONE

    client = ready(started, handle)
    answer = client.post("/invoke")
    assert (answer.status_code, answer.json()) == (status, {"detail": detail})
    (record,) = (one for one in caplog.records if one.levelno == logging.ERROR)
    assert (record.exc_info is not None) == trace
    assert client.get("/health").status_code == 200
    assert client.post("/invoke").status_code == 201


def test_a_gpu_that_is_lost_ends_the_server(started, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a failed launch CUDA fails in each later call; another process may go on."""

    def fail() -> Done:
        raise RuntimeError("CUDA error: unspecified launch failure")

    stopped = Event()
    client = ready(started, fail)
    client.service.on_lost = stopped.set
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    assert client.post("/invoke").status_code == 500
    assert client.get("/health").status_code == 200  # the GPU goes on, as after a lack of memory
    monkeypatch.setattr(torch.cuda, "synchronize", fail)
    assert client.post("/invoke").status_code == 500
    assert stopped.is_set()
    assert client.service.exit_code == 3
    assert client.get("/health").status_code == 500
    assert client.post("/invoke").json() == client.get("/health").json()


def test_a_second_case_while_one_runs_is_refused_and_health_is_answered(started) -> None:
    running, go_on = Event(), Event()

    def handle() -> Done:
        running.set()
        go_on.wait(10)
        return DONE

    client = ready(started, handle)
    answers: list[httpx.Response] = []
    first = Thread(target=lambda: answers.append(client.post("/invoke")))
    first.start()
    running.wait(10)
    assert client.service.busy
    assert client.service.exit_code == STOPPED
    assert client.get("/health").status_code == 200
    second = client.post("/invoke")
    assert second.status_code == 409
    assert "still being handled" in second.json()["detail"]
    go_on.set()
    first.join(10)
    assert answers[0].status_code == 201
    assert client.post("/invoke").status_code == 201


@pytest.mark.parametrize(("error", "code"), [(ModelError("no plans.json"), 2), (OSError("no disk"), 3)])
def test_models_that_cannot_be_loaded_end_the_server(caplog: pytest.LogCaptureFixture, error, code) -> None:
    def load() -> Handle:
        raise error

    service = Service(load)
    service._thread.submit(lambda: None).result(10)  # comes after all that loading does
    assert service.exit_code == code
    assert str(error) in caplog.text
    with TestClient(create_app(service)) as client:
        assert (client.get("/health").status_code, client.post("/invoke").status_code) == (500, 500)


def test_a_server_ends_whose_models_fail_before_it_stands() -> None:
    script = """
from lesionclick import server
from lesionclick.errors import ModelError

def load():
    raise ModelError("no plans.json")

def create_late(service, create=server.create_app):
    service.loading.exception()  # waits until loading has failed
    return create(service)

server.create_app = create_late
raise SystemExit(server.serve(load, "127.0.0.1", 0))
"""
    assert subprocess.run([sys.executable, "-c", script], timeout=60).returncode == 2


def test_a_case_that_nobody_waits_for_any_more_is_handled() -> None:
    go_on, handled = Event(), Event()

    def handle() -> Done:
        handled.set()
        return DONE

    service = Service(lambda: handle)
    service.loading.result(10)
    service._thread.submit(go_on.wait, 10)  # the thread is not free yet, as just after loading

    async def hang_up() -> None:
        asking = asyncio.create_task(service.invoke())
        await asyncio.sleep(0)
        assert service.busy
        asking.cancel()
        await asyncio.wait([asking])
        assert asking.cancelled()

    asyncio.run(hang_up())
    go_on.set()
    assert handled.wait(10)


STOPPING = """
import sys, time
from lesionclick import server
from lesionclick.algorithm import Done

port, server.GRACE_S, loading_s, case_s = int(sys.argv[1]), *map(float, sys.argv[2:])

def handle():
    print("running", flush=True)
    time.sleep(case_s)
    return Done((), None, {})

def load():
    time.sleep(loading_s)
    return handle

raise SystemExit(server.serve(load, "127.0.0.1", port))
"""


@pytest.mark.parametrize(
    ("grace_s", "loading_s", "case_s", "code", "answers", "log"),
    [
        pytest.param(1, 600, 0, STOPPED, [], "stopped in the middle of loading", id="while the models load"),
        pytest.param(1, 0, None, 0, [], "", id="between two cases"),
        pytest.param(60, 0, 1, 0, [201], "", id="a case that ends in time"),
        pytest.param(1, 0, 600, STOPPED, [500], "stopped in the middle of a case", id="a case that does not"),
    ],
)
def test_a_server_that_is_asked_to_stop(grace_s, loading_s, case_s, code, answers, log) -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    found: list[int | None] = []

    def ask(method: str, path: str) -> int | None:
        try:
            return httpx.request(method, f"http://127.0.0.1:{port}{path}", timeout=60, trust_env=False).status_code
        except httpx.TransportError:
            return None

    command = [sys.executable, "-c", STOPPING, *map(str, (port, grace_s, loading_s, case_s or 0))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        try:
            while ask("GET", "/health") != (503 if loading_s else 200):
                assert process.poll() is None
                time.sleep(0.05)
            client = Thread(target=lambda: found.append(ask("POST", "/invoke")))
            if answers:
                client.start()
                assert process.stdout.readline() == "running\n"
            process.terminate()
            _, problems = process.communicate(timeout=120)
        finally:
            process.kill()
        if answers:
            client.join(60)
    assert (process.returncode, found) == (code, answers)
    assert log in problems


@pytest.mark.parametrize(("method", "path"), [("GET", "/invoke"), ("POST", "/health")])
def test_other_methods_are_refused(started, method: str, path: str) -> None:
    assert ready(started, lambda: DONE).request(method, path).status_code == 405


@pytest.mark.parametrize("path", ["/", "/docs", "/openapi.json", "/health/"])
def test_there_is_nothing_else_and_no_redirect(started, path: str) -> None:
    assert ready(started, lambda: DONE).get(path, follow_redirects=False).status_code == 404
