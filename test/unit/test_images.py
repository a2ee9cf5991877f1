import errno
import math
import os
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from lesionclick.errors import InputError
from lesionclick.images import (
    Grid,
    Volume,
    are_inside,
    indices_from_points,
    points_from_indices,
    read_image,
    require_same_grid,
)

# x and y flipped
GRID = Grid((4, 3, 2), (2.0, 2.5, 3.0), (10.0, 20.0, -30.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


SHAPE = (30, 20, 10)
MASK = Volume(np.arange(24, dtype=np.uint8).reshape(2, 3, 4) % 2, Grid((4, 3, 2), (2.0, 2.5, 3.0), (1.0, 2.0, 3.0)))


@pytest.mark.parametrize("turn", [points_from_indices, indices_from_points])
def test_axes_of_one_and_of_many_are_turned_around(turn) -> None:
    assert turn([1, 2.5, 3]).tolist() == [3, 2.5, 1]
    assert turn(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 2, 1], [6, 5, 4]]
    assert turn(np.empty((0, 3))).shape == (0, 3)


@pytest.mark.parametrize(
    ("index_zyx", "inside"),
    [
        *[((29, 19, 9), True), ((0, 0, -0.5), True), ((29.49, 19.49, 9.49), True)],
        *[
            ((0, 0, 10), False),
            ((0, 20, 0), False),
            ((30, 0, 0), False),
            ((-0.51, 0, 0), False),
            ((0, 0, 9.5), False),
            ((0, 0, 1e300), False),
        ],
    ],
)
def test_index_is_inside_where_its_voxel_is(index_zyx: tuple[float, float, float], inside: bool) -> None:
    assert are_inside(index_zyx, SHAPE).tolist() == [inside]
    assert are_inside([index_zyx, (0, 0, 0), index_zyx], SHAPE).tolist() == [inside, True, inside]


def test_no_index_is_inside_of_an_empty_list() -> None:
    assert are_inside([], SHAPE).shape == (0,)


@pytest.mark.parametrize("ending", [".nii", ".nii.gz"])
@pytest.mark.parametrize("share", [0.0, 0.5, 0.95])
def test_a_nifti_file_that_was_cut_off_is_refused(tmp_path: Path, ending: str, share: float) -> None:
    array = np.random.default_rng(0).normal(size=(9, 9, 9)).astype(np.float32)
    Volume(array, Grid((9, 9, 9), (1.0, 1.0, 1.0))).write(tmp_path / f"a{ending}")
    content = (tmp_path / f"a{ending}").read_bytes()
    (tmp_path / f"a{ending}").write_bytes(content[: int(share * len(content))])
    with pytest.raises(InputError, match=f"a{ending}: expected an image"):
        Volume.read(tmp_path / f"a{ending}")


@pytest.mark.parametrize(
    ("name", "compressed", "message"),
    [
        ("a.nii", False, "expected an image"),
        ("a.nii.gz", True, "expected an image"),
        ("a.mha", False, "expected 1458 bytes of voxels, found"),
        ("a.mha", True, "expected 1458 bytes of voxels, found"),
    ],
)
def test_whole_numbers_that_were_cut_off_are_refused(tmp_path: Path, name: str, compressed: bool, message: str) -> None:
    """As a CT has them: ITK fills what is missing in a NIfTI file with arbitrary voxels."""
    array = np.random.default_rng(0).integers(-1000, 1000, (9, 9, 9)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name), useCompression=compressed)
    assert np.array_equal(Volume.read(tmp_path / name).array, array)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(0.9 * len(content))])
    with pytest.raises(InputError, match=f"{name}: {message}"):
        Volume.read(tmp_path / name)


@pytest.mark.parametrize("name", ["a.nii.gz", "a.mha"])
def test_compressed_voxels_that_are_damaged_are_refused(tmp_path: Path, name: str) -> None:
    """Their checksum lies at the end, to which ITK does not read."""
    array = np.random.default_rng(0).integers(-1000, 1000, (9, 9, 9)).astype(np.int16)
    sitk.WriteImage(sitk.GetImageFromArray(array), str(tmp_path / name), useCompression=True)
    content = bytearray((tmp_path / name).read_bytes())
    content[-7] ^= 1
    if name.endswith(".mha"):
        content[-2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=f"{name}: expected"):
        Volume.read(tmp_path / name)


