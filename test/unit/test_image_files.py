import gc
import math
import os
import re
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.case_folder import change_header, ct_path, images, pet_path, write_case
from helpers.read_only import read_only_folder

from lesionclick.errors import InputError
from lesionclick.grand_challenge.image_files import MAX_VOXELS, ImageFile, require_writable, write_masks
from lesionclick.grand_challenge.interfaces import CT, PET, Socket
from lesionclick.images import Grid, Volume

MASK = Volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2, Grid((4, 3, 2), (2.0, 2.5, 3.0), (1.0, 2.0, 3.0)))


def read(folder: Path, socket: Socket) -> Volume:
    return ImageFile.find(folder, socket).read()


class TestFind:
    @pytest.mark.parametrize("socket", [CT, PET])
    def test_empty_folder_is_refused(self, tmp_path: Path, socket: Socket) -> None:
        folder = write_case(tmp_path) / "images" / socket.slug
        next(folder.iterdir()).unlink()
        with pytest.raises(InputError, match=rf"images/{socket.slug}: expected exactly one file, .*found 0: \[\]"):
            read(tmp_path, socket)

    @pytest.mark.parametrize("other", ["second.mha", "second.tif", "notes.txt"])
    def test_second_file_is_refused(self, tmp_path: Path, other: str) -> None:
        (write_case(tmp_path) / "images" / "pet" / other).touch()
        with pytest.raises(InputError, match=rf"images/pet: expected exactly one file, .*found 2: .*'{other}'"):
            read(tmp_path, PET)

    @pytest.mark.parametrize("name", ["image.nii.gz", "image", ".mha", "line\nbreak.mha"])
    def test_other_names_are_refused_in_one_line(self, tmp_path: Path, name: str) -> None:
        path = ct_path(write_case(tmp_path))
        path.rename(path.with_name(name))
        with pytest.raises(InputError, match=r"^\S*images/ct: expected exactly one file, an image .*found 1: .*$"):
            read(tmp_path, CT)

    def test_what_is_no_file_is_refused(self, tmp_path: Path) -> None:
        path = ct_path(write_case(tmp_path))
        path.unlink()
        path.mkdir()
        with pytest.raises(InputError, match="found a folder or device"):
            read(tmp_path, CT)
        path.rmdir()
        os.mkfifo(path)
        with pytest.raises(InputError, match="found a folder or device"):
            read(tmp_path, CT)


