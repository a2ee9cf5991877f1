import math
import os
import stat
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from case_folder import CLICKS, CT_NAME, PET_NAME, SIZE_XYZ, change_header, ct_path, images, pet_path, write_case

from lesionclick.case import MAX_VOXELS, PetCtCase, mask_path, prepare_output, write_mask
from lesionclick.clicks import TUMOR, Click
from lesionclick.errors import InputError
from lesionclick.images import Grid, Volume

MASK = Volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2, Grid((4, 3, 2), (2.0, 2.5, 3.0), (1.0, 2.0, 3.0)))


def with_voxel(image: sitk.Image, value: float, count: int = 1) -> sitk.Image:
    for x in range(count):
        image[x, 3, 4] = value
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

    def test_tiff(self, tmp_path: Path) -> None:
        case = PetCtCase.read(write_case(tmp_path, suffix=".tif"))
        assert np.array_equal(case.pet.array, sitk.GetArrayFromImage(images()[1]))
        assert case.stem == CT_NAME

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

    @pytest.mark.parametrize("name", ["ct", "pet"])
    @pytest.mark.parametrize(
        ("value", "found"),
        [
            (math.nan, "2 NaN and 0 infinite"),
            (math.inf, "0 NaN and 2 infinite"),
            (-math.inf, "0 NaN and 2 infinite"),
            (1e300, "0 NaN and 2 infinite"),  # beyond float32
        ],
    )
    def test_voxels_that_are_not_finite_are_refused_with_their_number(
        self, tmp_path: Path, name: str, value: float, found: str
    ) -> None:
        image = with_voxel(sitk.Cast(images()[1], sitk.sitkFloat64), value, count=2)
        with pytest.raises(InputError, match=f"{name}.mha: expected finite voxels, found {found}"):
            PetCtCase.read(write_case(tmp_path, **{name: image}))


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

    @pytest.mark.parametrize("slug", ["ct", "pet"])
    def test_empty_folder_is_refused(self, tmp_path: Path, slug: str) -> None:
        folder = write_case(tmp_path) / "images" / slug
        next(folder.iterdir()).unlink()
        with pytest.raises(InputError, match=rf"images/{slug}: expected exactly one file, .*found 0: \[\]"):
            PetCtCase.read(tmp_path)

    @pytest.mark.parametrize("other", ["second.mha", "second.tif", "notes.txt"])
    def test_second_file_is_refused(self, tmp_path: Path, other: str) -> None:
        (write_case(tmp_path) / "images" / "pet" / other).touch()
        with pytest.raises(InputError, match=rf"images/pet: expected exactly one file, .*found 2: .*'{other}'"):
            PetCtCase.read(tmp_path)

    @pytest.mark.parametrize("name", ["image.nii.gz", "image", ".mha", "line\nbreak.mha"])
    def test_other_names_are_refused_in_one_line(self, tmp_path: Path, name: str) -> None:
        path = ct_path(write_case(tmp_path))
        path.rename(path.with_name(name))
        with pytest.raises(InputError, match=r"^\S*images/ct: expected exactly one file, an image .*found 1: .*$"):
            PetCtCase.read(tmp_path)

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        path = ct_path(write_case(tmp_path))
        path.unlink()
        path.mkdir()
        with pytest.raises(InputError, match="found a folder or device"):
            PetCtCase.read(tmp_path)
        path.rmdir()
        os.mkfifo(path)
        with pytest.raises(InputError, match="found a folder or device"):
            PetCtCase.read(tmp_path)

    @pytest.mark.parametrize("link", ["images/ct", f"images/ct/{CT_NAME}.mha", "lesion-clicks.json"])
    def test_links_that_lead_out_are_refused(self, tmp_path: Path, link: str) -> None:
        path = write_case(tmp_path / "case") / link
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=f"{link}: expected a path inside .*/case, found a link to .*/elsewhere"):
            PetCtCase.read(tmp_path / "case")


