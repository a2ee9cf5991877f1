"""The addresses of the page: its files, the images, the state as it changes, and what a reader does."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from fastapi import FastAPI, HTTPException, Query, Response
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from lesionclick.errors import InputError
from lesionclick.images import Volume
from lesionclick.page.access import Access, Guard
from lesionclick.page.places import from_ras, nifti_bytes, ras_at
from lesionclick.page.projection import Frame, Projector
from lesionclick.page.reading import Reading

STATIC = Path(__file__).parent / "static"

HEARTBEAT_S = 10.0
"""How often the state is sent when nothing changes, so that a page notices a server that is gone."""

LOOK_S = 0.5
"""How often a stream of events looks whether the server stops."""

MILLI = 1000.0
"""Frames are sent in thousandths of the PET's unit, as whole numbers of 16 bits."""

Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class PointRequest(BaseModel):
    """A click."""

    model_config = ConfigDict(extra="forbid")
    scan: str = Field(max_length=40)
    kind: str = Field(max_length=12)
    ras_mm: tuple[Coordinate, Coordinate, Coordinate]


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
    _add_images(app, reading)
    _add_actions(app, reading)

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
        return StreamingResponse(stream, media_type="text/event-stream", headers=_FRESH)

    @app.get("/")
    def index() -> Response:
        return Response((STATIC / "index.html").read_bytes(), media_type="text/html", headers=_FRESH)

    app.mount("/", StaticFiles(directory=STATIC, follow_symlink=False))
    return app


def _add_images(app: FastAPI, reading: Reading) -> None:
    scans = reading.study.scans
    projector = lru_cache(1)(lambda: Projector(scans["pet"]))
    frame: Any = lru_cache(None)(lambda number: projector().frame(number))

    @app.get("/api/scans/{name}.nii")
    def scan(name: str) -> Response:
        volume = _known(scans, name)
        if name != "pet":  # HU are whole numbers, and a CT of 16 bits is half as large
            volume = Volume(np.rint(volume.array).clip(-32768, 32767).astype(np.int16), volume.grid)
        return Response(nifti_bytes(volume), media_type="application/octet-stream", headers=_FRESH)

    @app.get("/api/masks/{name}.nii")
    def mask(name: str) -> Response:
        volume = reading.mask(name)
        if volume is None:
            grid = _known(scans, name).grid
            volume = Volume(np.zeros(grid.shape_zyx, np.uint8), grid)
        content = gzip.compress(nifti_bytes(Volume(volume.array.clip(0, 255).astype(np.uint8), volume.grid)), 1)
        headers = {**_FRESH, "Content-Encoding": "gzip"}
        return Response(content, media_type="application/octet-stream", headers=headers)

    @app.get("/api/projection")
    def projection() -> dict[str, Any]:
        _known(scans, "pet")
        one = projector()
        axes = [one.axes(number)[:, :2].T for number in range(one.n_frames)]
        return {
            "shape": one.shape,
            "step_mm": one.step_mm,
            "centre_mm": from_ras(one.centre_mm).tolist(),
            "axes": [from_ras(pair).tolist() for pair in axes],
        }

    @app.get("/api/projection/{number}")
    def projection_frame(number: int) -> Response:
        values = np.rint(MILLI * _frame(number).values).clip(0, 65535).astype("<u2")
        return Response(values.tobytes(), media_type="application/octet-stream", headers=_FRESH)

    @app.get("/api/projection/{number}/voxel")
    def projection_voxel(number: int, row: int, column: int) -> dict[str, Any]:
        voxels = _frame(number).voxels
        if not (0 <= row < voxels.shape[0] and 0 <= column < voxels.shape[1]) or voxels[row, column] < 0:
            raise HTTPException(404, "expected a pixel that shows the patient")
        voxel = projector().point_xyz(int(voxels[row, column]))
        return {"voxel": voxel, "ras_mm": ras_at(scans["pet"].grid, voxel)}

    def _frame(number: int) -> Frame:
        _known(scans, "pet")
        if not 0 <= number < projector().n_frames:
            raise HTTPException(404, f"expected a frame from 0 to {projector().n_frames - 1}")
        found: Frame = frame(number)
        return found


def _add_actions(app: FastAPI, reading: Reading) -> None:
    @app.post("/api/points", status_code=201)
    def add(point: PointRequest) -> dict[str, Any]:
        try:
            mark = reading.add(point.scan, point.kind, point.ras_mm)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return {"number": mark.number, "voxel": mark.point_xyz}

    @app.delete("/api/points/{number}")
    def remove(number: int) -> dict[str, Any]:
        if not reading.remove(number):
            raise HTTPException(404, f"expected a point, found none of number {number}")
        return {}

    @app.post("/api/undo")
    def undo() -> dict[str, Any]:
        reading.undo()
        return {}

    @app.post("/api/redo")
    def redo() -> dict[str, Any]:
        reading.redo()
        return {}

    @app.post("/api/suggest", status_code=202)
    def suggest() -> dict[str, Any]:
        reading.ask_for_suggestions()
        return {}

    @app.post("/api/save")
    def save() -> dict[str, Any]:
        files = reading.save()
        return {"folder": str(reading.records.folder), "files": [path.name for path in files]}

    @app.get("/api/lesions.csv")
    def lesions() -> Response:
        headers = {**_FRESH, "Content-Disposition": 'attachment; filename="lesions.csv"'}
        return Response(reading.final_answer().csv, media_type="text/csv", headers=headers)

    @app.get("/api/link")
    def link(scan: str, ras_mm: Annotated[list[Coordinate], Query(min_length=3, max_length=3)]) -> dict[str, Any]:
        return reading.study.link(scan, ras_mm)


_FRESH = {"Cache-Control": "no-store"}


async def _events(reading: Reading, is_stopping: Callable[[], bool]) -> AsyncIterator[str]:
    """Yield the state as server-sent events: now, after each change, and now and then."""
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    with reading.listening(lambda: loop.call_soon_threadsafe(changed.set)):
        while not is_stopping():
            changed.clear()
            yield f"data: {json.dumps(reading.state())}\n\n"
            silent_s = 0.0
            while silent_s < HEARTBEAT_S and not changed.is_set() and not is_stopping():
                with suppress(TimeoutError):
                    await asyncio.wait_for(changed.wait(), LOOK_S)
                silent_s += LOOK_S


def _known(scans: Any, name: str) -> Volume:
    if name not in scans:
        raise HTTPException(404, f"expected one of {list(scans)}, found {name!r}")
    found: Volume = scans[name]
    return found


def _answer_input_error(_request: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)
