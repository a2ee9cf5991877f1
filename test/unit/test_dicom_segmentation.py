"""Segmentations and reports, read back by highdicom and by dcmqi, which shares no code with it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import highdicom
import numpy as np
import pytest
import SimpleITK as sitk
from helpers.dicom_series import GRID, ct_slices, pet_slices, write
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.sr.codedict import codes

from lesionclick.cli import main
from lesionclick.dicom.report import SUVBW, write_report
from lesionclick.dicom.segmentation import write_segmentation
from lesionclick.dicom.series import Series
from lesionclick.dicom.study import find_pet, read_study
from lesionclick.errors import InputError
from lesionclick.images import Grid, Volume
from lesionclick.petct.quantification import quantify

GRIDS = {
    "identity": GRID,
    "flipped": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), (-1, 0, 0, 0, -1, 0, 0, 0, 1)),
    "feet first": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), (-1, 0, 0, 0, 1, 0, 0, 0, -1)),
    "oblique": Grid(GRID.size_xyz, GRID.spacing_xyz, (5.0, 6.0, 7.0), (0.8, 0, -0.6, 0, 1, 0, 0.6, 0, 0.8)),
}
SHARED = Path(__file__).parents[3] / "shared" / "data"


def stored() -> NDArray[np.int16]:
    """Return a PET that is hottest in three lesions of 7, 3 and 1 voxels, none of them its own mirror image."""
    values = np.random.default_rng(3).integers(100, 1000, GRID.shape_zyx).astype(np.int16)
    values[0, 0, 0:4] = values[1, 0, 1:4] = 6000
    values[2, 2:5, 5] = 9000
    values[3, 4, 0] = 7000
    return values


def labels(grid: Grid = GRID) -> Volume:
    """Return the lesions of `stored` by number; the third has the number 5, as if one had been deleted."""
    numbers = np.zeros(GRID.shape_zyx, dtype=np.int32)
    numbers[0, 0, 0:4] = numbers[1, 0, 1:4] = 1
    numbers[2, 2:5, 5] = 2
    numbers[3, 4, 0] = 5
    return Volume(numbers, grid)


@pytest.fixture
def series(tmp_path: Path) -> Series:
    return find_pet(write(pet_slices(stored()), tmp_path / "pet"))


def read_by_dcmqi(path: Path, grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Return each segment by its label, each voxel put where dcmqi says it lies."""
    folder = path.with_suffix(".dcmqi")
    folder.mkdir()
    program = Path(sys.executable).parent / "segimage2itkimage"
    command = [program, "--inputDICOM", path, "--outputDirectory", folder, "--outputType", "nrrd"]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    told = json.loads((folder / "meta.json").read_text())["segmentAttributes"]
    found = {}
    for segment in (one for group in told for one in group):
        volume = Volume.from_image(sitk.ReadImage(str(folder / f"{segment['labelID']}.nrrd")))
        voxels = grid.to_index(volume.grid.to_physical(np.argwhere(volume.array)[:, ::-1]))
        np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-3)
        found[segment["SegmentLabel"]] = np.zeros(grid.shape_zyx, dtype=bool)
        found[segment["SegmentLabel"]][tuple(np.rint(voxels).astype(int)[:, ::-1].T)] = True
    return found


def read_by_highdicom(path: Path, grid: Grid) -> dict[str, NDArray[np.bool_]]:
    """Return each segment by its label, each voxel put where highdicom says it lies."""
    segmentation = highdicom.seg.segread(path)
    found = {}
    for number in segmentation.segment_numbers:
        volume = segmentation.get_volume(segment_numbers=[number], combine_segments=True)
        voxels = grid.to_index(volume.map_indices_to_reference(np.argwhere(volume.array)))
        np.testing.assert_allclose(voxels, np.rint(voxels), atol=1e-3)
        label = segmentation.get_segment_description(number).segment_label
        found[label] = np.zeros(grid.shape_zyx, dtype=bool)
        found[label][tuple(np.rint(voxels).astype(int)[:, ::-1].T)] = True
    return found


@pytest.mark.parametrize("read", [read_by_dcmqi, read_by_highdicom])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_two_readers_find_the_voxels_of_each_lesion(tmp_path, grid, read):
    pet = find_pet(write(pet_slices(stored(), grid), tmp_path / "pet", ["c", "a", "d", "b"]))
    path = write_segmentation(tmp_path / "lesions.dcm", labels(grid), pet)
    found = read(path, grid)
    assert sorted(found) == ["Lesion 1", "Lesion 2", "Lesion 5"]
    for name, voxels in found.items():
        np.testing.assert_array_equal(voxels, labels().array == int(name.split()[1]))