class TestImages:
    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
    def test_truncated_image_is_refused(self, tmp_path: Path, compressed: bool, kept: float) -> None:
        path = pet_path(write_case(tmp_path, compressed=compressed))
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        with pytest.raises(InputError, match=r"pet\.mha: expected (an|a complete) image|pet\.mha: expected \d+ bytes"):
            PetCtCase.read(tmp_path)

    def test_damaged_image_is_refused(self, tmp_path: Path) -> None:
        path = pet_path(write_case(tmp_path))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"pet\.mha: expected a complete image"):
            PetCtCase.read(tmp_path)

    @pytest.mark.parametrize("slices", [15, 17])
    def test_compressed_voxels_must_fill_the_image(self, tmp_path: Path, slices: int) -> None:
        write_case(tmp_path)
        for path in (ct_path(tmp_path), pet_path(tmp_path)):
            change_header(path, "DimSize", f"20 18 {slices}")
        with pytest.raises(InputError, match=rf"ct\.mha: expected {20 * 18 * slices * 2} bytes of voxels, found 11520"):
            PetCtCase.read(tmp_path)

    def test_voxels_in_another_file_are_refused(self, tmp_path: Path) -> None:
        path = pet_path(write_case(tmp_path / "case", compressed=False))
        header, _, voxels = path.read_bytes().partition(b"LOCAL\n")
        (tmp_path / "secret.raw").write_bytes(voxels)
        path.write_bytes(header + b"../../../secret.raw\n")
        with pytest.raises(InputError, match=r"in the file itself \(LOCAL\), found '../../../secret\.raw'"):
            PetCtCase.read(tmp_path / "case")

    def test_singular_direction_is_refused(self, tmp_path: Path) -> None:
        write_case(tmp_path)
        for path in (ct_path(tmp_path), pet_path(tmp_path)):
            change_header(path, "TransformMatrix", "1 0 0 0 0 0 0 0 1")
        with pytest.raises(InputError, match="determinant is 0"):
            PetCtCase.read(tmp_path)

    def test_file_that_is_no_image_is_refused(self, tmp_path: Path) -> None:
        pet_path(write_case(tmp_path)).write_text("SUV 1, 2, 3")
        with pytest.raises(InputError, match=r"pet\.mha: expected an image"):
            PetCtCase.read(tmp_path)

    @pytest.mark.parametrize(
        ("make", "found"),
        [
            (lambda pet: sitk.JoinSeries([pet, pet]), "4-D with 1"),
            (lambda pet: pet[:, :, 3], "2-D with 1"),
            (lambda pet: sitk.Compose([pet, pet]), "3-D with 2"),
        ],
    )
    def test_other_kinds_of_images_are_refused(self, tmp_path: Path, make, found: str) -> None:
        pet = make(images()[1])
        with pytest.raises(InputError, match=f"3-D image with one value per voxel, found {found}"):
            PetCtCase.read(write_case(tmp_path, pet=pet))

    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("DimSize", "0 18 16", rf"1 to {MAX_VOXELS} voxels, found 0 in size \(x, y, z\) \(0, 18, 16\)"),
            ("DimSize", "20 18 -16", "voxels, found "),
            ("DimSize", "1024 1024 512", r"at most 3000 litres, found 4\.83e\+04 litres"),
            ("DimSize", "1024 1024 513", rf"1 to {MAX_VOXELS} voxels, found 537919488"),
            ("DimSize", "60000 60000 60000", "voxels, found 216000000000000"),
            ("ElementSpacing", "0 4.5 5", r"at least 0\.1 mm"),
            ("ElementSpacing", "4 -4.5 5", r"at least 0\.1 mm"),
            ("ElementSpacing", "nan 4.5 5", r"at least 0\.1 mm"),
            ("ElementSpacing", "inf 4.5 5", r"at least 0\.1 mm"),
            ("ElementSpacing", "0.004 0.0045 0.005", r"at least 0\.1 mm .*0\.004"),  # metres
            ("ElementSpacing", "400 450 500", "at most 3000 litres, found 5.18e.05 litres"),
            ("Offset", "30 nan -700", r"must lie on one grid.*\(30\.0, 0\.0, 0\.0\)"),  # ITK reads zeros
            ("TransformMatrix", "0 0 0 0 0 0 0 0 0", "must lie on one grid"),
            ("ElementType", "MET_OTHER", "expected an image"),
        ],
    )
    def test_implausible_header_is_refused(self, tmp_path: Path, key: str, value: str, message: str) -> None:
        change_header(pet_path(write_case(tmp_path)), key, value)
        with pytest.raises(InputError, match=message):
            PetCtCase.read(tmp_path)


class TestWrite:
    def test_mask_goes_where_the_platform_wants_it(self, tmp_path: Path) -> None:
        case = PetCtCase.read(write_case(tmp_path / "case"))
        expected = tmp_path / "out" / "images" / "tumor-lesion-segmentation" / f"{CT_NAME}.mha"
        assert mask_path(tmp_path / "out", case) == expected

    def test_mask_is_written_compressed_whole_and_readable_by_all(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.mha"
        previous = os.umask(0o077)
        try:
            write_mask(MASK, path)
        finally:
            os.umask(previous)
        image = sitk.ReadImage(str(path))
        assert image.GetPixelID() == sitk.sitkUInt8
        assert Grid.from_image(image) == MASK.grid
        assert np.array_equal(sitk.GetArrayFromImage(image), MASK.array)
        assert b"CompressedData = True" in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path]

    def test_mask_replaces_an_older_one(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.mha"
        path.write_text("old")
        write_mask(MASK, path)
        assert sitk.ReadImage(str(path)).GetSize() == (4, 3, 2)

    def test_failure_after_writing_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.mha"
        path.mkdir()  # a file cannot replace it
        with pytest.raises(InputError, match=f"{tmp_path}: expected a folder that user {os.getuid()} can write"):
            write_mask(MASK, path)
        assert list(tmp_path.iterdir()) == [path]

    def test_failure_while_writing_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run_full(_: sitk.Image, name: str, **__: object) -> None:
            Path(name).write_bytes(b"half a mask")
            raise RuntimeError("disk full")

        monkeypatch.setattr(sitk, "WriteImage", run_full)
        with pytest.raises(InputError, match="disk full"):
            write_mask(MASK, tmp_path / "mask.mha")
        assert list(tmp_path.iterdir()) == []

    def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="none: expected a folder"):
            write_mask(MASK, tmp_path / "none" / "mask.mha")


class TestPrepareOutput:
    def test_folder_is_made_and_left_empty(self, tmp_path: Path) -> None:
        for _ in range(2):
            prepare_output(tmp_path / "out")
            assert list((tmp_path / "out" / "images" / "tumor-lesion-segmentation").iterdir()) == []

    @pytest.mark.parametrize("file", ["out", "out/images", "out/images/tumor-lesion-segmentation"])
    def test_file_in_the_way_is_refused_with_folder_and_user(self, tmp_path: Path, file: str) -> None:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        message = f"out/images/tumor-lesion-segmentation: expected a folder that user {os.getuid()} can write"
        with pytest.raises(InputError, match=message):
            prepare_output(tmp_path / "out")

    @pytest.mark.skipif(os.getuid() == 0, reason="root may write anywhere")
    def test_read_only_folder_is_refused(self, tmp_path: Path) -> None:
        tmp_path.chmod(0o555)
        try:
            with pytest.raises(InputError, match="Permission denied"):
                prepare_output(tmp_path)
        finally:
            tmp_path.chmod(0o755)
