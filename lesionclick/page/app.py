"""The addresses of the page: its files, the images, the state as it changes, and what a reader does."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from starlette.requests import Request

from lesionclick.errors import InputError, LesionClickError
from lesionclick.page.access import Access, Guard
from lesionclick.page.actions import point_routes, result_routes
from lesionclick.page.pictures import FRESH, image_routes, projection_routes
from lesionclick.page.reading import Reading

logger = logging.getLogger(__name__)

STATIC = Path(__file__).parent / "static"

HEARTBEAT_S = 10.0
"""How often the state is sent when nothing changes, so that a page notices a server that is gone."""

LOOK_S = 0.5
"""How often a stream of events looks whether the server stops."""


def create_app(reading: Reading, access: Access, *, is_stopping: Callable[[], bool] = lambda: False) -> FastAPI:
    """Return the application for one open case.

    Parameters
    ----------
    reading
        Of the case.
    access
        Who gets in.
    is_stopping
        Tells whether tabs that listen for changes should be let go.
    """
    app = FastAPI(title="lesionclick", openapi_url=None, redirect_slashes=False)
    app.add_middleware(Guard, access=access)
    app.add_exception_handler(InputError, _answer_input_error)
    for kind in (LesionClickError, OSError):  # such as a full disk
        app.add_exception_handler(kind, _answer_failure)
    routers = [image_routes(reading), point_routes(reading), result_routes(reading)]
    if "pet" in reading.study.scans:
        routers.append(projection_routes(reading.study.scans["pet"]))
    for router in routers:
        app.include_router(router)

    @app.get("/api/study")
    def study() -> dict[str, Any]:
        grids = {name: list(scan.grid.spacing_xyz) for name, scan in reading.study.scans.items()}
        return {**reading.study.describe(), "scans": grids, "clickable": reading.study.clickable}

    @app.get("/api/state")
    def state() -> dict[str, Any]:
        return reading.state()

    @app.get("/api/events")
    async def events() -> StreamingResponse:
        stream = _events(reading, is_stopping)
        return StreamingResponse(stream, media_type="text/event-stream", headers=FRESH)

    @app.get("/")
    def index() -> Response:
        return Response((STATIC / "index.html").read_bytes(), media_type="text/html", headers=FRESH)

    app.mount("/", StaticFiles(directory=STATIC, follow_symlink=False))
    return app


async def _events(reading: Reading, is_stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield the state as server-sent events: now, after each change, and now and then."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()

    def tell() -> None:
        loop.call_soon_threadsafe(changed.set)

    with reading.listening(tell):
        while not is_stopping():
            changed.clear()
            yield f"data: {json.dumps(reading.state())}\n\n"
            silent_s = 0.0
            while silent_s < HEARTBEAT_S and not changed.is_set() and not is_stopping():
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_S)
                silent_s += LOOK_S


def _answer_input_error(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def _answer_failure(_request: Request, error: Exception) -> JSONResponse:
    logger.error("the page could not do what it was asked for", exc_info=error)
    return JSONResponse({"detail": f"{type(error).__name__}: {error}"}, 500)
