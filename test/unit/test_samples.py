"""Sample cases of Task 2 whose one scan comes in two halves; those of real patients."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lesionclick.errors import InputError
from lesionclick.evaluation.samples import Visits, make_visits, write_longitudinal_sample, write_real_sample
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.images import Grid, Volume
from lesionclick.longitudinal.case import LongitudinalCase

GRID = Grid((24, 22, 30), (4.0, 4.0, 5.0), (-30.0, 12.0, 7.0))
MIDDLE = 15
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def visits() -> Visits:
    """Two lesions below the middle and one above it, which reaches down to it."""
    lesions = np.zeros(GRID.shape_zyx, dtype=np.uint8)
    lesions[3:7, 5:9, 5:9] = lesions[4:8, 14:18, 14:18] = lesions[14:18, 9:13, 10:14] = 1
    ct = np.where(lesions, 120.0, 40.0) + np.random.default_rng(0).normal(size=lesions.shape)
    return make_visits(Volume(ct.astype(np.float32), GRID), Volume(lesions, GRID), seed=1)


def write(visits: Visits, folder: Path, halved: str) -> LongitudinalCase:
    write_longitudinal_sample([visits], "test", folder / "case", folder / "labels", halved=halved)
    return LongitudinalCase.read(CaseFolder.open(folder / "case"))


def places(scans) -> list[tuple[float, ...]]:
    """Number and place in mm of each lesion."""
    found = [(n, *scan.ct.grid.to_physical(p)[0]) for scan in scans for n, p in scan.points.items()]
    return sorted(found)


def test_a_case_is_not_written_into_another(visits, tmp_path):
    """Two images would lie at each socket, which nobody can read."""
    write(visits, tmp_path, "baseline")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(InputError, match="expected a new case folder, found a case"):
        write(visits, tmp_path, "followup")
    assert sorted(tmp_path.rglob("*")) == before


def test_a_halved_baseline_has_all_lesions_at_their_places(visits, tmp_path):
    case = write(visits, tmp_path, "baseline")
    assert [scan.region for scan in case.baselines] == ["primary", "secondary"]
    assert [scan.region for scan in case.followups] == ["primary"]
    assert np.array(places(case.baselines)) == pytest.approx(np.array(places([visits.baseline])))
    upper, lower = (scan.lesions.array for scan in case.baselines)
    assert (np.concatenate([lower, upper]) == visits.baseline.lesions.array).all()
    for scan in case.baselines:
        assert set(np.unique(scan.lesions.array)) - {0} == set(scan.points)


def test_a_halved_followup_has_a_label_for_each_half(visits, tmp_path):
    case = write(visits, tmp_path, "follow-up")
    assert [scan.region for scan in case.baselines] == ["primary"]
    assert [scan.region for scan in case.followups] == ["primary", "secondary"]
    assert np.array(places(case.followups)) == pytest.approx(np.array(places([visits.followup])))
    labels = [Volume.read(tmp_path / "labels" / f"{scan.region}.mha") for scan in case.followups]
    assert [label.grid for label in labels] == [scan.ct.grid for scan in case.followups]
    assert (np.concatenate([labels[1].array, labels[0].array]) == visits.label.array).all()
    assert all(
        set(np.unique(label.array)) - {0} == set(f.points) for label, f in zip(labels, case.followups, strict=True)
    )


def test_the_cut_is_the_level_nearest_to_the_middle_without_a_lesion(visits, tmp_path):
    free = [z for z, level in enumerate(visits.baseline.lesions.array) if not level.any()]
    nearest = min(abs(z - MIDDLE) for z in free)
    _, lower = write(visits, tmp_path, "baseline").baselines
    assert abs(len(lower.lesions.array) - MIDDLE) == nearest > 0


@pytest.mark.parametrize("free", [[], [0]])
def test_lesions_in_all_levels_leave_none_to_cut_at(visits, tmp_path, free):
    lesions = np.ones(GRID.shape_zyx, dtype=np.uint16)
    lesions[free] = 0
    full = replace(visits, baseline=replace(visits.baseline, lesions=Volume(lesions, GRID)))
    with pytest.raises(InputError, match="expected a level without a lesion"):
        write(full, tmp_path, "baseline")


def test_lesions_above_255_keep_their_numbers(visits, tmp_path):
    def renumbered(volume: Volume) -> Volume:
        return Volume(np.where(volume.array == 1, 300, volume.array).astype(np.uint16), GRID)

    many = replace(
        visits,
        baseline=replace(visits.baseline, lesions=renumbered(visits.baseline.lesions)),
        label=renumbered(visits.label),
    )
    write_longitudinal_sample([many], "test", tmp_path / "case", tmp_path / "labels")
    (label,) = (tmp_path / "labels").iterdir()
    case = LongitudinalCase.read(CaseFolder.open(tmp_path / "case"))
    assert 300 in Volume.read(label).array
    assert 300 in case.baselines[0].lesions.array


@pytest.mark.parametrize("name", ["sts_002", "sts_044"])
def test_a_real_sample_is_made_again_from_its_images(name: str, tmp_path: Path) -> None:
    sample, crop = ROOT / "test/input" / name, tmp_path / name.upper()
    crop.mkdir()
    for kind in ("ct", "pet"):
        shutil.copy(next((sample / "images" / kind).iterdir()), crop / f"{kind}.mha")
    shutil.copy(ROOT / "test/labels" / f"{name}.mha", crop / "label.mha")
    write_real_sample(crop, tmp_path / "case", tmp_path / "label.mha")
    files = [path.relative_to(sample) for path in sample.rglob("*") if path.is_file()]
    assert len(files) == 4
    for file in files:
        written, expected = tmp_path / "case" / file, sample / file
        if file.suffix == ".json":
            assert json.loads(written.read_text()) == json.loads(expected.read_text())
        else:
            assert_same_image(written, expected)
    assert_same_image(tmp_path / "label.mha", crop / "label.mha")


def assert_same_image(path: Path, expected: Path) -> None:
    ours, wanted = Volume.read(path), Volume.read(expected)
    assert ours.grid == wanted.grid
    assert ours.array.dtype == wanted.array.dtype
    assert (ours.array == wanted.array).all()


def test_a_full_disk_leaves_no_part_of_an_image(
    visits: Visits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ITK writes what there is room for, and may not notice."""
    monkeypatch.setattr("SimpleITK.WriteImage", lambda _image, path, **_: Path(path).write_bytes(b"half"))
    with pytest.raises(InputError, match="found a full disk"):
        write_longitudinal_sample([visits], "a case", tmp_path / "case")
    assert not list(tmp_path.rglob("*.mha"))
