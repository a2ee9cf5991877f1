import json
import shutil

import numpy as np
import pytest
import SimpleITK as sitk

from lesionclick.images import Grid, Volume
from lesionclick.training import datasets
from lesionclick.training.datasets import HELD_OUT, build_longitudinal_dataset

GRID = Grid((40, 36, 20), (3.0, 3.0, 4.0))


@pytest.fixture
def patients(tmp_path):
    """Eleven patients of muscle with a tumour of 12 x 18 x 12 mm; two of them are to be trained on."""
    label = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    label[8:11, 10:16, 10:14] = 1
    for number in range(HELD_OUT + 2):
        folder = tmp_path / "sts" / f"p{number:02}"
        folder.mkdir(parents=True)
        Volume(label, GRID).write(folder / "label.mha")
        Volume(np.full(GRID.shape_zyx, 50, dtype=np.int16), GRID).write(folder / "ct.mha")
    return tmp_path / "sts"


@pytest.fixture
def background(tmp_path):
    """A CT of a liver that fills all but the border."""
    ct = np.full(GRID.shape_zyx, -1000, dtype=np.int16)
    ct[1:-1, 3:-3, 3:-3] = 100
    path = tmp_path / "hospital" / "liver.mha"
    path.parent.mkdir()
    Volume(ct, GRID).write(path)
    return path


def test_a_data_set_of_task2_has_patients_both_phantoms_and_real_backgrounds(
    patients, background, tmp_path, monkeypatch
):
    monkeypatch.setattr(datasets, "COPIES", 2)
    monkeypatch.setitem(datasets.SPACING_XYZ, "task2", (8.0, 8.0, 8.0))
    folder = build_longitudinal_dataset(patients, tmp_path / "raw", 2, processes=1, backgrounds=[background])
    (split,) = json.loads((folder / "splits_final.json").read_text())
    made = {"phantom_0000", "phantom_0001", "liver_hospital_00_00", "liver_hospital_00_01"}
    assert {name for name in split["train"] if not name.startswith("p0") and not name.startswith("p1")} == made
    assert len(split["val"]) == HELD_OUT
    assert not set(split["val"]) & set(split["train"])
    assert json.loads((folder / "dataset.json").read_text())["numTraining"] == HELD_OUT + 2 + 4
    labels = []
    for name in made:
        ct, label = (
            sitk.ReadImage(str(folder / part)) for part in (f"imagesTr/{name}_0000.nii.gz", f"labelsTr/{name}.nii.gz")
        )
        assert ct.GetSize() == label.GetSize()
        labels.append(sitk.GetArrayFromImage(label))
        assert labels[-1].any()
    copies = [
        sitk.GetArrayFromImage(sitk.ReadImage(str(folder / f"labelsTr/liver_hospital_00_0{n}.nii.gz"))) for n in (0, 1)
    ]
    assert not np.array_equal(*copies)


def test_backgrounds_of_one_name_are_cases_of_their_own(patients, background, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "COPIES", 1)
    other = tmp_path / "other" / background.parent.name / background.name
    other.parent.mkdir(parents=True)
    shutil.copy(background, other)
    folder = build_longitudinal_dataset(patients, tmp_path / "raw", 0, processes=1, backgrounds=[background, other])
    assert len(list(folder.glob("labelsTr/liver*"))) == 2


def test_a_case_that_is_written_is_not_made_again(patients, background, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets, "COPIES", 1)
    folder = build_longitudinal_dataset(patients, tmp_path / "raw", 0, processes=1, backgrounds=[background])
    (label,) = folder.glob("labelsTr/liver*")
    before = label.stat().st_mtime_ns
    build_longitudinal_dataset(patients, tmp_path / "raw", 0, processes=1, backgrounds=[background])
    assert label.stat().st_mtime_ns == before
