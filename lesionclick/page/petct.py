"""A PET/CT on the page."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesionclick.budget import Budget
from lesionclick.grand_challenge.interfaces import LESION_CLICKS
from lesionclick.images import Volume, replacing
from lesionclick.page.marks import Mark, Marks
from lesionclick.page.places import ras_at
from lesionclick.page.study import Answer
from lesionclick.petct.quantification import Quantification, quantify, to_csv
from lesionclick.petct.session import PetCtSession
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

if TYPE_CHECKING:
    from lesionclick.dicom.series import Series

CLICKS = LESION_CLICKS.relative_path


class PetCtStudy:
    """A PET/CT with its session.

    Parameters
    ----------
    session
        With the prompts that the case comes with.
    name
        Of the case.
    pet_series
        Where the case is a DICOM study, its PET, for the segmentation object.
    """

    clickable: tuple[str, ...] = ("pet",)

    def __init__(self, session: PetCtSession, name: str, pet_series: Series | None = None) -> None:
        self.name = name
        self.warnings: tuple[str, ...] = ()
        self.scans: Mapping[str, Volume] = {"ct": session.case.ct, "pet": session.case.pet}
        self._session = session
        self._pet_series = pet_series

    def describe(self) -> dict[str, Any]:
        """Return what does not change while the case is open."""
        return {"task": "task1", "name": self.name, "dicom": self._pet_series is not None}

    def marks(self, clicks: Mapping[str, Prompts] | None) -> Marks:
        """Return the marks of the case, or of its click file; points outside the PET are left out."""
        prompts = self._session.case.prompts if clicks is None else clicks[CLICKS]
        inside = prompts.on_grid(self.scans["pet"].grid.shape_zyx)
        return tuple(Mark(n, "pet", point.kind, point.point_xyz) for n, point in enumerate(inside))

    def placed(self, marks: Marks, mark: Mark) -> Marks:
        """Return the marks with a further one."""
        if mark.kind not in (TUMOR, BACKGROUND):
            raise ValueError(f"kind: expected {TUMOR} or {BACKGROUND}, found {mark.kind!r}")
        return (*marks, mark)

    def click_files(self, marks: Marks) -> dict[str, Prompts]:
        """Return the click file."""
        return {CLICKS: _prompts(marks)}

    def answers(self, marks: Marks, budget: Budget) -> Iterator[Answer]:
        """Yield the neighbourhood's mask where there is one, the whole one, and this with the table of lesions."""
        prompts = _prompts(marks)
        if prompts != self._session.prompts:
            self._session.change(prompts)
        mask = None
        for segmentation in self._session.updates(budget=budget):
            mask = segmentation.mask
            yield Answer({"pet": mask})
        assert mask is not None  # a session always has an answer
        found = quantify(mask, self.scans["pet"])
        yield Answer({"pet": mask}, True, self._describe(found), to_csv(found))

    def suggest(self, budget: Budget) -> list[dict[str, Any]]:
        """Return where to click next."""
        return [
            {
                "kind": one.kind,
                "ras_mm": ras_at(self.scans["pet"].grid, one.point_xyz),
                "suv": one.suv,
                "wrong_ml": one.wrong_ml,
                "reason": one.reason,
            }
            for one in self._session.suggest(budget=budget)
        ]

    def save(self, folder: Path, answer: Answer) -> list[Path]:
        """Write mask and table, and where the case is a DICOM study its segmentation.

        DICOM knows no segmentation without a segment, so that without a lesion there is none, and an earlier one goes.
        """
        mask = answer.masks["pet"]
        paths = [folder / "mask.mha", folder / "mask.nii.gz", folder / "lesions.csv"]
        mask.write(paths[0])
        mask.write(paths[1])
        with replacing(paths[2]) as table:
            table.write_text(answer.csv, encoding="utf-8")
        if self._pet_series is None:
            return paths
        segmentation = folder / "segmentation.dcm"
        numbers = quantify(mask, self.scans["pet"]).numbers
        if not numbers.array.any():
            segmentation.unlink(missing_ok=True)
            return paths
        from lesionclick.dicom.segmentation import write_segmentation

        return [*paths, write_segmentation(segmentation, numbers, self._pet_series)]

    def link(self, scan: str, ras_mm: list[float]) -> dict[str, list[float]]:
        """Return the same place in both, which lie on one grid."""
        return {other: ras_mm for other in self.scans if other != scan}

    def _describe(self, found: Quantification) -> dict[str, Any]:
        grid = self.scans["pet"].grid
        return {
            "lesions": [
                {
                    "number": one.number,
                    "volume_ml": one.volume_ml,
                    "suv_max": one.suv_max,
                    "suv_mean": one.suv_mean,
                    "suv_peak": one.suv_peak,
                    "glycolysis_g": one.glycolysis_g,
                    "ras_mm": ras_at(grid, one.hottest_xyz),
                }
                for one in found.lesions
            ],
            "volume_ml": found.volume_ml,
            "glycolysis_g": found.glycolysis_g,
        }


def _prompts(marks: Marks) -> Prompts:
    return Prompts(tuple(Point(mark.kind, mark.point_xyz) for mark in marks))
