"""Studies of tiny series: what becomes a case, and what is refused."""

import copy
import os
from pathlib import Path

import numpy as np
import pytest
from helpers.dicom_series import GRID, SUV_PER_BQML, ct_slices, pet_slices, uid, write
from helpers.dicom_variants import VARIANTS
from pydicom import Dataset, dcmread
from pydicom.datadict import tag_for_keyword
from pydicom.uid import EnhancedPETImageStorage

from lesionclick.cli import main
from lesionclick.dicom.study import find_pet, is_dicom_folder, read_study
from lesionclick.dicom.suv import suv_factor
from lesionclick.errors import InputError
from lesionclick.images import Grid, Volume, require_same_grid
from lesionclick.prompts.points import Prompts
from lesionclick.tasks import read_case

STORED = np.random.default_rng(5).integers(0, 9000, GRID.shape_zyx).astype(np.int16)
HU = np.full(GRID.shape_zyx, 1064, dtype=np.int16)
OBLIQUE = (0.8, 0.0, -0.6, 0.0, 1.0, 0.0, 0.6, 0.0, 0.8)
GRIDS = {
    "identity": GRID,
    "flipped": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)),
    "feet first": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), (-1, 0, 0, 0, 1, 0, 0, 0, -1)),
    "oblique": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), OBLIQUE),
    "coronal": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), (1, 0, 0, 0, 0, 1, 0, -1, 0)),
}


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write(pet_slices(STORED), tmp_path / "study" / "pet")
    write(ct_slices(HU), tmp_path / "study" / "ct")
    return tmp_path / "study"


def rewrite(study: Path, slices: list[Dataset], name: str = "pet") -> Path:
    for path in (study / name).iterdir():
        path.unlink()
    write(slices, study / name)
    return study


def test_a_study_becomes_a_case_in_suv_and_hu(study):
    read = read_study(study)
    np.testing.assert_allclose(read.case.pet.array, STORED * 2 * SUV_PER_BQML, rtol=1e-6)
    assert (read.case.ct.array == 40).all()
    assert read.case.pet.grid == read.case.ct.grid == GRID
    assert [one.InstanceNumber for one in read.pet.slices] == [1, 2, 3, 4]
    assert read.case.prompts == Prompts()


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_every_slice_lies_where_its_header_says(tmp_path, grid):
    write(pet_slices(STORED, grid), tmp_path / "pet", ["c", "a", "d", "b"])
    write(ct_slices(HU, grid), tmp_path / "ct")
    case = read_study(tmp_path).case
    require_same_grid(case.pet, grid, "read", "made")
    np.testing.assert_allclose(case.pet.array, STORED * 2 * SUV_PER_BQML, rtol=1e-6)


def test_slices_are_sorted_by_position_whatever_their_names_and_numbers(study):
    shuffled = [pet_slices(STORED)[index] for index in (2, 0, 3, 1)]
    for number, dataset in enumerate(shuffled):
        dataset.InstanceNumber = number
    np.testing.assert_allclose(
        read_study(rewrite(study, shuffled)).case.pet.array, STORED * 2 * SUV_PER_BQML, rtol=1e-6
    )


def test_each_slice_has_its_own_slope(study):
    slices = pet_slices(STORED)
    for dataset, slope in zip(slices, (1, 2, 3, 0.5), strict=True):
        dataset.RescaleSlope = slope
    expected = STORED * np.array([1, 2, 3, 0.5]).reshape(4, 1, 1) * SUV_PER_BQML
    np.testing.assert_allclose(read_study(rewrite(study, slices)).case.pet.array, expected, rtol=1e-6)


def test_the_ct_is_resampled_to_the_pet(study):
    fine = Grid((24, 20, 9), (1.0, 1.0, 1.5), (-10.0, -20.0, 100.0))
    ramp = 10 * np.arange(24, dtype=np.int16) + np.zeros(fine.shape_zyx, dtype=np.int16)
    read = read_study(rewrite(study, ct_slices(ramp, fine), "ct"))
    expected = 10 * 4.0 * np.arange(6) - 1024
    np.testing.assert_allclose(read.case.ct.array, np.broadcast_to(expected, GRID.shape_zyx), atol=1e-3)
    assert read.ct.grid == fine


