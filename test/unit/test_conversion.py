import json

import numpy as np
import pytest
import SimpleITK as sitk

from lesionclick.errors import InputError
from lesionclick.training.conversion import convert

LESIONS = np.zeros((4, 5, 6), dtype=np.uint8)
LESIONS[1, 2, 3], LESIONS[2, 2, 2] = 1, 7


def write(path, array, spacing=(1.0, 1.0, 3.0)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def download(tmp_path):
    """Seven patients, one of them with two body regions, named as in the challenge's download."""
    folder = tmp_path / "download"
    for n in range(7):
        for region in ("00", "01") if n == 3 else ("00",):
            ct = np.full(LESIONS.shape, n, dtype=np.int16)
            write(folder / "inputsTr" / f"p{n}_BL_img_{region}.nii.gz", ct)
            write(folder / "inputsTr" / f"p{n}_BL_mask_{region}.nii.gz", LESIONS)
            write(folder / "inputsTr" / f"p{n}_FU_img_{region}.nii.gz", ct + 100)
            write(folder / "targetsTr" / f"p{n}_FU_mask_{region}.nii.gz", LESIONS)
        (folder / "inputsTr" / f"p{n}.csv").write_text("lesion_id,cog_bl\n")
    return folder


def test_each_scan_becomes_a_case_with_all_lesions_as_one_label(download, tmp_path):
    dataset = convert(download, tmp_path / "Dataset300_Longitudinal")
    names = sorted(path.name for path in (dataset / "labelsTr").iterdir())
    assert len(names) == 16
    assert {"p3_BL_01.nii.gz", "p3_FU_01.nii.gz"} <= set(names)
    ct, label = (
        sitk.ReadImage(str(dataset / p)) for p in ("imagesTr/p2_FU_00_0000.nii.gz", "labelsTr/p2_FU_00.nii.gz")
    )
    assert (sitk.GetArrayFromImage(ct) == 102).all()
    assert np.array_equal(sitk.GetArrayFromImage(label), LESIONS > 0)
    assert ct.GetSpacing() == label.GetSpacing() == (1.0, 1.0, 3.0)
    description = json.loads((dataset / "dataset.json").read_text())
    assert description["numTraining"] == 16
    assert description["channel_names"] == {"0": "CT"}


def test_the_scans_of_a_patient_stay_in_one_fold(download, tmp_path):
    dataset = convert(download, tmp_path / "Dataset300_Longitudinal")
    splits = json.loads((dataset / "splits_final.json").read_text())
    assert len(splits) == 5
    assert sorted(name for fold in splits for name in fold["val"]) == sorted(set(splits[0]["train"] + splits[0]["val"]))
    for fold in splits:
        patients = [{name.split("_")[0] for name in fold[part]} for part in ("train", "val")]
        assert patients[0] & patients[1] == set()
        assert len(patients[0] | patients[1]) == 7


def test_what_is_missing_is_named(download, tmp_path):
    (download / "targetsTr" / "p4_FU_mask_00.nii.gz").unlink()
    with pytest.raises(InputError, match=r"p4_FU_mask_00\.nii\.gz: expected the mask of p4_FU_img_00\.nii\.gz"):
        convert(download, tmp_path / "Dataset300_Longitudinal")
    with pytest.raises(InputError, match="expected images <id>_BL_img_<nn>"):
        convert(tmp_path / "nowhere", tmp_path / "Dataset301_Longitudinal")


def test_a_mask_on_another_grid_is_refused(download, tmp_path):
    write(download / "inputsTr" / "p0_BL_mask_00.nii.gz", LESIONS, spacing=(1.0, 1.0, 2.0))
    with pytest.raises(InputError, match="p0_BL_mask_00"):
        convert(download, tmp_path / "Dataset300_Longitudinal")
