"""A longitudinal CT on the page: each follow-up beside the baselines that show the same part of the body."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from lesionclick.budget import Budget
from lesionclick.errors import InputError
from lesionclick.grand_challenge.interfaces import REGION_OF
from lesionclick.images import Volume, points_from_indices, replacing
from lesionclick.longitudinal.alignment import Alignment
from lesionclick.longitudinal.case import Baseline
from lesionclick.longitudinal.labels import LesionPoints
from lesionclick.longitudinal.session import LongitudinalSegmentation, LongitudinalSession
from lesionclick.page.marks import Mark, Marks
from lesionclick.page.places import from_ras, ras_at
from lesionclick.page.study import Answer
from lesionclick.prompts.points import Point, Prompts

MAX_NUMBER = 255
"""Largest number of a lesion that the page takes: more colours nobody tells apart."""


def baseline_scan(region: str) -> str:
    """Return the page's name of a baseline."""
    return f"{region}-baseline"


def followup_scan(region: str) -> str:
    """Return the page's name of a follow-up."""
    return f"{region}-followup"


class LongitudinalStudy:
    """A longitudinal case with its session.

    Parameters
    ----------
    session
        With the points that the case comes with.
    name
        Of the case.
    """

    def __init__(self, session: LongitudinalSession, name: str) -> None:
        case = session.case
        self.name = name
        self.warnings: tuple[str, ...] = ()
        self._session = session
        self._sources: list[list[tuple[Baseline, Alignment]]] | None = None
        self._found: dict[str, LesionPoints] | None = None
        self._baselines = {baseline_scan(one.region): one for one in case.baselines}
        self._followups = {followup_scan(one.region): one for one in case.followups}
        self.clickable = tuple(self._followups)
        then = {name: one.ct for name, one in self._baselines.items()}
        self.scans: Mapping[str, Volume] = {**then, **{name: one.ct for name, one in self._followups.items()}}

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the case is open."""
        points = [
            {"scan": name, "number": number, "ras_mm": ras_at(one.ct.grid, point)}
            for name, one in self._baselines.items()
            for number, point in one.points.items()
        ]
        return {
            "task": "task2",
            "name": self.name,
            "dicom": False,
            "baselines": list(self._baselines),
            "followups": list(self._followups),
            "baseline_points": points,
        }

    def marks(self, clicks: Mapping[str, Prompts] | None) -> Marks:
        """Return the points of the follow-ups, or those of click files."""
        marks: list[Mark] = []
        for scan, followup in self._followups.items():
            if clicks is None:
                points = [(str(number), point) for number, point in followup.points.items()]
            else:
                read = clicks[_click_file(followup.region)].on_grid(followup.ct.grid.shape_zyx)
                points = [(point.kind.split()[-1], point.point_xyz) for point in read]
            marks += [Mark(len(marks) + n, scan, kind, point) for n, (kind, point) in enumerate(points)]
        return tuple(marks)

    def placed(self, marks: Marks, mark: Mark) -> Marks:
        """Return the marks with a point that is set, or moved where its lesion has one on this scan.

        Points say which lesions are there. So the first point of all brings one for each lesion that was found without
        points, and is refused where these are still looked for.
        """
        if mark.kind not in map(str, range(1, MAX_NUMBER + 1)):
            raise ValueError(f"kind: expected the number of a lesion from 1 to {MAX_NUMBER}, found {mark.kind!r}")
        if not marks:
            if self._found is None:
                raise InputError(
                    "point: expected one after the first masks; the baseline's lesions are still looked for"
                )
            found = [(scan, str(number), point) for scan, one in self._found.items() for number, point in one.items()]
            marks = tuple(Mark(mark.number + n, *one) for n, one in enumerate(found, start=1))
        others = tuple(one for one in marks if (one.scan, one.kind) != (mark.scan, mark.kind))
        return (*others, mark)

    def click_files(self, marks: Marks) -> dict[str, Prompts]:
        """Return a click file for each follow-up."""
        return {
            _click_file(followup.region): Prompts(
                tuple(Point(f"Lesion {number}", point) for number, point in sorted(_points(marks, scan).items()))
            )
            for scan, followup in self._followups.items()
        }

    def answers(self, marks: Marks, budget: Budget) -> Iterator[Answer]:
        """Yield the masks of the baselines, then all masks with the table of lesions."""
        then = {name: one.lesions for name, one in self._baselines.items()}
        if self._sources is None:
            yield Answer(then)
            self._sources = self._session.sources(budget)
        points = {one.region: _points(marks, scan) for scan, one in self._followups.items()}
        found = self._session.segment(points, budget=budget)
        now = {scan: found.masks[one.region] for scan, one in self._followups.items()}
        if not marks:
            self._found = {scan: _inside(mask.array) for scan, mask in now.items()}
        rows = self._rows(found, points)
        yield Answer({**then, **now}, True, {"lesions": rows}, _csv(rows))

    def suggest(self, _budget: Budget) -> list[dict[str, Any]]:
        """Return nothing: proposals are for PET/CT."""
        return []

    def save(self, folder: Path, answer: Answer) -> list[Path]:
        """Write the mask of each follow-up, and the table."""
        paths = []
        for scan, followup in self._followups.items():
            for ending in (".mha", ".nii.gz"):
                path = folder / f"{followup.region}-mask{ending}"
                answer.masks[scan].write(path)
                paths.append(path)
        paths.append(folder / "lesions.csv")
        with replacing(paths[-1]) as table:
            table.write_text(answer.csv, encoding="utf-8")
        return paths

    def link(self, scan: str, ras_mm: Sequence[float]) -> dict[str, list[float]]:
        """Return the places in the scans of other times that a place shows.

        Raises
        ------
        InputError
            If there is no such scan, or the scans are not registered yet.
        """
        if scan not in self.scans or self._sources is None:
            known = list(self.scans) if self._sources is not None else "scans that are registered"
            raise InputError(f"scan: expected one of {known}, found {scan!r}")
        place = from_ras(ras_mm)
        linked = {}
        for followup, row in zip(self._session.case.followups, self._sources, strict=True):
            for baseline, alignment in row:
                then, now = baseline_scan(baseline.region), followup_scan(followup.region)
                if scan == then:
                    linked[now] = from_ras(alignment.to_followup(place)[0]).tolist()
                elif scan == now:
                    linked[then] = from_ras(alignment.to_baseline(place)[0]).tolist()
        return linked

    def _rows(self, found: LongitudinalSegmentation, points: Mapping[str, LesionPoints]) -> list[dict[str, Any]]:
        """Return one row for each lesion: its volumes, and where it was and is.

        Where each follow-up has a baseline of its own region, equal numbers of two regions are other lesions. A lesion
        that no follow-up shows has no volume now; one that was looked for, or has no point, has vanished.
        """
        assert self._sources is not None
        paired = self._session.case.is_paired
        rows: dict[tuple[str, int], dict[str, Any]] = {}

        def row(region: str, number: int) -> dict[str, Any]:
            key = (region if paired else "", number)
            fresh = {"number": number, "region": key[0], "then_ml": None, "now_ml": None, "places": {}}
            return rows.setdefault(key, fresh)

        for (scan, followup), sources in zip(self._followups.items(), self._sources, strict=True):
            for baseline, _ in sources:
                counts = np.bincount(baseline.lesions.array.ravel(), minlength=max(baseline.points, default=0) + 1)
                for number, point in baseline.points.items():
                    one = row(followup.region, number)
                    if one["then_ml"] is None:  # of two baselines, the one that shows more of the follow-up
                        one["then_ml"] = float(counts[number]) * baseline.ct.grid.voxel_ml
                    one["places"][baseline_scan(baseline.region)] = ras_at(baseline.ct.grid, point)
                    if any(points.values()):
                        one["now_ml"] = one["now_ml"] or 0.0
            mask = found.followups[followup.region].mask
            for seen in found.followups[followup.region].lesions:
                one = row(followup.region, seen.lesion.number)
                voxels = np.count_nonzero(mask.array == seen.lesion.number)
                one["now_ml"] = (one["now_ml"] or 0.0) + float(voxels) * mask.grid.voxel_ml
                one["places"][scan] = from_ras(seen.lesion.place_mm).tolist()
        return [rows[key] for key in sorted(rows)]


def _csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return the rows as a table; what is not known is left empty, as the volume then of a lesion that is new."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["lesion", "then_ml", "now_ml", "change_ml", "region"])
    for row in rows:
        then, now = row["then_ml"], row["now_ml"]
        change = None if then is None or now is None else now - then
        values = ["" if value is None else f"{value:.3f}" for value in (then, now, change)]
        table.writerow([row["number"], *values, row["region"]])
    return text.getvalue()


def _inside(mask: NDArray[np.integer]) -> LesionPoints:
    """Return the voxel of each lesion that is nearest to its centre, shape of `mask` (z, y, x)."""
    places = {}
    for number, box in enumerate(ndimage.find_objects(mask), start=1):
        if box is not None:
            own = np.argwhere(mask[box] == number) + [axis.start for axis in box]
            nearest = own[np.linalg.norm(own - own.mean(axis=0), axis=1).argmin()]
            x, y, z = points_from_indices(nearest).tolist()
            places[number] = (x, y, z)
    return places


def _points(marks: Marks, scan: str) -> LesionPoints:
    return {int(mark.kind): mark.point_xyz for mark in marks if mark.scan == scan}


def _click_file(region: str) -> str:
    return REGION_OF[region].followup_clicks.relative_path
