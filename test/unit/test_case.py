import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.case_folder import (
    CLICKS,
    CT_NAME,
    PET_NAME,
    SIZE_XYZ,
    change_header,
    ct_path,
    images,
    pet_path,
    write_case,
)
from helpers.longitudinal_folder import write_longitudinal_case

from lesionclick.errors import InputError
from lesionclick.grand_challenge.interfaces import PRIMARY, SECONDARY, TUMOR_LESION_SEGMENTATION
from lesionclick.images import Grid
from lesionclick.petct.case import LongitudinalCase, PetCtCase, mask_path, prepare_output, read_case
from lesionclick.prompts.points import TUMOR, Click


def with_voxel(image: sitk.Image, value: float) -> sitk.Image:
    image[1, 3, 4] = value
    return image


def with_origin(image: sitk.Image, change_mm: float) -> sitk.Image:
    x, y, z = image.GetOrigin()
    image.SetOrigin((x, y, z + change_mm))
    return image


class TestRead:
    @pytest.mark.parametrize("compressed", [True, False])
    def test_images_clicks_and_stem(self, tmp_path: Path, compressed: bool, caplog: pytest.LogCaptureFixture) -> None:
        case = PetCtCase.read(write_case(tmp_path, compressed=compressed))
        ct, pet = images()
        assert np.array_equal(case.ct.array, sitk.GetArrayFromImage(ct))
        assert np.array_equal(case.pet.array, sitk.GetArrayFromImage(pet))
        assert case.ct.array.dtype == case.pet.array.dtype == np.float32
        assert case.ct.grid == case.pet.grid == Grid.from_image(pet)
        assert case.clicks == CLICKS
        assert case.stem == CT_NAME
        assert caplog.records == []

    def test_ending_in_capitals_and_stem_with_dots(self, tmp_path: Path) -> None:
        ct_path(write_case(tmp_path)).rename(tmp_path / "images" / "ct" / "a.b c.MHA")
        assert PetCtCase.read(tmp_path).stem == "a.b c"

    def test_link_within_the_case(self, tmp_path: Path) -> None:
        path = ct_path(write_case(tmp_path))
        path.rename(tmp_path / "elsewhere.mha")
        path.symlink_to("../../elsewhere.mha")
        assert PetCtCase.read(tmp_path).stem == CT_NAME

    def test_clicks_outside_are_warned_about_and_kept_for_counting(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        clicks = (*CLICKS, Click(TUMOR, (float(SIZE_XYZ[0]), 0.0, 0.0)))
        assert PetCtCase.read(write_case(tmp_path, clicks=clicks)).clicks == clicks
        (record,) = caplog.records
        assert "1 of 3 clicks lie outside the image of (20, 18, 16) voxels" in record.getMessage()


class TestGrids:
    @pytest.mark.parametrize("change_mm", [0.9e-3, -1e-9])
    def test_rounding_is_warned_about_and_the_pets_grid_used(
        self, tmp_path: Path, change_mm: float, caplog: pytest.LogCaptureFixture
    ) -> None:
        ct, pet = images()
        case = PetCtCase.read(write_case(tmp_path, with_origin(ct, change_mm), pet))
        assert case.ct.grid == case.pet.grid == Grid.from_image(pet)
        (record,) = caplog.records
        assert "differ by rounding" in record.getMessage()

    def test_more_is_refused_with_both_names_and_values(self, tmp_path: Path) -> None:
        ct, pet = images()
        with pytest.raises(InputError) as caught:
            PetCtCase.read(write_case(tmp_path, with_origin(ct, 1.1e-3), pet))
        for part in ("0.0011 mm apart", f"ct ({CT_NAME}.mha)", f"pet ({PET_NAME}.mha)", "-700.0)", "-699.9989)"):
            assert part in str(caught.value)

    def test_other_size_is_refused_with_both_names_and_values(self, tmp_path: Path) -> None:
        ct, _ = images()
        with pytest.raises(InputError, match=rf"ct \({CT_NAME}\.mha\) \(20, 18, 15\), pet .* \(20, 18, 16\)"):
            PetCtCase.read(write_case(tmp_path, ct[:, :, 1:]))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("Offset", "30 nan -700", r"must lie on one grid.*\(30\.0, 0\.0, 0\.0\)"),  # ITK reads zeros
            ("TransformMatrix", "0 0 0 0 0 0 0 0 0", "must lie on one grid"),
        ],
    )
    def test_header_that_itk_mends_is_refused(self, tmp_path: Path, key: str, value: str, message: str) -> None:
        change_header(pet_path(write_case(tmp_path)), key, value)
        with pytest.raises(InputError, match=message):
            PetCtCase.read(tmp_path)