@pytest.mark.parametrize("read", [read_by_dcmqi, read_by_highdicom])
@pytest.mark.parametrize(
    "changes", [{"SpacingBetweenSlices": mm} for mm in (6, 1, -3, 0)] + [{"SliceThickness": None}], ids=str
)
def test_the_slices_lie_where_positions_say_whatever_else_the_header_tells(tmp_path, changes, read):
    """Scanners write the gap, a sign or nothing as the distance of slices, which are 3 mm apart."""
    pet = find_pet(write(pet_slices(stored(), **changes), tmp_path / "pet"))
    path = write_segmentation(tmp_path / "lesions.dcm", labels(GRID), pet)
    for name, voxels in read(path, GRID).items():
        np.testing.assert_array_equal(voxels, labels().array == int(name.split()[1]))


def test_more_lesions_than_a_byte_counts(tmp_path):
    grid = Grid((32, 34, 2), GRID.spacing_xyz)
    numbers = np.zeros(grid.shape_zyx, dtype=np.int32)
    numbers[0, ::2, ::2] = np.arange(1, 273).reshape(17, 16)
    pet = find_pet(write(pet_slices(np.zeros(grid.shape_zyx, dtype=np.int16), grid), tmp_path / "pet"))
    path = write_segmentation(tmp_path / "lesions.dcm", Volume(numbers, grid), pet)
    segmentation = highdicom.seg.segread(path)
    assert segmentation.number_of_segments == 272
    read = segmentation.get_volume(combine_segments=True).array
    np.testing.assert_array_equal(read[0], numbers[0])


def test_the_segmentation_says_what_it_shows_and_of_which_images(tmp_path, series):
    path = write_segmentation(tmp_path / "lesions.dcm", labels(), series)
    assert path.stat().st_mode & 0o777 == 0o644
    found = dcmread(path)
    pet = series.slices[0]
    for keyword in ("FrameOfReferenceUID", "StudyInstanceUID", "PatientID", "PatientName"):
        assert found[keyword].value == pet[keyword].value, keyword
    (referenced,) = found.ReferencedSeriesSequence
    assert referenced.SeriesInstanceUID == series.uid
    sources = [one.ReferencedSOPInstanceUID for one in referenced.ReferencedInstanceSequence]
    assert sorted(sources) == sorted(one.SOPInstanceUID for one in series.slices)
    segment = found.SegmentSequence[2]
    assert (segment.SegmentNumber, segment.SegmentLabel, segment.SegmentAlgorithmType) == (
        3,
        "Lesion 5",
        "SEMIAUTOMATIC",
    )
    for sequence, code in (
        (segment.SegmentedPropertyCategoryCodeSequence, codes.SCT.MorphologicallyAbnormalStructure),
        (segment.SegmentedPropertyTypeCodeSequence, codes.SCT.Lesion),
    ):
        assert (sequence[0].CodeValue, sequence[0].CodingSchemeDesignator) == (code.value, "SCT")
    for frame in found.PerFrameFunctionalGroupsSequence:
        (source,) = frame.DerivationImageSequence[0].SourceImageSequence
        at = {one.SOPInstanceUID: one.ImagePositionPatient for one in series.slices}[source.ReferencedSOPInstanceUID]
        assert frame.PlanePositionSequence[0].ImagePositionPatient == at


def test_a_study_without_names_and_dates_gets_a_segmentation_and_a_report(tmp_path):
    removed = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex", "AccessionNumber", "StudyID", "StudyTime")
    study = write(pet_slices(stored(), **dict.fromkeys(removed)), tmp_path / "study")
    output, report = export(study)
    assert [dcmread(path).PatientID for path in (output, report)] == ["", ""]
    assert sorted(read_by_dcmqi(output, GRID)) == ["Lesion 1", "Lesion 2", "Lesion 3"]


