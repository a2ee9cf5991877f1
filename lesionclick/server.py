"""The platform's invoke API: one process that loads the models once and handles one case after the other.

``GET /health`` answers 503 while the models load and 200 from then on. ``POST /invoke`` handles the case that lies in
the input folder now and answers 201 with the paths of its masks, what the rules did and the seconds per stage; 422
tells of a bad case, 500 of anything else, each with the reason as ``detail``. A second case while one runs is refused
with 409: it would share the folders of the first, so that whoever sends it has lost count of them, and waiting would
hide that.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from typing import Any

import torch
import uvicorn
from fastapi import FastAPI
from fastapi.responses import JSONResponse

from lesionclick.algorithm import Done
from lesionclick.errors import InputError, LesionClickError
from lesionclick.petct.session import Segmentation

logger = logging.getLogger(__name__)

PORT = 4743
"""Where the platform asks."""
GRACE_S = 8.0
"""Time that a case gets to end after SIGTERM; the platform's patience is 10 s."""
STOPPED = 128 + signal.SIGTERM
"""Exit code of a process that was asked to stop in the middle of a case."""

Handle = Callable[[], Done]
"""Handles the case in the input folder, or raises."""


class Service:
    """The models, once they are loaded, and the case that is being handled.

    Loading and cases run in one thread beside the event loop, so that ``/health`` is answered at any time, and memory
    comes from one arena and stays flat.

    Parameters
    ----------
    load
        Loads the models and returns what handles a case with them.
    """

    def __init__(self, load: Callable[[], Handle]) -> None:
        self.lost = False
        """Whether the GPU is lost to this process, so that no later case can be handled."""
        self.on_lost: Callable[[], None] = lambda: None
        self._thread = ThreadPoolExecutor(1, "case")
        self._case: Future[Done] | None = None
        self.loading = self._thread.submit(load)
        self.loading.add_done_callback(_report_loading)

    @property
    def busy(self) -> bool:
        """Whether a case is being handled."""
        return self._case is not None and not self._case.done()

    @property
    def exit_code(self) -> int:
        """What the process should end with now."""
        error = self.loading.exception() if self.loading.done() else None
        if self.lost:
            return 3
        if error is not None:
            return error.exit_code if isinstance(error, LesionClickError) else 3
        return 0 if self.loading.done() and not self.busy else STOPPED

    def health(self) -> JSONResponse:
        """Answer ``GET /health``."""
        if not self.loading.done():
            return _answer(503, "the models are being loaded")
        if self.lost:
            return _answer(500, "the GPU failed, and does so for every later case of this process")
        error = self.loading.exception()
        return JSONResponse({"status": "ready"}) if error is None else _answer(500, str(error))

    async def invoke(self) -> JSONResponse:
        """Answer ``POST /invoke``."""
        if not self.loading.done() or self.loading.exception() is not None or self.lost:
            return self.health()
        if self.busy:
            return _answer(409, "expected one case after the other, found one that is still being handled")
        self._case = self._thread.submit(self.loading.result())
        try:
            # shielded: whoever hangs up, or the end of the server, does not take back a case that runs
            done = await asyncio.shield(asyncio.wrap_future(self._case))
        except InputError as error:
            logger.error("%s", error)
            return _answer(422, str(error))
        except LesionClickError as error:
            logger.error("%s", error)
            return _answer(500, str(error))
        except Exception as error:
            logger.exception("unexpected error")
            if _gpu_is_lost():
                self.lost = True
                self.on_lost()
            return _answer(500, f"{type(error).__name__}: {error}")
        return JSONResponse(_describe(done), status_code=201)


def _gpu_is_lost() -> bool:
    """Tell whether CUDA fails for good: after a failed launch, every later call of the process does."""
    if not torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _report_loading(loading: Future[Handle]) -> None:
    error = loading.exception()
    if error is None:
        logger.info("ready")
        return
    trace = None if isinstance(error, LesionClickError) else error
    logger.error("%s", error, exc_info=trace)


def create_app(service: Service) -> FastAPI:
    """Return the application with its two paths."""
    app = FastAPI(title="lesionclick", openapi_url=None, redirect_slashes=False)
    app.add_api_route("/health", service.health, methods=["GET"])
    app.add_api_route("/invoke", service.invoke, methods=["POST"], status_code=201)
    return app


def serve(load: Callable[[], Handle], host: str = "0.0.0.0", port: int = PORT) -> int:
    """Answer requests until SIGTERM or SIGINT, or until the models turn out to be broken or the GPU is lost.

    A case that runs then gets `GRACE_S`; later than that the process ends in the middle of it, without a mask.

    Parameters
    ----------
    load
        See `Service`.
    host, port
        Where to listen.

    Returns
    -------
    int
        Exit code for the process: 0 after a stop between two cases, `STOPPED` in the middle of one or of loading, 3
        where the port cannot be had or the GPU is lost, else the loading error's.
    """

    def stop_without_models(loading: Future[Handle]) -> None:
        if loading.exception() is not None:
            stop()

    def stop() -> None:
        server.should_exit = True

    try:  # before the models are loaded in vain
        listener = socket.create_server((host, port))
    except OSError as error:
        logger.error("port %d: expected one that this process may listen on, found %s", port, error)
        return 3
    # uvicorn answers both signals, and raises them again when it has stopped; then there is nothing left to stop
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    grace = int(GRACE_S)
    service = Service(load)
    app = create_app(service)
    config = uvicorn.Config(app, log_config=None, access_log=False, timeout_graceful_shutdown=grace)
    server = uvicorn.Server(config)
    service.on_lost = stop  # with an exit code, so that the platform starts another process
    service.loading.add_done_callback(stop_without_models)  # called at once where loading has failed by now
    logger.info("listening on port %d of %s", port, host)
    server.run([listener])
    code = service.exit_code
    if code == STOPPED:
        logger.warning("stopped in the middle of %s", "a case" if service.busy else "loading")
        logging.shutdown()
        os._exit(code)  # the thread is still at work and nothing else would end it
    return code


def _describe(done: Done) -> dict[str, Any]:
    """Return what a client may want to know of a case: its masks, what the rules did, seconds per stage."""
    rules = done.segmentation.rules if isinstance(done.segmentation, Segmentation) else None
    return {
        "masks": [str(path) for path in done.masks],
        "rules": asdict(rules) if rules else None,
        "seconds": {stage: round(seconds, 3) for stage, seconds in done.seconds.items()},
    }


def _answer(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status_code=status)
