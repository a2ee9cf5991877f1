"""Sample cases: a phantom with simulated clicks, written as the platform lays out its `/input`."""

import json
import uuid
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.clicks import clicks_from_indices, write_clicks
from lesionclick.images import Volume
from lesionclick.simulation.clicks import simulate
from lesionclick.simulation.phantoms import Phantom

PET_STEP_SUV = 1 / 128
"""The PET is rounded to multiples of this, far below its noise, so that its file compresses."""


def write_sample(phantom: Phantom, seed: int, output: Path, label: Path | None = None) -> None:
    """Write a phantom and its clicks as a case.

    The images' names are UUIDs that follow from tracer and seed, so that the same command gives the same files.

    Parameters
    ----------
    phantom : Phantom
        What to write.
    seed : int
        Of the phantom; the clicks are drawn with it too.
    output : Path
        Case folder: `images/ct/<uuid>.mha`, `images/pet/<uuid>.mha`, `lesion-clicks.json` and `inputs.json`.
    label : Path, optional
        File for the true mask, which belongs outside the case.
    """
    suv = np.rint(phantom.pet.array / PET_STEP_SUV) * PET_STEP_SUV
    pet = Volume(suv.astype(np.float32), phantom.pet.grid)
    for slug, volume in (("ct", phantom.ct), ("pet", pet)):
        name = uuid.uuid5(uuid.NAMESPACE_OID, f"lesionclick phantom {phantom.tracer} {seed} {slug}")
        _write_image(volume, output / "images" / slug / f"{name}.mha")
    if label is not None:
        _write_image(phantom.label, label)

    truth = phantom.label.array > 0
    click_file = output / "lesion-clicks.json"
    write_clicks(click_file, clicks_from_indices(*simulate(truth, pet.array, np.random.default_rng(seed))))
    sockets = [_image_socket("ct"), _image_socket("pet"), _json_socket(click_file)]
    (output / "inputs.json").write_text(json.dumps(sockets, indent=2) + "\n", encoding="utf-8")


def _write_image(volume: Volume, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(volume.to_image(), str(path), useCompression=True, compressionLevel=9)


def _image_socket(slug: str) -> dict[str, object]:
    socket = {"slug": slug, "relative_path": f"images/{slug}", "is_image_kind": True, "is_json_kind": False}
    return {"socket": socket, "file": None, "image": {"name": f"phantom_{slug}.mha"}, "value": None}


def _json_socket(path: Path) -> dict[str, object]:
    socket = {"slug": path.stem, "relative_path": path.name, "is_image_kind": False, "is_json_kind": True}
    return {"socket": socket, "file": None, "image": None, "value": json.loads(path.read_bytes())}
