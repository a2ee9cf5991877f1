"""Write the package's atlas of organ shapes from surfaces of two people and a labelled CT of a third.

    python benchmarks/build_atlas.py --anatomy ../shared/data/anatomy

The surfaces are mostly open shells in several parts. Each organ's are sampled densely into voxels of 2 mm, gaps up to
8 mm are closed, what they enclose is filled, and half of the surface's own voxels is taken off again. The table that is
printed compares volumes with those of textbooks (International Commission on Radiological Protection, publication 89).
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import nibabel as nib
import numpy as np
import trimesh
from numpy.typing import NDArray
from scipy import ndimage

FINE_MM, ATLAS_MM = 2.0, 3.0
CLOSED_VOXELS = 2
OUTPUT = Path(__file__).parents[1] / "lesionclick" / "simulation" / "atlas" / "organs.npz"
FRAMES = {"female": (247.0, -68.0, 8.0), "male": (235.0, 10.0, -5.0)}
"""What turns the surfaces' places (y upwards, z forwards, x to the left) into (z, y, x) of the standard patient: the
ischium lies 200 mm above the lowest slice, and the trunk is centred."""
TORSO_OFFSET = (235.0, 148.0, 175.0)


class Organ(NamedTuple):
    """The parts of a surface file that make an organ, and its volume in a textbook in ml."""

    file: str
    parts: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    textbook: tuple[float, float] | None = None
    hollow: bool = False


SURFACES = {
    "liver": Organ("Liver", textbook=(1200, 1800)),
    "spleen": Organ("Spleen", textbook=(100, 250)),
    "pancreas": Organ("Pancreas", textbook=(70, 140)),
    "kidney_left": Organ("Kidney_L", textbook=(130, 180)),
    "kidney_right": Organ("Kidney_R", textbook=(130, 180)),
    "medulla_left": Organ("Kidney_L", ("renal_pyramid",)),
    "medulla_right": Organ("Kidney_R", ("renal_pyramid",)),
    "renal_pelvis_left": Organ("Ureter_L", without=("ureter",)),
    "renal_pelvis_right": Organ("Ureter_R", without=("ureter",)),
    "ureter_left": Organ("Ureter_L", ("ureter",)),
    "ureter_right": Organ("Ureter_R", ("ureter",)),
    "heart": Organ("Heart", textbook=(550, 850)),
    "left_ventricle": Organ("Heart", ("left_ventricle", "septum", "papillary"), textbook=(110, 200), hollow=True),
    "colon": Organ("Intestine_Large", textbook=(500, 1000)),
    "duodenum": Organ("Small_Intestine", ("duoden",)),
    "small_bowel": Organ("Small_Intestine", ("jej", "ileum"), textbook=(500, 1000)),
    "bladder": Organ("Urinary_Bladder", textbook=(50, 400)),
    "hips": Organ("Pelvis", ("ilium", "ischium", "pubis")),
    "sacrum": Organ("Pelvis", ("sacrum", "coccyx")),
}
FROM_CT = {
    "kidney_left": ["kidney_left"],
    "kidney_right": ["kidney_right"],
    "stomach": ["stomach"],
    "gallbladder": ["gallbladder"],
    "duodenum": ["duodenum"],
    "small_bowel": ["small_bowel"],
    "colon": ["colon"],
    "bladder": ["urinary_bladder"],
    "prostate": ["prostate"],
    "adrenals": ["adrenal_gland_left", "adrenal_gland_right"],
    "hips": ["hip_left", "hip_right"],
    "sacrum": ["sacrum", "vertebrae_S1"],
    "femurs": ["femur_left", "femur_right"],
    "lumbar_spine": [f"vertebrae_{name}" for name in ("L5", "L4", "L3", "L2", "L1", "T12")],
    "vessels": [
        "aorta",
        "inferior_vena_cava",
        "portal_vein_and_splenic_vein",
        *(f"iliac_{kind}_{side}" for kind in ("artery", "vena") for side in ("left", "right")),
    ],
    "muscles": [
        f"{name}_{side}"
        for name in ("gluteus_maximus", "gluteus_medius", "gluteus_minimus", "autochthon", "iliopsoas")
        for side in ("left", "right")
    ],
}


def main() -> None:
    """Write the atlas and print the volumes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--anatomy", type=Path, required=True, help="folder with organs/ and torso_ct/")
    anatomy = parser.parse_args().anatomy
    atlas: dict[str, NDArray[np.generic]] = {}
    print(f"{'organ':32} {'ml':>7}  textbook")
    for person, (up, back, left) in FRAMES.items():
        for name, organ in SURFACES.items():
            (path,) = (anatomy / "organs").glob(f"*_{person[0].upper()}_{organ.file}.glb")
            points = surface_points(path, organ.parts, organ.without)
            places = np.stack([points[:, 1] + up, back - points[:, 2], points[:, 0] + left], axis=1)
            add(atlas, f"{person}/{name}", *solid(places, organ.hollow), textbook=organ.textbook)
    for name, mask, origin in torso_organs(anatomy / "torso_ct"):
        add(atlas, f"torso/{name}", mask, origin, textbook=None)
    OUTPUT.parent.mkdir(exist_ok=True)
    np.savez_compressed(OUTPUT, **atlas)
    print(f"{OUTPUT.name}: {OUTPUT.stat().st_size / 1e6:.2f} MB")