class TestUptake:
    def test_constant_pet_is_refused(self, tmp_path: Path) -> None:
        _, pet = images()
        with pytest.raises(InputError, match=r"pet .*found the value 1\.5 in every voxel"):
            PetCtCase.read(write_case(tmp_path, pet=pet * 0 + 1.5))

    @pytest.mark.parametrize(("maximum", "warnings"), [(1000.0, 0), (1001.0, 1), (5e6, 1)])
    def test_becquerels_are_warned_about_and_used(
        self, tmp_path: Path, maximum: float, warnings: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        _, pet = images()
        case = PetCtCase.read(write_case(tmp_path, pet=with_voxel(pet, maximum)))
        assert case.pet.array.max() == maximum
        assert ["looks like Bq/ml" in record.getMessage() for record in caplog.records] == [True] * warnings


class TestFolders:
    @pytest.mark.parametrize("missing", ["images/ct", "images/pet", "lesion-clicks.json"])
    def test_missing_input_is_refused(self, tmp_path: Path, missing: str) -> None:
        path = write_case(tmp_path / "case") / missing
        path.rename(tmp_path / "gone")
        with pytest.raises(InputError, match=r"expected images/ct, images/pet, lesion-clicks\.json") as caught:
            PetCtCase.read(tmp_path / "case")
        assert missing not in str(caught.value).partition("found")[2]

    @pytest.mark.parametrize("missing", ["images/ct", "images/pet", "lesion-clicks.json"])
    def test_input_that_is_listed_but_missing_is_refused(self, tmp_path: Path, missing: str) -> None:
        folder = write_case(tmp_path / "case")
        paths = ("images/ct", "images/pet", "lesion-clicks.json")
        entries = ", ".join(f'{{"socket": {{"relative_path": "{path}"}}}}' for path in paths)
        (folder / "inputs.json").write_text(f"[{entries}]")
        PetCtCase.read(folder)
        (folder / missing).rename(tmp_path / "gone")
        with pytest.raises(InputError, match=f"{missing}: expected "):
            PetCtCase.read(folder)

    @pytest.mark.parametrize("link", ["images/ct", f"images/ct/{CT_NAME}.mha", "lesion-clicks.json"])
    def test_links_that_lead_out_are_refused(self, tmp_path: Path, link: str) -> None:
        path = write_case(tmp_path / "case") / link
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=f"{link}: expected a path inside .*/case, found a link to .*/elsewhere"):
            PetCtCase.read(tmp_path / "case")


class TestEitherTask:
    def test_input_tells_the_task(self, tmp_path: Path) -> None:
        assert isinstance(read_case(write_case(tmp_path / "1")), PetCtCase)
        assert isinstance(read_case(write_longitudinal_case(tmp_path / "2")), LongitudinalCase)

    def test_case_of_the_other_task_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"expected images/ct, .*; found \['images/primary-baseline-ct'"):
            PetCtCase.read(write_longitudinal_case(tmp_path / "2"))
        with pytest.raises(InputError, match=r"expected images/primary-baseline-ct, .*; found \['images/ct'"):
            LongitudinalCase.read(write_case(tmp_path / "1"))


class TestOutput:
    def test_mask_goes_where_the_platform_wants_it(self, tmp_path: Path) -> None:
        images = tmp_path / "images"
        for socket, folder in (
            (TUMOR_LESION_SEGMENTATION, "tumor-lesion-segmentation"),
            (PRIMARY.mask, "primary-followup-ct-tumor-lesion-seg"),
            (SECONDARY.mask, "secondary-followup-ct-tumor-lesion-seg"),
        ):
            assert mask_path(tmp_path, socket, "a.b c") == images / folder / "a.b c.mha"

    def test_every_folder_is_made_and_left_empty(self, tmp_path: Path) -> None:
        for _ in range(2):
            prepare_output(tmp_path / "out", [PRIMARY.mask, SECONDARY.mask])
            folders = list((tmp_path / "out" / "images").iterdir())
            assert {folder.name for folder in folders} == {PRIMARY.mask.slug, SECONDARY.mask.slug}
            assert [list(folder.iterdir()) for folder in folders] == [[], []]

    @pytest.mark.parametrize("file", ["out", "out/images", "out/images/secondary-followup-ct-tumor-lesion-seg"])
    def test_file_in_the_way_of_any_is_refused_with_folder_and_user(self, tmp_path: Path, file: str) -> None:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        message = f"followup-ct-tumor-lesion-seg: expected a folder that user {os.getuid()} can write"
        with pytest.raises(InputError, match=message):
            prepare_output(tmp_path / "out", [PRIMARY.mask, SECONDARY.mask])
