"""What a reader does: set points and take them back, ask for proposals, save, look up."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, HTTPException, Query, Response
from pydantic import BaseModel, ConfigDict, Field

from lesionclick.page.pictures import FRESH
from lesionclick.page.reading import Reading

Coordinate = Annotated[float, Field(allow_inf_nan=False, ge=-1e6, le=1e6)]


class PointRequest(BaseModel):
    """A click."""

    model_config = ConfigDict(extra="forbid")
    scan: str = Field(max_length=40)
    kind: str = Field(max_length=12)
    ras_mm: tuple[Coordinate, Coordinate, Coordinate]


def point_routes(reading: Reading) -> APIRouter:
    """Return the addresses that set points, take them back, and ask for proposals."""
    routes = APIRouter()

    @routes.post("/api/points", status_code=201)
    def add(point: PointRequest) -> dict[str, Any]:
        try:
            mark = reading.add(point.scan, point.kind, point.ras_mm)
        except ValueError as error:
            raise HTTPException(422, str(error)) from error
        return {"number": mark.number, "voxel": mark.point_xyz}

    @routes.delete("/api/points/{number}")
    def remove(number: int) -> dict[str, Any]:
        if not reading.remove(number):
            raise HTTPException(404, f"expected a point, found none of number {number}")
        return {}

    @routes.post("/api/undo")
    def undo() -> dict[str, Any]:
        reading.undo()
        return {}

    @routes.post("/api/redo")
    def redo() -> dict[str, Any]:
        reading.redo()
        return {}

    @routes.post("/api/suggest", status_code=202)
    def suggest() -> dict[str, Any]:
        reading.ask_for_suggestions()
        return {}

    return routes


def result_routes(reading: Reading) -> APIRouter:
    """Return the addresses of what a reader takes home, and of the places that the registration links."""
    routes = APIRouter()

    @routes.post("/api/save")
    def save() -> dict[str, Any]:
        files = reading.save()
        return {"folder": str(reading.records.folder), "files": [path.name for path in files]}

    @routes.get("/api/lesions.csv")
    def lesions() -> Response:
        headers = {**FRESH, "Content-Disposition": 'attachment; filename="lesions.csv"'}
        return Response(reading.final_answer().csv, media_type="text/csv", headers=headers)

    @routes.get("/api/link")
    def link(scan: str, ras_mm: Annotated[list[Coordinate], Query(min_length=3, max_length=3)]) -> dict[str, Any]:
        return reading.study.link(scan, ras_mm)

    return routes
