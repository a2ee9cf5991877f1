import math
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.case_folder import (
    CT_NAME,
    PET_NAME,
    PROMPTS,
    SIZE_XYZ,
    change_header,
    ct_path,
    images,
    pet_path,
    write_case,
)
from helpers.longitudinal_folder import write_longitudinal_case

from lesionclick.cli import main
from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.case import LongitudinalCase
from lesionclick.petct.case import PetCtCase, warn_about_prompts
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts
from lesionclick.tasks import TASKS, read_case, task_of


def read(folder: Path) -> PetCtCase:
    return PetCtCase.read(CaseFolder.open(folder))


def with_voxel(image: sitk.Image, value: float) -> sitk.Image:
    image[1, 3, 4] = value
    return image


def with_origin(image: sitk.Image, change_mm: float) -> sitk.Image:
    x, y, z = image.GetOrigin()
    image.SetOrigin((x, y, z + change_mm))
    return image


class TestRead:
    @pytest.mark.parametrize("compressed", [True, False])
    def test_images_and_prompts(self, tmp_path: Path, compressed: bool, caplog: pytest.LogCaptureFixture) -> None:
        case = read(write_case(tmp_path, compressed=compressed))
        ct, pet = images()
        assert np.array_equal(case.ct.array, sitk.GetArrayFromImage(ct))
        assert np.array_equal(case.pet.array, sitk.GetArrayFromImage(pet))
        assert case.ct.array.dtype == case.pet.array.dtype == np.float32
        assert case.ct.grid == case.pet.grid == Grid.from_image(pet)
        assert case.prompts == PROMPTS
        assert caplog.records == []

    def test_ending_in_capitals(self, tmp_path: Path) -> None:
        ct_path(write_case(tmp_path)).rename(tmp_path / "images" / "ct" / "a.b c.MHA")
        assert np.array_equal(read(tmp_path).ct.array, sitk.GetArrayFromImage(images()[0]))

    def test_link_within_the_case(self, tmp_path: Path) -> None:
        path = ct_path(write_case(tmp_path))
        path.rename(tmp_path / "elsewhere.mha")
        path.symlink_to("../../elsewhere.mha")
        assert np.array_equal(read(tmp_path).ct.array, sitk.GetArrayFromImage(images()[0]))

    def test_clicks_outside_are_warned_about_and_kept_for_counting(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        prompts = PROMPTS.followed_by([Point(TUMOR, (float(SIZE_XYZ[0]), 0.0, 0.0))])
        assert read(write_case(tmp_path, prompts=prompts)).prompts == prompts
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        message = record.getMessage()
        assert message.startswith("lesion-clicks: 1 of 3 clicks lie outside the image of (20, 18, 16) voxels")

    def test_each_kind_of_oddity_has_its_warning(self, caplog: pytest.LogCaptureFixture) -> None:
        pet = Volume.from_image(images()[1])
        warn_about_prompts(Prompts((Point(TUMOR, (20.25, 0, 0)), Point(BACKGROUND, (20.25, 0, 0)))), pet)
        assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
        caplog.clear()
        warn_about_prompts(PROMPTS, pet)
        assert caplog.records == []

    def test_up_to_5000_clicks_are_read_and_more_refused(self, tmp_path: Path) -> None:
        prompts = Prompts.from_indices(tumor_zyx=np.stack([np.arange(5000) % n for n in (16, 18, 20)], axis=1))
        assert len(read(write_case(tmp_path, prompts=prompts)).prompts) == 5000
        write_clicks(tmp_path / "lesion-clicks.json", prompts.followed_by([Point(TUMOR, (1.0, 2.0, 3.0))]))
        with pytest.raises(InputError, match=r"lesion-clicks\.json: expected at most 5000 points, found 5001"):
            read(tmp_path)


class TestGrids:
    @pytest.mark.parametrize("change_mm", [0.9e-3, -1e-9])
    def test_rounding_is_warned_about_and_the_pets_grid_used(
        self, tmp_path: Path, change_mm: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        ct, pet = images()
        case = read(write_case(tmp_path, with_origin(ct, change_mm), pet))
        assert case.ct.grid == case.pet.grid == Grid.from_image(pet)
        (record,) = caplog.records
        assert "differ by rounding" in record.getMessage()

    def test_more_is_refused_with_both_names_and_values(self, tmp_path: Path) -> None:
        ct, pet = images()
        with pytest.raises(InputError) as caught:
            read(write_case(tmp_path, with_origin(ct, 1.1e-3), pet))
        for part in ("0.0011 mm apart", f"ct ({CT_NAME}.mha)", f"pet ({PET_NAME}.mha)", "-700.0)", "-699.9989)"):
            assert part in str(caught.value)

    def test_other_size_is_refused_with_both_names_and_values(self, tmp_path: Path) -> None:
        ct, _ = images()
        with pytest.raises(InputError, match=rf"ct \({CT_NAME}\.mha\) \(20, 18, 15\), pet .* \(20, 18, 16\)"):
            read(write_case(tmp_path, ct[:, :, 1:]))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("Offset", "30 nan -700", "expected 3 finite numbers as Offset"),  # ITK reads zeros
            ("TransformMatrix", "0 0 0 0 0 0 0 0 0", "expected a direction of three unit vectors"),
        ],
    )
    def test_header_that_itk_mends_is_refused(self, tmp_path: Path, key: str, value: str, message: str) -> None:
        change_header(pet_path(write_case(tmp_path)), key, value)
        with pytest.raises(InputError, match=message):
            read(tmp_path)


