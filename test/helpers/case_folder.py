"""Write small Task 1 cases in the platform's layout, for tests that need a case but no realistic one."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk

from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts

CT_NAME = "0f3c8d1e-ct"
PET_NAME = "7b2a4c6d-pet"
SIZE_XYZ = (20, 18, 16)
PROMPTS = Prompts((Point(TUMOR, (6.0, 7.0, 8.0)), Point(BACKGROUND, (1.0, 2.0, 3.0))))


def images() -> tuple[sitk.Image, sitk.Image]:
    """CT (int16) and PET (float32) on one grid that is flipped in x and y."""
    rng = np.random.default_rng(0)
    shape_zyx = SIZE_XYZ[::-1]
    ct = sitk.GetImageFromArray(rng.integers(-100, 100, shape_zyx).astype(np.int16))
    pet = sitk.GetImageFromArray(rng.uniform(0.5, 9.0, shape_zyx).astype(np.float32))
    for image in (ct, pet):
        image.SetSpacing((4.0, 4.5, 5.0))
        image.SetOrigin((30.0, 40.0, -700.0))
        image.SetDirection((-1, 0, 0, 0, -1, 0, 0, 0, 1))
    return ct, pet


def write_case(
    folder: Path,
    ct: sitk.Image | None = None,
    pet: sitk.Image | None = None,
    *,
    prompts: Prompts = PROMPTS,
    compressed: bool = True,
    suffix: str = ".mha",
) -> Path:
    """Write a case without inputs.json to `folder`; images that are not given are those of `images`."""
    default_ct, default_pet = images()
    for slug, name, image in (("ct", CT_NAME, ct or default_ct), ("pet", PET_NAME, pet or default_pet)):
        path = folder / "images" / slug / f"{name}{suffix}"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(image, str(path), useCompression=compressed)
    write_clicks(folder / "lesion-clicks.json", prompts)
    return folder


def ct_path(folder: Path) -> Path:
    return folder / "images" / "ct" / f"{CT_NAME}.mha"


def pet_path(folder: Path) -> Path:
    return folder / "images" / "pet" / f"{PET_NAME}.mha"


def change_header(path: Path, key: str, value: str) -> None:
    """Give a line of a MetaImage's header another value, and leave the voxels as they are."""
    head, _, voxels = path.read_bytes().partition(b"ElementDataFile = LOCAL\n")
    lines = [*head.decode().splitlines(), "ElementDataFile = LOCAL"]
    assert any(line.startswith(f"{key} = ") for line in lines), key
    changed = [f"{key} = {value}" if line.startswith(f"{key} = ") else line for line in lines]
    path.write_bytes("\n".join(changed).encode() + b"\n" + voxels)