@pytest.mark.filterwarnings("ignore:Invalid value for VR DA:UserWarning")
@pytest.mark.parametrize(
    "told",
    [
        {"PatientSex": "W"},
        {"PatientBirthDate": "19500000"},
        {"StudyDate": "00000000"},
        {"SpecificCharacterSet": ["", "ISO 2022 IR 87"], "PatientName": "Yamada^Tarou=山田^太郎"},
        {"SpecificCharacterSet": ""},
    ],
    ids=str,
)
def test_what_highdicom_refuses_to_take_over_is_handed_on_as_it_is(tmp_path, told):
    study = write(pet_slices(stored(), **told), tmp_path / "study")
    for path in export(study):
        found = dcmread(path)
        for keyword, value in told.items():
            assert found[keyword].value == value


def test_the_series_stays_as_it_is(tmp_path):
    series = find_pet(write(pet_slices(stored(), SliceThickness=7), tmp_path / "pet"))
    write_segmentation(tmp_path / "lesions.dcm", labels(), series)
    assert {(one.SliceThickness, "SpacingBetweenSlices" in one) for one in series.slices} == {(7, False)}


def test_a_series_of_no_study_or_of_two_has_no_segmentation(tmp_path):
    slices = pet_slices(stored(), StudyInstanceUID=None)
    with pytest.raises(InputError, match=r"expected Study Instance UID \(0020,000D\), found none"):
        write_segmentation(tmp_path / "lesions.dcm", labels(), find_pet(write(slices, tmp_path / "pet")))
    slices = pet_slices(stored())
    slices[2].StudyInstanceUID = "1.2"
    with pytest.raises(InputError, match=r"002.dcm: expected one Study Instance UID \(0020,000D\)"):
        write_segmentation(tmp_path / "lesions.dcm", labels(), find_pet(write(slices, tmp_path / "pet")))


def test_no_lesion_is_refused(tmp_path, series):
    with pytest.raises(InputError, match="expected a lesion to write, found none"):
        write_segmentation(tmp_path / "lesions.dcm", Volume(np.zeros(GRID.shape_zyx, dtype=np.uint8), GRID), series)
    assert os.listdir(tmp_path) == ["pet"]


def test_lesions_on_another_grid_are_refused(tmp_path, series):
    with pytest.raises(InputError, match="lesions and PET must lie on one grid"):
        write_segmentation(tmp_path / "lesions.dcm", labels(GRIDS["flipped"]), series)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, series):
    with pytest.raises(InputError, match="expected a folder that user"):
        write_segmentation(tmp_path / "none" / "lesions.dcm", labels(), series)


@pytest.fixture
def study(tmp_path: Path) -> Path:
    write(pet_slices(stored()), tmp_path / "study" / "pet")
    write(ct_slices(stored()), tmp_path / "study" / "ct")
    return tmp_path / "study"


def export(study: Path) -> tuple[Path, Path]:
    """Export the mask of all lesions and return the files of the segmentation and of the report."""
    mask, output, report = (study.parent / name for name in ("mask.mha", "lesions.dcm", "report.dcm"))
    Volume((labels().array > 0).astype(np.uint8), GRID).write(mask)
    assert main(["export-dicom", str(study), str(mask), "--output", str(output), "--report", str(report)]) == 0
    return output, report


def test_export_refuses_a_mask_that_is_not_finite_and_one_file_for_both(study, tmp_path, capsys):
    mask, output = tmp_path / "mask.mha", str(tmp_path / "lesions.dcm")
    Volume(np.where(labels().array > 0, np.nan, 0), GRID).write(mask)
    assert main(["export-dicom", str(study), str(mask), "--output", output]) == 1
    assert "mask.mha: expected a mask, found voxels that are NaN" in capsys.readouterr().err
    assert main(["export-dicom", str(study), str(mask), "--output", output, "--report", output]) == 1
    assert "expected another file for the report" in capsys.readouterr().err


def test_export_writes_nothing_where_the_report_cannot_be_written(study, tmp_path, capsys):
    (tmp_path / "file").touch()
    mask, output = tmp_path / "mask.mha", tmp_path / "new" / "lesions.dcm"
    Volume((labels().array > 0).astype(np.uint8), GRID).write(mask)
    options = ["--output", str(output), "--report", str(tmp_path / "file" / "report.dcm")]
    assert main(["export-dicom", str(study), str(mask), *options]) == 1
    assert "expected a folder that user" in capsys.readouterr().err
    assert not output.exists()


