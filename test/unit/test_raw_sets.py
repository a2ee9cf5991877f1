"""Public downloads become raw nnU-Net data sets: linked, patients kept together, what is broken listed."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from lesionclick.errors import InputError
from lesionclick.training.raw_sets import build_raw_set

RNG = np.random.default_rng(0)
LESIONS = np.zeros((4, 5, 6), dtype=np.uint8)
LESIONS[1, 2, 3], LESIONS[2, 2, 2] = 1, 7
CT = RNG.integers(-1000, 1000, LESIONS.shape).astype(np.int16)
PET = RNG.uniform(0, 9, LESIONS.shape).astype(np.float32)


def write(path: Path, array: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 3.0)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = sitk.GetImageFromArray(array)
    image.SetSpacing(spacing[: array.ndim])
    sitk.WriteImage(image, str(path))


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


@pytest.fixture
def longitudinal(tmp_path: Path) -> Path:
    """Seven patients, one of them with two body regions."""
    folder = tmp_path / "download"
    for n in range(7):
        for region in ("00", "01") if n == 3 else ("00",):
            write(folder / "inputsTr" / f"p{n}_BL_img_{region}.nii.gz", CT)
            write(folder / "inputsTr" / f"p{n}_BL_mask_{region}.nii.gz", LESIONS)
            write(folder / "inputsTr" / f"p{n}_FU_img_{region}.nii.gz", CT + 100)
            write(folder / "targetsTr" / f"p{n}_FU_mask_{region}.nii.gz", LESIONS)
        (folder / "inputsTr" / f"p{n}.csv").write_text("lesion_id,cog_bl\n")
    return folder


@pytest.fixture
def petct(tmp_path: Path) -> Path:
    """Six patients, of whom the first has two studies, with click files beside and a third channel."""
    folder = tmp_path / "download"
    for name in ("fdg_p0_1", "fdg_p0_2", *(f"psma_p{n}_2020-01-01" for n in range(1, 6))):
        for channel, array in enumerate((CT, PET, PET)):
            write(folder / "imagesTr" / f"{name}_{channel:04}.nii.gz", array)
        write(folder / "labelsTr" / f"{name}.nii.gz", (LESIONS > 0).astype(np.uint8))
        (folder / "imagesTr" / f"{name}_clicks.json").write_text("{}")
    return folder


@pytest.fixture
def studies(tmp_path: Path) -> Path:
    """The two public collections side by side: four FDG studies of three patients, and a PSMA study."""
    folder = tmp_path / "download"
    for place in (
        "FDG-PET-CT-Lesions/PETCT_01/2001-NA whole body 7",
        "FDG-PET-CT-Lesions/PETCT_01/2002",
        "FDG-PET-CT-Lesions/PETCT_02/2001",
        "PSMA-PET-CT-Lesions/PSMA_01/2001",
        "more/M_9/2001",
    ):
        for name, array in (("CTres", CT), ("SUV", PET), ("SEG", (LESIONS > 0).astype(np.uint8)), ("CT", CT[:2])):
            write(folder / place / f"{name}.nii.gz", array)
    return folder


class TestLongitudinal:
    def test_each_scan_becomes_a_case_with_all_lesions_as_one_label(self, longitudinal: Path, tmp_path: Path) -> None:
        built = build_raw_set(longitudinal, tmp_path / "Dataset300_Longitudinal")
        assert len(built.cases) == 16
        assert {"p3_BL_01", "p3_FU_01"} <= set(built.cases)
        image, label = (
            sitk.ReadImage(str(built.folder / p)) for p in ("imagesTr/p2_FU_00_0000.nii.gz", "labelsTr/p2_FU_00.nii.gz")
        )
        assert np.array_equal(sitk.GetArrayFromImage(image), CT + 100)
        assert np.array_equal(sitk.GetArrayFromImage(label), LESIONS > 0)
        assert image.GetSpacing() == label.GetSpacing() == (1.0, 1.0, 3.0)
        assert read_json(built.folder / "dataset.json") == {
            "channel_names": {"0": "CT"},
            "labels": {"background": 0, "lesion": 1},
            "numTraining": 16,
            "file_ending": ".nii.gz",
        }

    def test_the_scans_of_a_patient_stay_in_one_fold(self, longitudinal: Path, tmp_path: Path) -> None:
        built = build_raw_set(longitudinal, tmp_path / "Dataset300_Longitudinal")
        splits = read_json(built.folder / "splits_final.json")
        assert len(splits) == 5
        assert sorted(name for fold in splits for name in fold["val"]) == sorted(built.cases)
        for fold in splits:
            train, val = ({name.split("_")[0] for name in fold[part]} for part in ("train", "val"))
            assert train & val == set()
            assert len(train | val) == 7


class TestPetCt:
    def test_images_and_labels_are_hard_links(self, petct: Path, tmp_path: Path) -> None:
        built = build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        assert len(built.cases) == 7
        assert sorted(path.name for path in (built.folder / "imagesTr").glob("fdg_p0_1*")) == [
            "fdg_p0_1_0000.nii.gz",
            "fdg_p0_1_0001.nii.gz",
        ]
        for part in ("imagesTr/fdg_p0_1_0001.nii.gz", "labelsTr/fdg_p0_1.nii.gz"):
            assert os.path.samefile(built.folder / part, petct / part)
        assert read_json(built.folder / "dataset.json")["channel_names"] == {"0": "CT", "1": "PET"}

    def test_where_no_link_can_be_made_files_are_copied(
        self, petct: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: object) -> None:
            raise OSError(18, "Invalid cross-device link")

        monkeypatch.setattr(os, "link", refuse)
        built = build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        part = "imagesTr/fdg_p0_1_0001.nii.gz"
        assert not os.path.samefile(built.folder / part, petct / part)
        assert (built.folder / part).read_bytes() == (petct / part).read_bytes()

    def test_the_split_of_the_download_is_kept_without_what_is_broken(self, petct: Path, tmp_path: Path) -> None:
        names = sorted(path.name.removesuffix(".nii.gz") for path in (petct / "labelsTr").iterdir())
        (petct / "imagesTr" / f"{names[5]}_0000.nii.gz").unlink()
        given = [{"train": names[:4], "val": names[4:]}, {"train": names[4:], "val": names[:4]}]
        (petct / "splits_final.json").write_text(json.dumps(given))
        built = build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        left = [names[4], names[6]]
        assert read_json(built.folder / "splits_final.json") == [
            {"train": names[:4], "val": left},
            {"train": left, "val": names[:4]},
        ]

    @pytest.mark.parametrize(
        "val",
        [[0], [6], [5]],
        ids=["parts a patient", "does not name all", "is empty without the broken case"],
    )
    def test_a_split_that_will_not_do_is_made_anew(self, petct: Path, tmp_path: Path, val: list[int]) -> None:
        names = sorted(path.name.removesuffix(".nii.gz") for path in (petct / "labelsTr").iterdir())
        (petct / "imagesTr" / f"{names[5]}_0000.nii.gz").unlink()
        train = [name for n, name in enumerate(names) if n not in (*val, 4 if val == [6] else None)]
        (petct / "splits_final.json").write_text(json.dumps([{"train": train, "val": [names[n] for n in val]}]))
        built = build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        splits = read_json(built.folder / "splits_final.json")
        assert len(splits) == 5
        for fold in splits:
            patients = [{name.rsplit("_", 1)[0] for name in fold[part]} for part in ("train", "val")]
            assert patients[0] & patients[1] == set()
            assert sorted(fold["train"] + fold["val"]) == sorted(built.cases)

    @pytest.mark.parametrize("text", ['{"train": []}', '[{"train":', '[{"train": ["a"]}]', "[1]"])
    def test_a_broken_split_is_named_before_any_image_is_read(self, petct: Path, tmp_path: Path, text: str) -> None:
        (petct / "splits_final.json").write_text(text)
        with pytest.raises(InputError, match=r"splits_final\.json: expected a list of folds"):
            build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        assert list(tmp_path.glob(".Dataset*")) == []


class TestStudies:
    def test_patients_are_named_after_tracer_and_number(self, studies: Path, tmp_path: Path) -> None:
        built = build_raw_set(studies, tmp_path / "Dataset222_Public")
        assert built.cases == ("M_9_2001", "fdg_01_2001-NA-whole-body-7", "fdg_01_2002", "fdg_02_2001", "psma_01_2001")
        known = read_json(built.folder / "cases.json")
        assert {name: case["patient"] for name, case in known["cases"].items()} == {
            "M_9_2001": "M_9",
            "fdg_01_2001-NA-whole-body-7": "fdg_01",
            "fdg_01_2002": "fdg_01",
            "fdg_02_2001": "fdg_02",
            "psma_01_2001": "psma_01",
        }
        source = studies / "FDG-PET-CT-Lesions/PETCT_01/2001-NA whole body 7"
        for part, name in (("imagesTr", "_0000"), ("imagesTr", "_0001"), ("labelsTr", "")):
            linked = built.folder / part / f"fdg_01_2001-NA-whole-body-7{name}.nii.gz"
            assert os.path.samefile(
                linked, source / {"_0000": "CTres", "_0001": "SUV", "": "SEG"}[name].__add__(".nii.gz")
            )


class TestBroken:
    def test_each_fault_is_named_and_the_others_go_on(self, petct: Path, tmp_path: Path) -> None:
        images, labels = petct / "imagesTr", petct / "labelsTr"
        (labels / "fdg_p0_1.nii.gz").unlink()
        write(labels / "fdg_p0_2.nii.gz", LESIONS, spacing=(1.0, 1.0, 2.0))
        path = images / "psma_p1_2020-01-01_0000.nii.gz"
        path.write_bytes(path.read_bytes()[:60])
        write(images / "psma_p2_2020-01-01_0000.nii.gz", np.full_like(CT, -1000))
        write(images / "psma_p3_2020-01-01_0001.nii.gz", 1000 * PET)
        built = build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        assert built.cases == ("psma_p4_2020-01-01", "psma_p5_2020-01-01")
        expected = {
            "fdg_p0_1": "labelsTr/fdg_p0_1.nii.gz: expected an image",
            "fdg_p0_2": "must lie on one grid",
            "psma_p1_2020-01-01": "psma_p1_2020-01-01_0000.nii.gz: expected an image",
            "psma_p2_2020-01-01": "expected a CT, found values from -1000 to -1000",
            "psma_p3_2020-01-01": "expected a PET in SUV",
        }
        assert built.broken.keys() == expected.keys()
        for name, reason in expected.items():
            assert reason in built.broken[name]
        assert read_json(built.folder / "cases.json")["broken"] == built.broken
        assert not list((built.folder / "imagesTr").glob("fdg*"))
        assert read_json(built.folder / "dataset.json")["numTraining"] == 2

    @pytest.mark.parametrize(
        ("label", "reason"),
        [
            (-LESIONS.astype(np.int16), "expected whole numbers from 0"),
            (LESIONS / 2, "expected whole numbers from 0"),
            (LESIONS[0], "expected a 3-D image"),
        ],
    )
    def test_labels_are_whole_numbers(self, petct: Path, tmp_path: Path, label: np.ndarray, reason: str) -> None:
        write(petct / "labelsTr" / "psma_p1_2020-01-01.nii.gz", label)
        built = build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        assert reason in built.broken["psma_p1_2020-01-01"]

    def test_what_is_no_download_is_refused(self, petct: Path, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="expected one of these, found none"):
            build_raw_set(tmp_path / "nowhere", tmp_path / "Dataset001_A")
        with pytest.raises(InputError, match=r"expected a new folder Dataset<NNN>_<Name>, found A"):
            build_raw_set(petct, tmp_path / "A")
        (tmp_path / "Dataset001_A").mkdir()
        with pytest.raises(InputError, match="found one that is there"):
            build_raw_set(petct, tmp_path / "Dataset001_A")

    def test_a_folder_appears_whole_or_not_at_all(self, petct: Path, tmp_path: Path) -> None:
        for path in (petct / "labelsTr").iterdir():
            if "p5" not in path.name:
                path.unlink()
        with pytest.raises(InputError, match="expected cases of two patients or more, found 1"):
            build_raw_set(petct, tmp_path / "Dataset221_AutoPETIV")
        assert not list(tmp_path.glob("*Dataset221_AutoPETIV*"))