def test_a_ct_that_ends_early_is_followed_by_air(study):
    read = read_study(rewrite(study, ct_slices(HU[:2], Grid((6, 5, 2), *_geometry(GRID))), "ct"))
    assert (read.case.ct.array[:2] == 40).all()
    assert (read.case.ct.array[2:] == -1000).all()


def _geometry(grid: Grid) -> tuple[tuple[float, ...], tuple[float, ...], tuple[float, ...]]:
    return grid.spacing_xyz, grid.origin_xyz, grid.direction


def test_padding_of_a_ct_is_air(study):
    padded = HU.copy()
    padded[:, 0, 0] = -2000
    assert (read_study(rewrite(study, ct_slices(padded), "ct")).case.ct.array[:, 0, 0] == -1024).all()


@pytest.mark.parametrize(
    ("representation", "stored", "told"),
    [
        (1, -1500, {"PixelPaddingValue": -1500}),
        (1, 20000, {"PixelPaddingValue": 20000}),
        (0, 63536, {"PixelPaddingValue": 63536}),
        (0, 63536, {"PixelPaddingValue": 63000, "PixelPaddingRangeLimit": 64000}),
    ],
)
def test_what_the_header_of_a_ct_calls_padding_is_air_whatever_it_holds(study, representation, stored, told):
    padded = HU.astype(np.int64)
    padded[:, 0, 0] = stored
    made = ct_slices(padded.astype(np.uint16).view(np.int16), PixelRepresentation=representation)
    for dataset in made:
        for keyword, value in told.items():
            dataset.add_new(tag_for_keyword(keyword), "SS" if representation else "US", value)
    read = read_study(rewrite(study, made, "ct")).case.ct.array
    assert (read[:, 0, 0] == -1024).all()
    assert (read[:, 2:, 2:] == 40).all()


def test_slices_without_a_preamble_are_read(study):
    """As exports of old archives have them; a slice that is passed over would be air."""
    for kind in ("ct", "pet"):
        last = sorted((study / kind).iterdir())[-1]
        dataset = dcmread(last)
        content = last.read_bytes()
        begin = content.index(b"\x08\x00\x16\x00UI")  # SOP Class UID, the first attribute
        last.write_bytes(content[begin:])
        assert dcmread(last, force=True).ImagePositionPatient == dataset.ImagePositionPatient
    assert is_dicom_folder(study)
    assert read_study(study).case.pet.grid.shape_zyx == GRID.shape_zyx
    cut = sorted((study / "ct").iterdir())[-1]
    whole = cut.read_bytes()
    cut.write_bytes(whole[:300])
    with pytest.raises(InputError, match=rf"{cut.name}: expected"):
        read_study(study)
    cut.write_bytes(whole)
    (study / "ct" / "notes.bin").write_bytes(b"\x08\x00" + bytes(range(256)))
    np.testing.assert_array_equal(read_study(study).case.ct.array, 40)


def test_a_ct_in_other_units_is_refused_and_in_unspecified_ones_told(study, caplog):
    with pytest.raises(InputError, match=r"expected a CT in HU, found Rescale Type \(0028,1054\) MGML"):
        read_study(rewrite(study, ct_slices(HU, RescaleType="MGML"), "ct"))
    assert (read_study(rewrite(study, ct_slices(HU, RescaleType="US"), "ct")).case.ct.array == 40).all()
    assert "found unspecified units in Rescale Type" in caplog.text


def test_numbers_in_the_header_that_are_none_are_refused(study):
    with pytest.raises(InputError, match=r"Rescale Slope \(0028,1053\) to be a number above 0, found '-2.0'"):
        read_study(rewrite(study, pet_slices(STORED, RescaleSlope=-2)))


def _without(index: int) -> list[Dataset]:
    return [one for number, one in enumerate(pet_slices(STORED)) if number != index]


def _moved(index: int, **changes: object) -> list[Dataset]:
    slices = pet_slices(STORED)
    for keyword, value in changes.items():
        setattr(slices[index], keyword, value)
    return slices


