"""Records of a cohort without running one."""

import json
from pathlib import Path
from typing import Any

SLUG = "tumor-lesion-segmentation"

# what an evaluation does not need
_REST = {
    "fingerprint": None,
    "files": None,
    "seconds": {},
    "options": {"steps": None, "exact": False, "container": None},
    "versions": {},
    "warnings": [],
    "worker": {"host": "here", "pid": 1, "device": "cpu"},
    "finished": "2026-11-25T19:31:02+00:00",
}


def record(name: str, **content: Any) -> dict[str, Any]:
    """Return the record of a PET/CT case without steps, with `content` in place of its own."""
    own = {
        "case": name,
        "path": f"/data/cases/{name}",
        "task": "task1",
        "error": None,
        "labels": {SLUG: f"/data/labels/{name}.mha"},
        "steps": [],
        "model": "3d41",
    }
    return {**_REST, **own, **content}


def step(case: str, number: int | None, **values: float | None) -> dict[str, Any]:
    """Return the record of a job, scored where there are values."""
    mask = "mask.mha" if number is None else f"step_{number:02d}.mha"
    return {
        "step": number,
        "masks": {SLUG: f"masks/{case}/{mask}"},
        "scores": values or None,
        "n_points": 0,
        "seconds": {},
        "rules": None,
    }


def write_records(folder: Path, *records: dict[str, Any]) -> Path:
    """Write records where a cohort has them, and return its folder."""
    (folder / "records").mkdir(parents=True)
    for one in records:
        (folder / "records" / f"{one['case']}.json").write_text(json.dumps(one))
    return folder
