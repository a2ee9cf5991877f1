import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

SCRIPT = Path(__file__).parents[2] / "benchmarks/crops.py"


def image(array, spacing_xyz, origin_xyz):
    result = sitk.GetImageFromArray(array)
    result.SetSpacing(spacing_xyz)
    result.SetOrigin(origin_xyz)
    return result


def write_patient(folder):
    """A CT with voxels of 1 x 1 x 3 mm whose HU rise along x, and a PET of 2.5 x 2 x 3 mm that exceeds it in y."""
    folder.mkdir(parents=True)
    ct = np.broadcast_to(np.arange(8, dtype=np.int16) * 10, (3, 4, 8))
    ct_mask = np.zeros(ct.shape, dtype=np.float32)
    ct_mask[1, 2, 3:5] = 1
    pet = np.random.default_rng(1).uniform(0, 20, (3, 4, 3)).astype(np.float32)
    pet_mask = (pet > 15).astype(np.float32)
    images = {
        "CT_image": image(ct, (1, 1, 3), (-10, 5, 100)),
        "CT_mask": image(ct_mask, (1, 1, 3), (-10, 5, 100)),
        "PET_image": image(pet, (2.5, 2, 3), (-9.9375, 4, 100)),
        "PET_mask": image(pet_mask, (2.5, 2, 3), (-9.9375, 4, 100)),
    }
    for name, written in images.items():
        sitk.WriteImage(written, folder / f"{name}.nii.gz")
    return ct, ct_mask, pet, pet_mask


def crops(*arguments):
    return subprocess.run([sys.executable, SCRIPT, *arguments], capture_output=True, text=True)


def read(path):
    written = sitk.ReadImage(path)
    return sitk.GetArrayFromImage(written), written


@pytest.mark.parametrize("name", ["ibsi_validation", "ibsi_1_validation"])
def test_crop_of_a_patient(tmp_path, name):
    ct, ct_mask, pet, pet_mask = write_patient(tmp_path / "download" / name / "nifti" / "STS_001")
    done = crops(tmp_path / "download", "--output", tmp_path / "sts")
    assert done.returncode == 0, done.stderr
    found = {path.stem: read(path) for path in (tmp_path / "sts" / "STS_001").glob("*.mha")}
    assert {stem: array.dtype for stem, (array, _) in found.items()} == {
        "ct": np.int16,
        "pet": np.float32,
        "label": np.uint8,
        "ct_fullres": np.int16,
        "label_fullres": np.uint8,
    }
    for stem, expected in (("pet", pet), ("label", pet_mask), ("ct_fullres", ct), ("label_fullres", ct_mask)):
        np.testing.assert_array_equal(found[stem][0], expected, err_msg=stem)
    for stem in ("ct", "label"):
        assert found[stem][1].IsSameImageGeometryAs(found["pet"][1])
    # PET's y is 4, 6, 8, 10 mm and the CT's 5 to 8: air, inside, inside, air. Its x lies 0.0625, 2.5625 and 5.0625
    # mm from the CT's first voxel at 10 HU per mm: 0.625, 25.625 and 50.625 HU.
    assert found["ct"][0][1].tolist() == [[-1000] * 3, [1, 26, 51], [1, 26, 51], [-1000] * 3]


def test_cards_leave_out_numbers_that_end_in_3_6_and_9_and_most_ct_on_its_own_grid(tmp_path):
    patients = [f"STS_{number:03d}" for number in (1, 3, 16, 20, 49)]
    for patient in patients:
        write_patient(tmp_path / "ibsi_validation" / "nifti" / patient)
    assert crops(tmp_path, "--output", tmp_path / "cards", "--cards").returncode == 0
    on_pet = {"ct.mha", "pet.mha", "label.mha"}
    assert {folder.name: {path.name for path in folder.iterdir()} for folder in (tmp_path / "cards").iterdir()} == {
        "STS_001": on_pet | {"ct_fullres.mha", "label_fullres.mha"},
        "STS_020": on_pet,
    }
    assert crops(tmp_path, "--output", tmp_path / "all").returncode == 0
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == patients


def test_another_folder_is_refused(tmp_path):
    done = crops(tmp_path, "--output", tmp_path / "sts")
    assert done.returncode == 2
    assert "expected folders ibsi_validation/nifti/STS_* or ibsi_1_validation/nifti/STS_*, found none" in done.stderr
    assert not (tmp_path / "sts").exists()