@pytest.mark.parametrize(
    ("slices", "message"),
    [
        (_without(2), r"expected slices every .* found 6 mm between these .* a slice is missing"),
        (_without(3), r"expected 4 slices as Number of Slices \(0054,0081\) says, found 3"),
        (_moved(1, ImagePositionPatient=[-10, -20, 100]), r"001.dcm: expected one slice at each place"),
        (_moved(2, ImagePositionPatient=[-10, -18, 106]), r"002.dcm: expected the slices in line along their normal"),
        (_moved(3, ImageOrientationPatient=[0, 1, 0, 1, 0, 0]), r"one Image Orientation \(Patient\) \(0020,0037\)"),
        (pet_slices(STORED, FrameOfReferenceUID=None), r"Frame of Reference UID \(0020,0052\), found none"),
        (_moved(3, FrameOfReferenceUID=uid("other")), r"one Frame of Reference UID \(0020,0052\)"),
        (_moved(3, Rows=3, Columns=10), r"one Rows \(0028,0010\)"),
        (_moved(3, PixelSpacing=[4, 4]), r"one Pixel Spacing \(0028,0030\)"),
        (_moved(0, ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), r"one Image Orientation"),
        (_moved(3, RescaleSlope=""), r"Rescale Slope \(0028,1053\), found none"),
        (_moved(3, PixelData=b"\0" * 10), r"003.dcm: expected pixels that pydicom can decode"),
        (pet_slices(STORED[:1], NumberOfSlices=1), r"expected a series of at least two slices"),
        (pet_slices(STORED, ImageOrientationPatient=[1, 0, 0, 0.6, 0.8, 0]), r"two directions at right angles"),
        (
            pet_slices(STORED, SOPClassUID=EnhancedPETImageStorage),
            r"found Enhanced PET Image Storage, which is not supp",
        ),
        (pet_slices(STORED, FrameOfReferenceUID=uid("other")), r"expected a CT with the PET's Frame of Reference UID"),
        ([], r"expected one PET series; found none"),
    ],
)
def test_what_is_not_one_whole_series_is_refused(study, slices, message):
    with pytest.raises(InputError, match=message):
        read_study(rewrite(study, slices))


