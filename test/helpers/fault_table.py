"""The faults as data: what is broken, and what the entry point answers. Run as a script, it prints `docs/faults.md`.

A fault of the case spoils the folder of a good one. It is tried with `python inference.py`, which ends with an exit
code, and with a server, which answers with a status. Faults of the surroundings have a function of their own in
`faults/test_surroundings.py`, under their name.
"""

import json
import os
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

from helpers.case_folder import change_header, ct_path, pet_path, write_case
from helpers.longitudinal_folder import on_grid_of, write_longitudinal_case
from lesionclick.grand_challenge.interfaces import PRIMARY, Socket

CLICKS = "lesion-clicks.json"


@dataclass(frozen=True)
class Fault:
    """A fault of the case.

    Attributes
    ----------
    name
        In the table.
    task
        ``task1`` or ``task2``.
    spoil
        Changes the case folder.
    message
        Part of what the log says.
    code, status
        How the process ends, and what a server answers; 0 and 201 if it is tolerated.
    container
        Whether it is tried with the containers too, which takes longer.
    """

    name: str
    task: str
    spoil: Callable[[Path], object]
    message: str
    code: int = 1
    status: int = 422
    container: bool = False


@dataclass(frozen=True)
class Surrounding:
    """A fault of the surroundings: `mode` is ``exec`` or ``invoke``, `left` what is in `/output` afterwards."""

    name: str
    mode: str
    message: str
    result: str
    left: str = "nothing"


def write_good_case(folder: Path, task: str) -> Path:
    """Write what the faults spoil: a small case of ``task1`` or ``task2``."""
    return write_case(folder) if task == "task1" else write_longitudinal_case(folder)


def _image(case: Path, socket: Socket) -> Path:
    (path,) = (case / socket.relative_path).iterdir()
    return path


def _change(path: Path, change: Callable[[sitk.Image], sitk.Image]) -> None:
    sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path), useCompression=True)


def _with_voxel(value: float) -> Callable[[sitk.Image], sitk.Image]:
    def change(image: sitk.Image) -> sitk.Image:
        image = sitk.Cast(image, sitk.sitkFloat32)
        image[5, 6, 7] = value
        return image

    return change


def _moved(image: sitk.Image) -> sitk.Image:
    x, y, z = image.GetOrigin()
    image.SetOrigin((x + 2.0, y, z))
    return image