def test_a_place_in_space_that_is_no_number_is_refused(tmp_path: Path) -> None:
    MASK.write(tmp_path / "a.mha")
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"Offset = 1 2 3", b"Offset = nan 2 3"))
    with pytest.raises(InputError, match="expected 3 finite numbers as Offset, found 'nan 2 3'"):
        Volume.read(tmp_path / "a.mha")


def test_a_mount_that_takes_no_permissions_and_no_sync_takes_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As some network mounts; the mask is whole, and throwing it away would help nobody."""

    def refuse(*_: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    def unsupported(_: int) -> None:
        raise OSError(errno.EINVAL, "Invalid argument")

    monkeypatch.setattr(Path, "chmod", refuse)
    monkeypatch.setattr(os, "fsync", unsupported)
    MASK.write(tmp_path / "mask.mha")
    np.testing.assert_array_equal(Volume.read(tmp_path / "mask.mha").array, MASK.array)


@pytest.mark.parametrize("ending", [".mha", ".nii.gz"])
def test_a_name_that_is_no_utf_8_is_refused_before_itk_ends_the_process(tmp_path: Path, ending: str) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/M\xfcller"))
    folder.mkdir()
    with pytest.raises(InputError, match=r"M\\udcfcller.*expected a name in UTF-8"):
        MASK.write(folder / f"mask{ending}")
    assert list(folder.iterdir()) == []
    MASK.write(tmp_path / f"mask{ending}")
    (tmp_path / f"mask{ending}").rename(folder / f"mask{ending}")
    with pytest.raises(InputError, match="expected a name in UTF-8"):
        Volume.read(folder / f"mask{ending}")


def test_grid_of_an_image() -> None:
    image = sitk.Image(4, 3, 2, sitk.sitkUInt8)
    image.SetSpacing(GRID.spacing_xyz)
    image.SetOrigin(GRID.origin_xyz)
    image.SetDirection(GRID.direction)
    grid = Grid.from_image(image)
    assert grid == GRID
    assert grid.shape_zyx == (2, 3, 4)
    assert grid.spacing_zyx == (3.0, 2.5, 2.0)
    assert grid.voxel_ml == pytest.approx(0.015)


def test_image_of_a_volume_has_its_values_and_geometry() -> None:
    array = np.arange(24, dtype=np.int16).reshape(2, 3, 4)
    image = Volume(array, GRID).to_image()
    assert Grid.from_image(image) == GRID
    assert np.array_equal(sitk.GetArrayFromImage(image), array)
    assert image.GetPixel(3, 0, 1) == array[1, 0, 3]


def test_array_must_fit_the_grid() -> None:
    with pytest.raises(InputError, match=r"\(4, 3, 2\).*\(2, 3, 4\)"):
        Volume(np.zeros((4, 3, 2)), GRID)


def test_equal_grids_pass_as_volumes_and_as_grids() -> None:
    volume = Volume(np.zeros((2, 3, 4)), GRID)
    require_same_grid(GRID, GRID, "CT", "PET")
    require_same_grid(volume, GRID, "CT", "PET")


def test_other_size_is_refused() -> None:
    with pytest.raises(InputError, match=r"CT and PET .*CT \(4, 3, 2\), PET \(4, 2, 3\)"):
        require_same_grid(GRID, replace(GRID, size_xyz=(4, 2, 3)), "CT", "PET")


# the far corner lies 3, 2 and 1 voxels away from the first
@pytest.mark.parametrize(
    ("field", "step"),
    [
        ("origin_xyz", (1.0, 0.0, 0.0)),
        ("origin_xyz", (0.0, 0.0, -1.0)),
        ("spacing_xyz", (1 / 3, 0.0, 0.0)),
        ("spacing_xyz", (0.0, 0.5, 0.0)),
        ("spacing_xyz", (0.0, 0.0, 1.0)),
        # 3 voxels of 2 mm along x, turned towards y
        ("direction", (0.0, 0.0, 0.0, 1 / 6, 0.0, 0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_tolerance_holds_for_the_farthest_voxel(field: str, step: tuple[float, ...]) -> None:
    def moved(mm: float) -> Grid:
        values = tuple(v + mm * s for v, s in zip(getattr(GRID, field), step, strict=True))
        return replace(GRID, **{field: values})

    require_same_grid(GRID, moved(0.9e-3), "CT", "PET")
    with pytest.raises(InputError, match=r"CT and PET must lie on one grid.*0\.0011 mm apart"):
        require_same_grid(GRID, moved(1.1e-3), "CT", "PET")
    require_same_grid(GRID, moved(1.1e-3), "CT", "PET", tolerance_mm=2e-3)


def test_flipped_direction_is_refused_though_all_else_is_equal() -> None:
    with pytest.raises(InputError, match="12 mm apart"):
        require_same_grid(GRID, replace(GRID, direction=(1.0, *GRID.direction[1:])), "CT", "PET")


def test_undefined_geometry_is_refused() -> None:
    with pytest.raises(InputError, match="nan"):
        require_same_grid(GRID, replace(GRID, origin_xyz=(math.nan, 0.0, 0.0)), "CT", "PET")


def test_message_holds_both_names_and_values() -> None:
    with pytest.raises(InputError) as caught:
        require_same_grid(GRID, replace(GRID, spacing_xyz=(2.0, 2.5, 3.5)), "CT abc.mha", "PET def.mha")
    for part in ("CT abc.mha", "PET def.mha", "(2.0, 2.5, 3.0)", "(2.0, 2.5, 3.5)"):
        assert part in str(caught.value)


def test_places_and_indices_of_a_flipped_grid() -> None:
    # -2 mm and -2.5 mm and 3 mm for a step along x, y, z
    assert GRID.to_physical([[0, 0, 0], [1, 2, 1.5]]).tolist() == [[10, 20, -30], [8, 15, -25.5]]
    assert GRID.to_index([[8, 15, -25.5]]).tolist() == [[1, 2, 1.5]]


class TestWrite:
    @pytest.mark.parametrize("ending", [".mha", ".nii", ".nii.gz", ".nrrd"])
    @pytest.mark.parametrize("kind", [np.uint8, np.int16, np.uint16, np.float32])
    def test_what_is_written_is_read_again(self, tmp_path: Path, ending: str, kind: type) -> None:
        path = tmp_path / f"volume{ending}"
        volume = Volume((np.arange(24).reshape(2, 3, 4) * 1.5).astype(kind), GRID)
        volume.write(path)
        found = Volume.read(str(path))
        assert found.array.dtype == kind
        assert np.array_equal(found.array, volume.array)
        assert found.grid == GRID
        assert list(tmp_path.iterdir()) == [path]

    def test_its_name_may_be_as_long_as_names_can_be(self, tmp_path: Path) -> None:
        path = tmp_path / f"{'m' * 251}.mha"
        Volume(np.ones((2, 3, 4), np.uint8), GRID).write(path)
        assert [found.name for found in tmp_path.iterdir()] == [path.name]

    def test_it_is_written_compressed_whole_and_readable_by_all(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.mha"
        previous = os.umask(0o077)
        try:
            MASK.write(path)
        finally:
            os.umask(previous)
        image = sitk.ReadImage(str(path))
        assert image.GetPixelID() == sitk.sitkUInt8
        assert Grid.from_image(image) == MASK.grid
        assert np.array_equal(sitk.GetArrayFromImage(image), MASK.array)
        assert b"CompressedData = True" in path.read_bytes()
        assert stat.S_IMODE(path.stat().st_mode) == 0o644
        assert list(tmp_path.iterdir()) == [path]

    def test_values_that_are_no_number_are_kept(self, tmp_path: Path) -> None:
        array = np.where(MASK.array, np.nan, np.inf).astype(np.float32)
        Volume(array, GRID).write(tmp_path / "logit.mha")
        np.testing.assert_array_equal(Volume.read(tmp_path / "logit.mha").array, array)

    def test_it_replaces_an_older_file(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.mha"
        path.write_text("old")
        MASK.write(path)
        assert sitk.ReadImage(str(path)).GetSize() == (4, 3, 2)

    @pytest.mark.parametrize(
        "name", ["mask.tif", "mask.mhd", "mask.img", "mask.png", "mask.xyz", "mask", "mask.gz", "mask.MHA"]
    )
    def test_forms_without_geometry_or_of_several_files_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(InputError, match=rf"{name}: expected a file to write that ends in \.mha, .*, found {name}"):
            MASK.write(tmp_path / name)
        assert list(tmp_path.iterdir()) == []

    def test_failure_after_writing_leaves_nothing(self, tmp_path: Path) -> None:
        path = tmp_path / "mask.mha"
        path.mkdir()  # a file cannot replace it
        with pytest.raises(InputError, match=f"{tmp_path}: expected a folder that user {os.getuid()} can write"):
            MASK.write(path)
        assert list(tmp_path.iterdir()) == [path]

    def test_failure_while_writing_leaves_nothing(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def run_full(_: sitk.Image, name: str, **__: object) -> None:
            Path(name).write_bytes(b"half a mask")
            raise RuntimeError("disk full")

        monkeypatch.setattr(sitk, "WriteImage", run_full)
        with pytest.raises(InputError, match="disk full"):
            MASK.write(tmp_path / "mask.mha")
        assert list(tmp_path.iterdir()) == []

    def test_half_a_file_that_itk_takes_for_whole_leaves_nothing_and_keeps_the_older_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        write = sitk.WriteImage
        MASK.write(tmp_path / "mask.mha")
        older = (tmp_path / "mask.mha").read_bytes()

        def run_full(image: sitk.Image, name: str, **options: object) -> None:
            write(image, name, **options)
            content = Path(name).read_bytes()
            Path(name).write_bytes(content[: len(content) - 5])

        monkeypatch.setattr(sitk, "WriteImage", run_full)
        for path in (tmp_path / "mask.mha", tmp_path / "new.mha"):
            with pytest.raises(InputError, match=rf"expected room for .*{path.name}, found a full disk"):
                Volume(1 - MASK.array, MASK.grid).write(path)
        assert list(tmp_path.iterdir()) == [tmp_path / "mask.mha"]
        assert (tmp_path / "mask.mha").read_bytes() == older

    def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="none: expected a folder"):
            MASK.write(tmp_path / "none" / "mask.mha")


class TestRead:
    def test_missing_file_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.mha: expected an image, found: .*does not exist"):
            Volume.read(tmp_path / "none.mha")

    @pytest.mark.parametrize("name", ["mask.mha", "mask.nii.gz", "mask.xyz"])
    def test_file_that_is_no_image_is_refused(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).write_text("SUV 1, 2, 3")
        with pytest.raises(InputError, match=f"{name}: expected an image.*, found") as caught:
            Volume.read(tmp_path / name)
        assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("image", "found"),
    [
        (sitk.Compose([MASK.to_image(), MASK.to_image()]), "3-D with 2"),
        (sitk.Compose(*[MASK.to_image()] * 3), "3-D with 3"),
        (MASK.to_image()[:, :, 1], "2-D with 1"),
    ],
    ids=["two values", "colours", "2-D"],
)
@pytest.mark.parametrize("pixel_type", [sitk.sitkUnknown, sitk.sitkFloat32], ids=["own type", "float"])
def test_several_values_per_voxel_are_not_made_one(
    tmp_path: Path, image: sitk.Image, found: str, pixel_type: int
) -> None:
    sitk.WriteImage(image, str(tmp_path / "image.mha"))
    with pytest.raises(InputError, match=f"image.mha: expected a 3-D image with one value per voxel, found {found}"):
        read_image(tmp_path / "image.mha", pixel_type)