def test_several_series_are_listed_and_one_is_chosen(study):
    write(pet_slices(STORED // 2, SeriesNumber=5, SeriesDescription="PET NAC", CorrectedImage=["DECY"]), study / "nac")
    write(pet_slices(STORED // 2, SeriesNumber=6, SeriesDescription="PET thin"), study / "thin")
    with pytest.raises(InputError) as refused:
        read_study(study)
    first, *listed = str(refused.value).splitlines()
    assert first.endswith("expected one PET series; choose one with --pet NUMBER|UID; found:")
    assert [line.split(",")[0].strip() for line in sorted(listed)] == ["4: PET AC", "5: PET NAC", "6: PET thin"]
    assert "corrected for DECY," in sorted(listed)[1]
    for choice in ("6", uid("series 6")):
        assert read_study(study, pet=choice).case.pet.array.max() == pytest.approx(
            (STORED // 2).max() * 2 * SUV_PER_BQML
        )
    with pytest.raises(InputError, match="the number or UID 9"):
        read_study(study, pet="9")


def test_cts_elsewhere_and_localizers_are_not_taken(study):
    write(ct_slices(HU + 10, SeriesNumber=7, FrameOfReferenceUID=uid("other")), study / "other day")
    write(ct_slices(HU[:1], SeriesNumber=8, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]), study / "scout")
    assert (read_study(study).case.ct.array == 40).all()
    with pytest.raises(InputError, match="nothing tells how they lie to each other"):
        read_study(study, ct="7")
    write(ct_slices(HU + 10, SeriesNumber=9), study / "second")
    with pytest.raises(InputError, match="expected one CT series; choose one with --ct"):
        read_study(study)
    assert (read_study(study, ct="9").case.ct.array == 50).all()


def test_other_files_are_passed_over(study):
    (study / "README.txt").write_text("no DICOM")
    (study / "empty").touch()
    (study / "pet" / "report").write_bytes(b"\0" * 200)
    assert read_study(study).pet.grid == GRID


def test_a_dicom_file_that_was_cut_off_is_refused(study):
    whole = (study / "pet" / "002.dcm").read_bytes()
    for kept, message in ((300, "a slice is missing"), (len(whole) - 20, "002.dcm: expected pixels")):
        (study / "pet" / "002.dcm").write_bytes(whole[:kept])
        with pytest.raises(InputError, match=message):
            read_study(study)


def test_a_dicom_folder_is_told_from_others(study, tmp_path):
    assert is_dicom_folder(study)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.txt").write_text("a")
    assert not is_dicom_folder(tmp_path / "other")
    assert not is_dicom_folder(tmp_path / "none")


def test_a_value_that_cannot_be_read_is_refused(study):
    path = study / "pet" / "002.dcm"
    path.write_bytes(path.read_bytes().replace(b"\x08\x00\x3e\x10LO", b"\x08\x00\x3e\x10NO"))
    read_study(study)  # which wants the description only to list several
    path.write_bytes(path.read_bytes().replace(b"\x54\x00\x01\x10CS", b"\x54\x00\x01\x10NO"))
    with pytest.raises(InputError, match=r"002.dcm: expected a readable Units \(0054,1001\), found Unknown Value"):
        read_study(study)


def test_a_slice_is_no_image(study, tmp_path, capsys):
    slices = [str(study / kind / "000.dcm") for kind in ("ct", "pet")]
    assert main(["import", *slices, str(tmp_path / "case")]) == 1
    assert "000.dcm: expected an image such as NIfTI, found a DICOM file: import its folder" in capsys.readouterr().err


def test_import_writes_a_case_that_the_algorithm_reads(study, tmp_path, capsys):
    case = tmp_path / "cases" / "new"
    assert main(["import", str(study), str(case)]) == 0
    assert capsys.readouterr().out == f"{case}\n"
    read = read_case(case)
    expected = read_study(study).case
    np.testing.assert_array_equal(read.pet.array, expected.pet.array)
    np.testing.assert_array_equal(read.ct.array, expected.ct.array)
    assert len(read.prompts) == 0
    assert main(["import", str(study), str(case)]) == 1
    assert "expected a new folder" in capsys.readouterr().err
    assert os.listdir(case.parent) == ["new"]


def test_import_leaves_nothing_where_it_fails(study, tmp_path, capsys):
    assert main(["import", str(rewrite(study, _without(2))), str(tmp_path / "cases" / "new")]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "a slice is missing" in line
    assert not (tmp_path / "cases").exists()


SHARED = Path(__file__).parents[3] / "shared" / "data"


@pytest.mark.skipif(not (SHARED / "dicom").is_dir(), reason="the two real studies lie beside the checkout, if at all")
@pytest.mark.parametrize("name", ["STS_021", "STS_041"])
def test_real_studies_import_to_the_known_voxels(name):
    case = read_study(SHARED / "dicom" / name).case
    pet, ct = (Volume.read(SHARED / "sts" / name / f"{kind}.mha") for kind in ("pet", "ct"))
    require_same_grid(case.pet, pet, "imported", "known", tolerance_mm=1e-3)
    np.testing.assert_allclose(case.pet.array, pet.array, rtol=1e-6, atol=1e-6)  # float32 on both sides
    assert np.abs(case.ct.array - ct.array).max() < 0.502  # the known CT is rounded to whole HU


@pytest.mark.skipif(not (SHARED / "dicom").is_dir(), reason="the two real studies lie beside the checkout, if at all")
@pytest.mark.filterwarnings("ignore:The value length:UserWarning")
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_real_pet_told_in_another_way_has_the_same_suv(variant):
    pet = find_pet(SHARED / "dicom" / "STS_041")
    slices = [copy.deepcopy(dataset) for dataset in pet.slices]
    variant(slices)
    factor = suv_factor(slices)
    told = [float(dataset.RescaleSlope) * factor for dataset in slices]
    assert told == pytest.approx([float(dataset.RescaleSlope) for dataset in pet.slices], rel=1e-5)