class TestUptake:
    def test_constant_pet_is_refused(self, tmp_path: Path) -> None:
        _, pet = images()
        with pytest.raises(InputError, match=r"pet .*found the value 1\.5 in every voxel"):
            read(write_case(tmp_path, pet=pet * 0 + 1.5))

    @pytest.mark.parametrize(("maximum", "warnings"), [(1000.0, 0), (1001.0, 1), (5e6, 1)])
    def test_becquerels_are_warned_about_and_used(
        self, tmp_path: Path, maximum: float, warnings: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, pet = images()
        case = read(write_case(tmp_path, pet=with_voxel(pet, maximum)))
        assert case.pet.array.max() == maximum
        assert ["looks like Bq/ml" in record.getMessage() for record in caplog.records] == [True] * warnings

    @pytest.mark.parametrize(("minimum", "warnings"), [(-500.0, 0), (-501.0, 1)])
    def test_a_ct_in_place_of_the_pet_is_warned_about(
        self, minimum: float, warnings: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        ct, pet = images()
        PetCtCase.from_images(ct=ct, pet=with_voxel(pet, minimum))
        assert ["looks like a CT in HU" in record.getMessage() for record in caplog.records] == [True] * warnings

    @pytest.mark.parametrize(
        ("axes", "warnings"), [((0, 1, 2), 0), ((1, 0, 2), 0), ((0, 2, 1), 1), ((2, 0, 1), 1)], ids=str
    )
    def test_slices_that_are_not_axial_are_warned_about(
        self, axes: tuple[int, int, int], warnings: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        ct, pet = images()
        PetCtCase.from_images(ct=ct, pet=sitk.PermuteAxes(pet, axes))
        assert ["slices are not axial" in record.getMessage() for record in caplog.records] == [True] * warnings


class TestFolders:
    @pytest.mark.parametrize("missing", ["images/ct", "images/pet", "lesion-clicks.json"])
    def test_missing_input_is_refused(self, tmp_path: Path, missing: str) -> None:
        path = write_case(tmp_path / "case") / missing
        path.rename(tmp_path / "gone")
        with pytest.raises(InputError, match=r"expected images/ct, images/pet, lesion-clicks\.json") as caught:
            read(tmp_path / "case")
        assert missing not in str(caught.value).partition("found")[2]

    @pytest.mark.parametrize("missing", ["images/ct", "images/pet", "lesion-clicks.json"])
    def test_input_that_is_listed_but_missing_is_refused(self, tmp_path: Path, missing: str) -> None:
        folder = write_case(tmp_path / "case")
        paths = ("images/ct", "images/pet", "lesion-clicks.json")
        entries = ", ".join(f'{{"socket": {{"relative_path": "{path}"}}}}' for path in paths)
        (folder / "inputs.json").write_text(f"[{entries}]")
        read(folder)
        (folder / missing).rename(tmp_path / "gone")
        with pytest.raises(InputError, match=f"{missing}: expected "):
            read(folder)

    @pytest.mark.parametrize("link", ["images/ct", f"images/ct/{CT_NAME}.mha", "lesion-clicks.json"])
    def test_links_that_lead_out_are_refused(self, tmp_path: Path, link: str) -> None:
        path = write_case(tmp_path / "case") / link
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=f"{link}: expected a path inside .*/case, found a link to .*/elsewhere"):
            read(tmp_path / "case")


class TestEitherTask:
    def test_input_tells_the_task(self, tmp_path: Path) -> None:
        petct, longitudinal = write_case(tmp_path / "1"), write_longitudinal_case(tmp_path / "2")
        assert isinstance(read_case(petct), PetCtCase)
        assert isinstance(read_case(longitudinal), LongitudinalCase)
        assert task_of(CaseFolder.open(petct)) is TASKS["task1"]
        assert task_of(CaseFolder.open(longitudinal)) is TASKS["task2"]

    def test_case_of_the_other_task_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="images/ct: expected a folder with one image"):
            read(write_longitudinal_case(tmp_path / "2"))

    def test_prompts_alone_are_read_and_warned_about(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        folder = CaseFolder.open(write_case(tmp_path))
        case = PetCtCase.read(folder)
        later = Prompts((Point(BACKGROUND, (2.5, 0, 0)), Point(TUMOR, (-3, 0, 0))))
        write_clicks(tmp_path / "lesion-clicks.json", later)
        assert TASKS["task1"].read_prompts(folder, case) == later
        assert len(caplog.records) == 2


class TestFromImages:
    def test_ct_is_resampled_to_the_pet_with_air_outside(self) -> None:
        _, pet = images()
        # 8 mm voxels along x from the PET's first voxel on, values 100 per voxel: 50 per voxel of the PET
        ct = sitk.GetImageFromArray(np.broadcast_to(np.arange(5, dtype=np.int16) * 100, (16, 18, 5)).copy())
        ct.CopyInformation(sitk.Image(5, 18, 16, sitk.sitkInt16))
        ct.SetSpacing((8.0, 4.5, 5.0))
        ct.SetOrigin(pet.GetOrigin())
        ct.SetDirection(pet.GetDirection())
        case = PetCtCase.from_images(ct=ct, pet=pet)
        assert case.ct.grid == case.pet.grid == Grid.from_image(pet)
        assert case.ct.array.dtype == case.pet.array.dtype == np.float32
        np.testing.assert_allclose(case.ct.array[3, 4, :9], 50.0 * np.arange(9))
        assert (case.ct.array[:, :, 11:] == -1000).all()
        assert np.array_equal(case.pet.array, sitk.GetArrayFromImage(pet))
        assert case.prompts == Prompts()

    @staticmethod
    def shifted_ct(voxels: int) -> sitk.Image:
        """A CT on the PET's grid of 20 voxels along x, moved by some of them."""
        ct, _ = images()
        ct.SetOrigin(ct.TransformIndexToPhysicalPoint((voxels, 0, 0)))
        return ct

    @pytest.mark.parametrize(("voxels", "told"), [(0, None), (2, None), (3, "85 %"), (-3, "85 %"), (19, "5 %")])
    def test_a_ct_that_covers_a_part_of_the_pet_is_warned_about(
        self, voxels: int, told: str | None, caplog: pytest.LogCaptureFixture
    ) -> None:
        case = PetCtCase.from_images(ct=self.shifted_ct(voxels), pet=images()[1])
        assert (case.ct.array == -1000).all(axis=(0, 1)).sum() == abs(voxels)
        messages = [record.getMessage() for record in caplog.records]
        assert messages == ([f"CT: covers {told} of the PET, and the rest is taken for air"] if told else [])

    def test_a_ct_of_another_place_is_refused(self) -> None:
        with pytest.raises(InputError, match="expected images of one place, found no voxel of the PET in the CT: CT "):
            PetCtCase.from_images(ct=self.shifted_ct(21), pet=images()[1])

    def test_ct_on_the_pets_grid_is_kept(self) -> None:
        ct, pet = images()
        case = PetCtCase.from_images(ct=ct, pet=pet)
        assert np.array_equal(case.ct.array, sitk.GetArrayFromImage(ct))

    @pytest.mark.parametrize("name", ["ct", "pet"])
    @pytest.mark.parametrize(
        ("make", "found"),
        [(lambda image: image[:, :, 3], "2-D with 1"), (lambda im: sitk.Compose([im, im]), "3-D with 2")],
    )
    def test_other_kinds_of_images_are_refused(self, name: str, make, found: str) -> None:
        both = dict(zip(("ct", "pet"), images(), strict=True))
        both[name] = make(both[name])
        with pytest.raises(InputError, match=f"{name.upper()}: expected a 3-D image .*, found {found}"):
            PetCtCase.from_images(**both)

    @pytest.mark.parametrize("value", [np.nan, np.inf])
    @pytest.mark.parametrize("name", ["ct", "pet"])
    def test_voxels_that_are_not_finite_are_refused(self, name: str, value: float) -> None:
        both = {key: sitk.Cast(image, sitk.sitkFloat32) for key, image in zip(("ct", "pet"), images(), strict=True)}
        with_voxel(both[name], value)
        with pytest.raises(InputError, match=f"{name.upper()}: expected finite voxels"):
            PetCtCase.from_images(**both)

    @pytest.mark.parametrize("name", ["ct", "pet"])
    def test_voxels_that_are_no_boxes_are_refused(self, name: str) -> None:
        both = dict(zip(("ct", "pet"), images(), strict=True))
        both[name].SetDirection((1, 0.3, 0, 0, 1, 0, 0, 0, 1))
        with pytest.raises(InputError, match=f"{name.upper()}: expected a direction of three unit vectors"):
            PetCtCase.from_images(**both)

    def test_constant_pet_is_refused(self) -> None:
        ct, pet = images()
        with pytest.raises(InputError, match=r"PET: expected a PET, found the value 0\.0 in every voxel"):
            PetCtCase.from_images(ct=ct, pet=pet * 0)

    def test_volumes_must_lie_on_one_grid(self) -> None:
        ct, pet = (Volume.from_image(image) for image in images())
        huge = Volume(pet.array.astype(np.float64) * 1e39, pet.grid)  # infinite as float32
        with pytest.raises(InputError, match="PET: expected finite"):
            PetCtCase.from_volumes(ct, huge)
        case = PetCtCase.from_volumes(ct, pet)
        assert case.ct.array.dtype == np.float32
        assert np.array_equal(case.ct.array, ct.array)
        with pytest.raises(InputError, match="CT and PET must lie on one grid"):
            PetCtCase.from_volumes(Volume.from_image(with_origin(images()[0], 1.0)), pet)


class TestFiles:
    def test_images_of_other_forms_become_a_case_folder(self, tmp_path: Path, capsys) -> None:
        ct, pet = images()
        finer = sitk.Expand(ct, (2, 2, 2))
        sitk.WriteImage(finer, tmp_path / "ct.nrrd")
        sitk.WriteImage(pet, tmp_path / "pet.nii.gz")
        folder = tmp_path / "cases" / "new"
        assert main(["import", *map(str, (tmp_path / "ct.nrrd", tmp_path / "pet.nii.gz", folder))]) == 0
        assert capsys.readouterr().out == f"{folder}\n"
        case, expected = read(folder), PetCtCase.from_images(ct=finer, pet=pet)
        np.testing.assert_array_equal(case.ct.array, expected.ct.array)
        np.testing.assert_array_equal(case.pet.array, expected.pet.array)
        np.testing.assert_allclose(case.pet.grid.origin_xyz, pet.GetOrigin(), atol=1e-4)  # NIfTI keeps float32
        assert len(case.prompts) == 0

    @pytest.mark.parametrize("given", [0, 1, 4])
    def test_import_says_what_it_expects(self, tmp_path: Path, capsys, given: int) -> None:
        assert main(["import", *[str(tmp_path / "a")] * given]) == 1
        assert f"expected STUDY CASE or CT PET CASE, found {given} paths" in capsys.readouterr().err

    @pytest.mark.parametrize("ending", [".nii", ".nii.gz", ".mha"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_import_refuses_voxels_that_are_no_number(self, tmp_path: Path, capsys, ending: str, value: float) -> None:
        """ITK makes zeros of them, half of a patient's CT water."""
        ct, pet = (sitk.Cast(image, sitk.sitkFloat32) for image in images())
        ct[1, 2, 3] = value
        sitk.WriteImage(ct, tmp_path / f"ct{ending}")
        sitk.WriteImage(pet, tmp_path / "pet.nii.gz")
        paths = [tmp_path / f"ct{ending}", tmp_path / "pet.nii.gz", tmp_path / "new"]
        assert main(["import", *map(str, paths)]) == 1
        assert "expected finite voxels, found NaN or infinite" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()

    def test_import_refuses_what_is_no_image(self, tmp_path: Path, capsys) -> None:
        (tmp_path / "ct.nii").write_text("no image")
        assert main(["import", *[str(tmp_path / "ct.nii")] * 2, str(tmp_path / "new")]) == 1
        assert "ct.nii: expected an image" in capsys.readouterr().err
        assert not (tmp_path / "new").exists()

    def test_a_case_is_written_whole_or_not_at_all(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def fail(*_: object) -> None:
            raise OSError("disk full")

        ct, pet = images()
        monkeypatch.setattr("lesionclick.petct.case.write_clicks", fail)
        with pytest.raises(InputError, match="disk full"):
            PetCtCase.from_images(ct=ct, pet=pet).write(tmp_path / "cases" / "new")
        assert list((tmp_path / "cases").iterdir()) == []