def _points(*points: Any) -> str:
    return json.dumps({"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points})


def _clicks(text: str | bytes) -> Callable[[Path], object]:
    content = text.encode() if isinstance(text, str) else text
    return lambda case: (case / CLICKS).write_bytes(content)


def _baseline_points(text: str) -> Callable[[Path], object]:
    return lambda case: (case / PRIMARY.baseline_clicks.relative_path).write_text(text)


def _link_out(path: Path) -> None:
    outside = path.rename(path.parents[3] / "outside.mha")
    path.symlink_to(outside)


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _listing(case: Path, path: str = "images/pet", name: str = "pet.mha") -> None:
    """Write an `inputs.json` whose PET has another path or name than usual."""
    sockets = [("images/ct", "ct.mha"), (path, name)]
    entries = [{"socket": {"slug": "x", "relative_path": p}, "image": {"name": n}} for p, n in sockets]
    entries.append({"socket": {"slug": "x", "relative_path": CLICKS}, "value": None})
    (case / "inputs.json").write_text(json.dumps(entries))


def _labels(case: Path, array: np.ndarray) -> None:
    path = _image(case, PRIMARY.baseline_mask)
    sitk.WriteImage(on_grid_of(sitk.ReadImage(str(path)), array), str(path), useCompression=True)


def _label(value: float) -> Callable[[Path], None]:
    def spoil(case: Path) -> None:
        array = sitk.GetArrayFromImage(sitk.ReadImage(str(_image(case, PRIMARY.baseline_mask)))).astype(np.float32)
        array[array == 2] = value
        _labels(case, array)

    return spoil


TUMOR = '{"name": "tumor", "point": [6, 7, 8]}'
LESION = {"name": "1", "point": [5.0, 6.0, 7.0]}

FAULTS = (
    Fault(
        "empty `/input`",
        "task1",
        lambda case: [shutil.rmtree(p) if p.is_dir() else p.unlink() for p in case.iterdir()],
        "found nothing",
        container=True,
    ),
    Fault(
        "no PET", "task1", lambda case: pet_path(case).unlink(), "images/pet: expected exactly one file", container=True
    ),
    Fault(
        "two PETs",
        "task1",
        lambda case: shutil.copy(pet_path(case), pet_path(case).with_name("b.mha")),
        "found 2: ['7b2a",
    ),
    Fault("CT of 0 bytes", "task1", lambda case: ct_path(case).write_bytes(b""), "expected an image"),
    Fault("text as CT", "task1", lambda case: ct_path(case).write_text("not an image"), "expected an image"),
    Fault(
        "truncated PET",
        "task1",
        lambda case: pet_path(case).write_bytes(pet_path(case).read_bytes()[:-200]),
        "expected 23040 bytes of voxels, found 22818",
        container=True,
    ),
    Fault(
        "damaged voxels",
        "task1",
        lambda case: pet_path(case).write_bytes(pet_path(case).read_bytes()[:-4000] + bytes(4000)),
        "expected 23040 bytes of voxels",
    ),
    Fault(
        "voxels in another file",
        "task1",
        lambda case: ct_path(case).write_bytes(ct_path(case).read_bytes().replace(b"= LOCAL", b"= /etc/passwd")),
        "expected voxels in the file itself",
    ),
    Fault("CT 2 mm from the PET", "task1", lambda case: _change(ct_path(case), _moved), "mm apart"),
    Fault("CT smaller than the PET", "task1", lambda case: _change(ct_path(case), lambda ct: ct[1:]), "their sizes"),
    Fault(
        "999,700,029,999 voxels",
        "task1",
        lambda case: change_header(ct_path(case), "DimSize", "9999 9999 9999"),
        "found 999700029999",
        container=True,
    ),
    Fault(
        "-1 dimensions, with which ITK crashes",
        "task1",
        lambda case: change_header(ct_path(case), "NDims", "-1"),
        "found b'NDims = -1",
    ),
    Fault("no voxel", "task1", lambda case: change_header(pet_path(case), "DimSize", "0 18 16"), "found 0 in"),
    Fault(
        "voxels of a micrometre",
        "task1",
        lambda case: change_header(ct_path(case), "ElementSpacing", "0.001 0.001 0.001"),
        "expected voxels of at least 0.1 mm",
    ),
    Fault(
        "4-D PET", "task1", lambda case: _change(pet_path(case), lambda pet: sitk.JoinSeries([pet, pet])), "found 4-D"
    ),
    Fault(
        "CT with two values per voxel",
        "task1",
        lambda case: _change(ct_path(case), lambda ct: sitk.Compose([ct, ct])),
        "3-D with 2",
    ),
    Fault(
        "NaN in the PET",
        "task1",
        lambda case: _change(pet_path(case), _with_voxel(np.nan)),
        "found 1 NaN",
        container=True,
    ),
    Fault("PET of one value", "task1", lambda case: _change(pet_path(case), lambda pet: pet * 0), "in every voxel"),
    Fault("image that is a pipe", "task1", lambda case: _fifo(pet_path(case)), "found a folder or device"),
    Fault("link out of `/input`", "task1", lambda case: _link_out(pet_path(case)), "found a link to", container=True),
    Fault(
        "line break in a file's name",
        "task1",
        lambda case: pet_path(case).rename(pet_path(case).with_name("a\nERROR b.mha")),
        "\\nERROR b.mha",
    ),
    Fault("path `../../x` in `inputs.json`", "task1", lambda case: _listing(case, path="../../x"), "'../../x'"),
    Fault(
        "name `../../x.mha` in `inputs.json`",
        "task1",
        lambda case: _listing(case, name="../../x.mha"),
        "wrote",
        0,
        201,
        container=True,
    ),
    Fault(
        "broken `inputs.json`", "task1", lambda case: (case / "inputs.json").write_text("{"), "inputs.json: expected"
    ),
    Fault("unknown socket", "task1", lambda case: (case / "images/mr").mkdir(), "'images/mr'"),
    Fault(
        "inputs of both tasks",
        "task1",
        lambda case: (case / PRIMARY.followup_ct.relative_path).mkdir(),
        "primary-followup-ct",
    ),
    Fault("clicks of 50 MB", "task1", lambda case: os.truncate(case / CLICKS, 50_000_000), "at most", container=True),
    Fault(
        "clicks of 5,001 points",
        "task1",
        _clicks(_points(*[json.loads(TUMOR)] * 5001)),
        "at most 5000 points, found 5001",
    ),
    Fault("clicks nested 100,000 deep", "task1", _clicks("[" * 100_000), "nested too deeply", container=True),
    Fault(
        "click of 5,000 digits",
        "task1",
        _clicks(_points(json.loads(TUMOR)).replace("6,", "9" * 5000 + ",")),
        "found Exceeds the limit",
    ),
    Fault("click at NaN", "task1", _clicks(_points(json.loads(TUMOR)).replace("6,", "NaN,")), "found [nan, 7, 8]"),
    Fault("click at 1e999", "task1", _clicks(_points(json.loads(TUMOR)).replace("6,", "1e999,")), "found [inf, 7, 8]"),
    Fault(
        "clicks that are not UTF-8",
        "task1",
        _clicks(_points(json.loads(TUMOR)).encode().replace(b"tumor", b"\xff\xfe")),
        "'utf-8' codec can't decode",
        container=True,
    ),
    Fault(
        "the key `points` twice",
        "task1",
        _clicks(_points(json.loads(TUMOR))[:-1] + ', "points": []}'),
        "key given twice",
    ),
    Fault(
        "click of an unknown kind", "task1", _clicks(_points({"name": "lesion", "point": [1, 2, 3]})), "found 'lesion'"
    ),
    Fault("click of two numbers", "task1", _clicks(_points({"name": "tumor", "point": [1, 2]})), "expected three"),
    Fault(
        "no follow-up CT",
        "task2",
        lambda case: _image(case, PRIMARY.followup_ct).unlink(),
        "expected exactly one file",
        container=True,
    ),
    Fault(
        "infinite voxel in the follow-up",
        "task2",
        lambda case: _change(_image(case, PRIMARY.followup_ct), _with_voxel(np.inf)),
        "1 infinite",
    ),
    Fault(
        "mask 2 mm from its CT", "task2", lambda case: _change(_image(case, PRIMARY.baseline_mask), _moved), "mm apart"
    ),
    Fault("mask with fractions", "task2", _label(1.5), "expected whole numbers"),
    Fault("lesion number 70,000", "task2", _label(70_000), "expected whole numbers from 0 to 65535"),
    Fault(
        "lesion number twice",
        "task2",
        _baseline_points(_points(LESION, LESION)),
        "found lesion 1 again",
        container=True,
    ),
    Fault(
        "baseline points of Task 1",
        "task2",
        _baseline_points(_points({"name": "tumor", "point": [1, 2, 3]})),
        "'tumor'",
    ),
)

SURROUNDINGS = (
    Surrounding("no model folder", "exec", "expected", "exit code 2"),
    Surrounding("broken plans.json", "exec", "plans.json", "exit code 2"),
    Surrounding("broken plans.json for a server", "invoke", "plans.json", "exit code 2"),
    Surrounding("truncated weights", "exec", "checkpoint_final.pth", "exit code 2"),
    Surrounding("checkpoint with code in it", "exec", "checkpoint_final.pth", "exit code 2, the code has not run"),
    Surrounding("weights that are NaN", "exec", "not finite", "exit code 2"),
    Surrounding("model of the other task", "exec", "expected a model of task1", "exit code 2"),
    Surrounding("output is a file", "exec", "expected a folder that user", "exit code 1"),
    Surrounding("disk full", "exec", "found a full disk", "exit code 1"),
    Surrounding("disk full for a server", "invoke", "found a full disk", "status 422, healthy afterwards"),
    Surrounding("disk full in the container", "exec", "found a full disk", "exit code 1"),
    Surrounding(
        "killed while it writes",
        "exec",
        "",
        "killed by signal 9",
        "no mask or the whole one; maybe a hidden file beside",
    ),
    Surrounding("container killed", "exec", "", "exit code 137"),
    Surrounding("asked to stop in the middle", "exec", "", "killed by signal 15"),
    Surrounding("GPU vanishes", "exec", "CUDA error: unspecified launch failure", "exit code 3"),
    Surrounding(
        "GPU vanishes for a server",
        "invoke",
        "CUDA error: unspecified launch failure",
        "status 500, healthy afterwards",
    ),
    Surrounding("out of memory everywhere", "exec", "expected enough memory", "exit code 3"),
    Surrounding("clock jumps by years", "exec", "wrote", "exit code 0", "the mask"),
    Surrounding("no time at all", "exec", "no time for any tile", "exit code 0", "the mask of the clicks alone"),
    Surrounding("budget that is no time", "exec", "expected seconds above 0", "exit code 2"),
    Surrounding("port that is none", "invoke", "expected a port from 0 to 65535", "exit code 2"),
    Surrounding("port that is taken", "invoke", "expected one that this process may listen on", "exit code 3"),
    Surrounding(
        "second case while one runs",
        "invoke",
        "still being handled",
        "status 409, the first gets 201",
        "the mask of the first",
    ),
)


def table() -> str:
    """Return the page for the documentation."""
    lines = [
        "# Faults, and what becomes of them",
        "",
        "Every row is tried by `python -m pytest test/faults`, which `check.sh` runs, against the entry point as a",
        "process of its own; those of the case also against a server, which is asked for `/health` and for a good case",
        "afterwards. Those with a cross are also tried with the containers, by `test.sh` and `test.sh --invoke`, and",
        "two of the surroundings, whose names have the container in them, only so. This page is what",
        "`PYTHONPATH=test python -m helpers.fault_table` prints.",
        "",
        "## Faults of the case",
        "",
        "Nothing is in `/output` afterwards, unless the exit code is 0; a mask that an earlier run has left there",
        "under the same name goes first.",
        "",
        "| | fault | task | exit code | status | the log says | container |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for number, fault in enumerate(FAULTS, start=1):
        answers = f"{fault.code} | {fault.status} | {_code(fault.message)} | {'x' * fault.container}"
        lines.append(f"| {number} | {fault.name} | {fault.task[-1]} | {answers} |")
    lines += [
        "",
        "## Faults of the surroundings",
        "",
        "| | fault | mode | result | in `/output` | the log says |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for number, one in enumerate(SURROUNDINGS, start=len(FAULTS) + 1):
        message = _code(one.message) if one.message else "-"
        lines.append(f"| {number} | {one.name} | {one.mode} | {one.result} | {one.left} | {message} |")
    return "\n".join(lines) + "\n"


def _code(message: str) -> str:
    return f"`{message.strip()}`"


if __name__ == "__main__":
    sys.stdout.write(table())