class TestRead:
    def test_the_voxels_stay_when_all_else_of_the_image_is_gone(self, tmp_path: Path) -> None:
        write_case(tmp_path)
        first = read(tmp_path, CT).array[1]  # a view on the array, the array a view on ITK's memory
        gc.collect()
        for _ in range(20):
            read(tmp_path, PET)  # takes the memory of what is gone
        ct, _ = images()
        assert np.array_equal(first, sitk.GetArrayFromImage(ct)[1])
        assert first.dtype == np.float32
        first += 1  # and they are the reader's own

    def test_tiff(self, tmp_path: Path) -> None:
        pet = read(write_case(tmp_path, suffix=".tif"), PET)
        assert np.array_equal(pet.array, sitk.GetArrayFromImage(images()[1]))

    @pytest.mark.parametrize("socket", [CT, PET])
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
        self, tmp_path: Path, socket: Socket, value: float, found: str
    ) -> None:
        image = sitk.Cast(images()[1], sitk.sitkFloat64)
        for x in range(2):
            image[x, 3, 4] = value
        with pytest.raises(InputError, match=f"{socket.slug}.mha: expected finite voxels, found {found}"):
            read(write_case(tmp_path, **{socket.slug: image}), socket)

    @pytest.mark.parametrize("compressed", [True, False])
    @pytest.mark.parametrize("kept", [0.0, 0.001, 0.5, 0.999])
    def test_truncated_image_is_refused(self, tmp_path: Path, compressed: bool, kept: float) -> None:
        path = pet_path(write_case(tmp_path, compressed=compressed))
        content = path.read_bytes()
        path.write_bytes(content[: int(kept * len(content))])
        found = "expected 23040 bytes of voxels, found" if kept > 0.4 else "expected an image"
        with pytest.raises(InputError, match=rf"pet\.mha: {found}"):
            read(tmp_path, PET)

    def test_damaged_image_is_refused(self, tmp_path: Path) -> None:
        path = pet_path(write_case(tmp_path))
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0xFF
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"pet\.mha: expected a complete image"):
            read(tmp_path, PET)

    @pytest.mark.parametrize("slices", [15, 17])
    def test_compressed_voxels_must_fill_the_image(self, tmp_path: Path, slices: int) -> None:
        change_header(ct_path(write_case(tmp_path)), "DimSize", f"20 18 {slices}")
        with pytest.raises(InputError, match=rf"ct\.mha: expected {20 * 18 * slices * 2} bytes of voxels, found 11520"):
            read(tmp_path, CT)

    @pytest.mark.parametrize("share", [0.5, 2.0, None])
    def test_a_header_with_another_size_of_the_voxels_is_refused(self, tmp_path: Path, share: float | None) -> None:
        """ITK reads as many bytes, and makes arbitrary voxels of fewer."""
        path = ct_path(write_case(tmp_path))
        content = path.read_bytes()
        line = re.search(rb"CompressedDataSize = (\d+)\n", content)
        assert line is not None
        other = b"" if share is None else b"CompressedDataSize = %d\n" % (share * int(line[1]))
        path.write_bytes(content.replace(line[0], other))
        found = other.decode().split()[-1] if other else "none"
        with pytest.raises(InputError, match=rf"expected CompressedDataSize = {int(line[1])}, found {found}$"):
            read(tmp_path, CT)

    def test_voxels_in_another_file_are_refused(self, tmp_path: Path) -> None:
        path = pet_path(write_case(tmp_path / "case", compressed=False))
        header, _, voxels = path.read_bytes().partition(b"LOCAL\n")
        (tmp_path / "secret.raw").write_bytes(voxels)
        path.write_bytes(header + b"../../../secret.raw\n")
        with pytest.raises(InputError, match=r"in the file itself \(LOCAL\), found '../../../secret\.raw'"):
            read(tmp_path / "case", PET)

    @pytest.mark.parametrize(
        "line",
        [
            "NDims = -1",
            "NDims = 11",
            "NDims = 99999999999999999999",
            "NDims = 3.0",
            "NDims : 3",
            "NDims ",
            "XNDims = 3",
        ],
    )
    def test_numbers_of_dimensions_that_itk_does_not_survive_are_refused(self, tmp_path: Path, line: str) -> None:
        path = pet_path(write_case(tmp_path))
        path.write_bytes(path.read_bytes().replace(b"NDims = 3", line.encode(), 1))
        with pytest.raises(
            InputError, match=r"pet\.mha: expected (NDims = 3, once|an image with a MetaImage header), found"
        ):
            read(tmp_path, PET)

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"NDims = 3\n", b"NDims = 3\nNDims = 3\n"),
            (b"ElementType = MET_FLOAT\n", b"ElementType =\n"),
            (b"ElementDataFile = LOCAL", b"ElementDataFile =" + b"\n" * 2**20 + b"LOCAL"),
            (b"BinaryData = True\n", b"Comment = " + b"x" * 2**20 + b"\n"),
        ],
        ids=["twice", "value on the next line", "value beyond the header", "long"],
    )
    def test_a_header_that_itk_may_see_otherwise_is_refused(self, tmp_path: Path, old: bytes, new: bytes) -> None:
        path = pet_path(write_case(tmp_path))
        path.write_bytes(path.read_bytes().replace(old, new, 1))
        with pytest.raises(InputError, match=r"pet\.mha: expected (NDims = 3|an image with a MetaImage header)"):
            read(tmp_path, PET)

    def test_singular_direction_is_refused(self, tmp_path: Path) -> None:
        change_header(pet_path(write_case(tmp_path)), "TransformMatrix", "1 0 0 0 0 0 0 0 1")
        with pytest.raises(InputError, match="three unit vectors"):
            read(tmp_path, PET)

    @pytest.mark.parametrize(
        ("key", "value", "found"),
        [
            ("Offset", "nan 5 5", "expected 3 finite numbers as Offset, found 'nan 5 5'"),
            ("Offset", "5 5", "expected 3 finite numbers as Offset, found '5 5'"),
            ("Offset", "1_0 2 3", "expected 3 finite numbers as Offset, found '1_0 2 3'"),
            ("Offset", "a b c", "expected 3 finite numbers as Offset, found 'a b c'"),
            ("TransformMatrix", "0 0 0 0 0 0 0 0 inf", "expected 9 finite numbers as TransformMatrix"),
            ("TransformMatrix", "2 0 0 0 2 0 0 0 2", "expected a direction of three unit vectors at right angles"),
            ("TransformMatrix", "1 0.5 0 0 1 0 0 0 1", "expected a direction of three unit vectors at right angles"),
        ],
    )
    def test_what_itk_would_mend_is_refused(self, tmp_path: Path, key: str, value: str, found: str) -> None:
        change_header(pet_path(write_case(tmp_path)), key, value)
        with pytest.raises(InputError, match=rf"pet\.mha: {re.escape(found)}"):
            read(tmp_path, PET)

    def test_a_file_that_may_not_be_read_is_refused(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        write_case(tmp_path)

        def refuse(*_arguments: object) -> None:
            raise PermissionError(13, "Permission denied")

        monkeypatch.setattr(Path, "open", refuse)
        with pytest.raises(InputError, match=r"pet\.mha: expected a readable file, found .*Permission denied"):
            read(tmp_path, PET)

    def test_file_that_is_no_image_is_refused(self, tmp_path: Path) -> None:
        pet_path(write_case(tmp_path)).write_text("SUV 1, 2, 3")
        with pytest.raises(InputError, match=r"pet\.mha: expected an image"):
            read(tmp_path, PET)

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
            read(write_case(tmp_path, pet=pet), PET)

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
            ("ElementType", "MET_OTHER", "expected an image"),
        ],
    )
    def test_implausible_header_is_refused(self, tmp_path: Path, key: str, value: str, message: str) -> None:
        change_header(pet_path(write_case(tmp_path)), key, value)
        with pytest.raises(InputError, match=message):
            read(tmp_path, PET)