def surface_points(path: Path, parts: Sequence[str], without: Sequence[str]) -> NDArray[np.float64]:
    """Return places (x, y, z) in mm, less than a voxel apart, on the surfaces of the named parts of a file."""
    scene = trimesh.load(path)
    found = []
    for node in scene.graph.nodes_geometry:
        if (parts and not any(part in node for part in parts)) or any(part in node for part in without):
            continue
        transform, geometry = scene.graph[node]
        mesh = scene.geometry[geometry].copy().apply_transform(transform)
        vertices, faces = trimesh.remesh.subdivide_to_size(mesh.vertices * 1000, mesh.faces, 0.9 * FINE_MM, max_iter=12)
        found += [vertices, vertices[faces].mean(axis=1)]
    if not found:
        raise ValueError(f"{path} has no part with a name of {parts}")
    return np.concatenate(found)


def solid(places: NDArray[np.float64], hollow: bool) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return how full each voxel of `ATLAS_MM` is, and the place of the first one."""
    margin = CLOSED_VOXELS + 4
    origin = np.floor(places.min(axis=0) / ATLAS_MM) * ATLAS_MM - margin * ATLAS_MM
    index = np.floor((places - origin) / FINE_MM).astype(int)
    surface = np.zeros(index.max(axis=0) + margin + 1, dtype=bool)
    surface[tuple(index.T)] = True
    ball = ndimage.generate_binary_structure(3, 1)
    closed = ndimage.binary_dilation(surface, ball, CLOSED_VOXELS + hollow)
    filled = closed if hollow else ndimage.binary_fill_holes(closed)
    filled = ndimage.binary_erosion(filled, ball, CLOSED_VOXELS + hollow)
    inner = ndimage.binary_erosion(filled, ball)
    full = (filled.astype(np.float32) + inner) / 2 if inner.sum() > 0.3 * filled.sum() else filled.astype(np.float32)
    zoomed = ndimage.zoom(full, FINE_MM / ATLAS_MM, order=1, grid_mode=True, mode="grid-constant")
    return zoomed, origin + ATLAS_MM / 2


def torso_organs(folder: Path) -> list[tuple[str, NDArray[np.float32], NDArray[np.float64]]]:
    """Return the organs of the labelled CT with the place of their first voxel; the CT lies as the surfaces do."""
    image = nib.load(folder / "labels.nii.gz")
    if nib.aff2axcodes(image.affine) != ("R", "A", "S"):
        raise ValueError(f"{folder}: expected axes R, A, S, found {nib.aff2axcodes(image.affine)}")
    numbers = {name: int(number) for number, name in json.loads((folder / "labels.json").read_text()).items()}
    labels = np.asarray(image.dataobj).transpose(2, 1, 0)[:, ::-1, ::-1]
    up, back, left = TORSO_OFFSET
    origin = np.array((up, back - ATLAS_MM * (labels.shape[1] - 1), left - ATLAS_MM * (labels.shape[2] - 1)))
    return [
        (name, np.isin(labels, [numbers[label] for label in names]).astype(np.float32), origin)
        for name, names in FROM_CT.items()
    ]


def add(
    atlas: dict[str, NDArray[np.generic]],
    name: str,
    full: NDArray[np.float32],
    origin: NDArray[np.float64],
    *,
    textbook: tuple[float, float] | None,
) -> None:
    """Crop an organ, put it into the atlas and print its volume."""
    mask = full >= 0.5 if full.max() >= 0.5 else full > 0
    places = np.argwhere(mask)
    low, high = places.min(axis=0), places.max(axis=0) + 1
    atlas[name] = mask[tuple(map(slice, low, high))]
    atlas[f"{name}/origin"] = (origin + low * ATLAS_MM).astype(np.float32)
    expected = "{} to {}".format(*textbook) if textbook else ""
    print(f"{name:32} {mask.sum() * ATLAS_MM**3 / 1000:7.1f}  {expected}")


if __name__ == "__main__":
    main()
