"""What the page shows of a case: its scans, the masks, and the frames of the rotating projection."""

from __future__ import annotations

import gzip
from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Response

from lesionclick.images import Volume
from lesionclick.page.places import from_ras, nifti_bytes, ras_at
from lesionclick.page.projection import Frame, Frames
from lesionclick.page.reading import Reading

MILLI = 1000.0
"""Frames are sent in thousandths of the PET's unit, as whole numbers of 16 bits."""

FRESH = {"Cache-Control": "no-store"}

_BINARY = "application/octet-stream"


def image_routes(reading: Reading) -> APIRouter:
    """Return the addresses of scans and masks, as NIfTI files."""
    routes, scans = APIRouter(), reading.study.scans

    def known(name: str) -> Volume:
        if name not in scans:
            raise HTTPException(404, f"expected one of {list(scans)}, found {name!r}")
        return scans[name]

    @routes.get("/api/scans/{name}.nii")
    def scan(name: str) -> Response:
        volume = known(name)
        if name != "pet":  # HU are whole numbers, and a CT of 16 bits is half as large
            volume = Volume(np.rint(volume.array).clip(-32768, 32767).astype(np.int16), volume.grid)
        return Response(nifti_bytes(volume), media_type=_BINARY, headers=FRESH)

    @routes.get("/api/masks/{name}.nii")
    def mask(name: str) -> Response:
        grid, volume = known(name).grid, reading.mask(name)
        array = np.zeros(grid.shape_zyx, np.uint8) if volume is None else volume.array.clip(0, 255).astype(np.uint8)
        content = gzip.compress(nifti_bytes(Volume(array, grid)), compresslevel=1)
        return Response(content, media_type=_BINARY, headers={**FRESH, "Content-Encoding": "gzip"})

    return routes


def projection_routes(pet: Volume) -> APIRouter:
    """Return the addresses of the frames of a PET, each made when it is first asked for."""
    routes = APIRouter()
    frames = Frames(pet)

    def frame(number: int) -> Frame:
        if not 0 <= number < frames.projector.n_frames:
            raise HTTPException(404, f"expected a frame from 0 to {frames.projector.n_frames - 1}, found {number}")
        return frames.frame(number)

    @routes.get("/api/projection")
    def projection() -> dict[str, Any]:
        one = frames.projector
        axes = [one.axes(number)[:, :2].T for number in range(one.n_frames)]
        return {
            "shape": one.shape,
            "step_mm": one.step_mm,
            "centre_mm": from_ras(one.centre_mm).tolist(),
            "axes": [from_ras(pair).tolist() for pair in axes],
        }

    @routes.get("/api/projection/{number}")
    def projection_frame(number: int) -> Response:
        values = np.rint(MILLI * frame(number).values).clip(0, 65535).astype("<u2")
        return Response(values.tobytes(), media_type=_BINARY, headers=FRESH)

    @routes.get("/api/projection/{number}/voxel")
    def projection_voxel(number: int, row: int, column: int) -> dict[str, Any]:
        voxels = frame(number).voxels
        if not (0 <= row < voxels.shape[0] and 0 <= column < voxels.shape[1]) or voxels[row, column] < 0:
            raise HTTPException(404, "expected a pixel that shows the patient")
        voxel = frames.projector.point_xyz(int(voxels[row, column]))
        return {"voxel": voxel, "ras_mm": ras_at(pet.grid, voxel)}

    return routes