class TestLabels:
    @staticmethod
    def read(folder: Path, values: list[float], pixel: int = sitk.sitkFloat64) -> Volume:
        mask = sitk.Cast(images()[0] * 0, pixel)
        for x, value in enumerate(values):
            mask[x, 5, 6] = value
        return ImageFile.find(write_case(folder, ct=mask), CT).read_labels()

    @pytest.mark.parametrize("pixel", [sitk.sitkUInt16, sitk.sitkInt32, sitk.sitkUInt64, sitk.sitkFloat32])
    def test_whole_numbers_are_kept_whatever_their_type(self, tmp_path: Path, pixel: int) -> None:
        labels = self.read(tmp_path, [1, 300, 65535], pixel)
        assert labels.array.dtype == np.uint16
        assert labels.array[6, 5, :4].tolist() == [1, 300, 65535, 0]
        assert np.count_nonzero(labels.array) == 3
        assert labels.grid == Grid.from_image(images()[0])

    @pytest.mark.parametrize(
        ("values", "found"),
        [
            ([1, 2.5, 3], r"1 other voxels, such as 2\.5"),
            ([65536], "1 other voxels, such as 65536"),
            ([1e12, 1], r"1 other voxels, such as 1e\+12"),
            ([-1, -1], "2 other voxels, such as -1"),
        ],
    )
    def test_other_values_are_refused(self, tmp_path: Path, values: list[float], found: str) -> None:
        with pytest.raises(InputError, match=rf"ct\.mha: expected whole numbers from 0 to 65535, found {found}"):
            self.read(tmp_path, values)

    def test_same_checks_as_of_every_image(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"ct\.mha: expected finite voxels, found 1 NaN"):
            self.read(tmp_path, [math.nan])


class TestWriteMasks:
    def test_all_are_written(self, tmp_path: Path) -> None:
        other = Volume(MASK.array + 1, MASK.grid)
        write_masks({tmp_path / "a.mha": MASK, tmp_path / "b.mha": other})
        for name, mask in (("a", MASK), ("b", other)):
            assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(tmp_path / f"{name}.mha")), mask.array)

    def test_none_is_left_when_one_fails(self, tmp_path: Path) -> None:
        (tmp_path / "kept.mha").touch()
        with pytest.raises(InputError, match="none: expected a folder"):
            write_masks({tmp_path / "a.mha": MASK, tmp_path / "none" / "b.mha": MASK, tmp_path / "c.mha": MASK})
        assert [path.name for path in tmp_path.iterdir()] == ["kept.mha"]


class TestRequireWritable:
    def test_folder_is_made_and_left_empty(self, tmp_path: Path) -> None:
        for _ in range(2):
            require_writable(tmp_path / "a" / "b")
            assert list((tmp_path / "a" / "b").iterdir()) == []

    def test_read_only_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=f"expected a folder that user {os.getuid()} can write"):
            require_writable(read_only_folder(tmp_path / "closed"))