def test_export_makes_a_segment_of_each_component(study, capsys):
    output, report = export(study)
    assert capsys.readouterr().out.splitlines() == [str(output), str(report)]
    found = read_by_highdicom(output, GRID)
    assert {name: int(voxels.sum()) for name, voxels in found.items()} == {"Lesion 1": 7, "Lesion 2": 3, "Lesion 3": 1}


def test_the_report_holds_the_table_of_lesions_and_points_at_the_segments(study):
    output, report = export(study)
    segments = dcmread(output)
    groups = highdicom.sr.srread(report).content.get_volumetric_roi_measurement_groups()
    expected = quantify(Volume((labels().array > 0).astype(np.uint8), GRID), read_study(study).case.pet).lesions
    assert expected[0].suv_max == pytest.approx(6.0)  # 6000 x 2 Bq/ml, and 2000 Bq/ml are SUV 1
    assert expected[0].volume_ml == pytest.approx(7 * 4 * 4.5 * 3 / 1000)
    for group, lesion, segment in zip(groups, expected, segments.SegmentSequence, strict=True):
        assert group.tracking_uid == segment.TrackingUID
        assert group.reference_type == codes.DCM.ReferencedSegment
        (reference,) = (item for item in group[0].ContentSequence if item.name == codes.DCM.ReferencedSegment)
        (referenced,) = reference.ReferencedSOPSequence
        assert referenced.ReferencedSOPInstanceUID == segments.SOPInstanceUID
        assert referenced.ReferencedSegmentNumber == segment.SegmentNumber
        (volume,) = group.get_measurements(name=codes.SCT.Volume)
        assert volume.value == pytest.approx(lesion.volume_ml)
        assert volume.unit == codes.UCUM.CubicCentimeter
        suv = {one.derivation.meaning: one.value for one in group.get_measurements(name=SUVBW)}
        values = {"Maximum": lesion.suv_max, "Mean": lesion.suv_mean, "Peak Value Within ROI": lesion.suv_peak}
        assert suv == pytest.approx(values)
        (glycolysis,) = group.get_measurements(name=codes.DCM.TotalLesionGlycolysis)
        assert glycolysis.value == pytest.approx(lesion.glycolysis_g)


def test_dcmqi_reads_the_report(study, tmp_path):
    _, report = export(study)
    table = tmp_path / "table.json"
    command = [Path(sys.executable).parent / "tid1500reader", "--inputDICOM", report, "--outputMetadata", table]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    groups = json.loads(table.read_text())["Measurements"]
    maxima = [
        float(item["value"])
        for group in groups
        for item in group["measurementItems"]
        if item.get("derivationModifier", {}).get("CodeMeaning") == "Maximum"
    ]
    assert maxima == pytest.approx([6.0, 9.0, 7.0])


def test_a_report_needs_the_segmentation_of_its_lesions(study, tmp_path):
    output, _ = export(study)
    pet = find_pet(study)
    lesions = quantify(Volume((labels().array > 0).astype(np.uint8), GRID), read_study(study).case.pet).lesions
    write_segmentation(output, Volume((labels().array == 1).astype(np.uint8), GRID), pet)
    with pytest.raises(InputError, match=r"expected a segment for each lesion, found none for \[2, 3\]"):
        write_report(tmp_path / "other.dcm", lesions, output, pet)
    with pytest.raises(InputError, match="expected a DICOM segmentation, found Positron Emission"):
        write_report(tmp_path / "other.dcm", lesions, study / "pet" / "000.dcm", pet)
    with pytest.raises(InputError, match="expected a DICOM segmentation"):
        write_report(tmp_path / "other.dcm", lesions, tmp_path / "mask.mha", pet)
    assert not (tmp_path / "other.dcm").exists()


@pytest.mark.skipif(not (SHARED / "dicom").is_dir(), reason="the two real studies lie beside the checkout, if at all")
@pytest.mark.parametrize("read", [read_by_dcmqi, read_by_highdicom])
@pytest.mark.parametrize("name", ["STS_021", "STS_041"])
def test_the_tumor_of_a_real_study_comes_back(tmp_path, name, read):
    pet = find_pet(SHARED / "dicom" / name)
    label = Volume.read(SHARED / "sts" / name / "label.mha")
    path = write_segmentation(tmp_path / "tumor.dcm", Volume((label.array > 0).astype(np.uint8), label.grid), pet)
    (found,) = read(path, pet.grid).values()
    np.testing.assert_array_equal(found, label.array > 0)
