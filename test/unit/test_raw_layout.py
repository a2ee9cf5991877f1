"""A raw data set is checked before it is prepared: its name, channels, files and split."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lesionclick.errors import InputError
from lesionclick.training.raw_layout import require_raw_set

CHANNELS = ("CT", "PET")


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Two cases, whose files are empty: no image is read."""
    folder = tmp_path / "Dataset001_A"
    for path in ("imagesTr/{}_0000", "imagesTr/{}_0001", "labelsTr/{}"):
        for case in ("a", "b_0000"):
            file = folder / f"{path.format(case)}.nii.gz"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
    write(folder / "dataset.json", {"channel_names": {"0": "CT", "1": "PET"}, "file_ending": ".nii.gz"})
    write(folder / "splits_final.json", [{"train": ["a", "a"], "val": ["b_0000"]}])
    return folder


def write(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def test_a_whole_data_set_is_taken_with_names_of_its_own(dataset: Path) -> None:
    require_raw_set(dataset, "task1", CHANNELS)
    write(dataset / "dataset.json", {"channel_names": {"0": "ct, soft kernel", "1": "SUV"}})
    require_raw_set(dataset, "task1", CHANNELS)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda d: (d / "dataset.json").write_text("{"), "dataset.json: expected a JSON file"),
        (lambda d: write(d / "dataset.json", []), "dataset.json: expected an object with channel_names"),
        (lambda d: write(d / "dataset.json", {"channel_names": {"0": "PET", "1": "CT"}}), "found PET, CT"),
        (lambda d: write(d / "dataset.json", {"channel_names": {"0": "CT"}}), "CT, PET for task1, found CT"),
        (lambda d: (d / "imagesTr/a_0001.nii.gz").unlink(), "1 missing: .*a_0001.nii.gz"),
        (lambda d: (d / "imagesTr/a_0000.nii.gz").unlink(), "1 missing: .*a_0000.nii.gz"),
        (lambda d: (d / "labelsTr/b_0000.nii.gz").unlink(), "1 missing: .*labelsTr/b_0000.nii.gz"),
        (lambda d: (d / "splits_final.json").write_text("[{]"), "splits_final.json: expected a list of folds"),
        (lambda d: write(d / "splits_final.json", [{"train": ["a"], "val": ["c"]}]), "names of cases .* found 'c'"),
        (
            lambda d: write(d / "dataset.json", {"channel_names": {"0": "CT", "1": "PET"}, "file_ending": ".mha"}),
            "none",
        ),
    ],
)
def test_what_is_broken_is_named(dataset: Path, spoil: Callable[[Path], object], message: str) -> None:
    spoil(dataset)
    with pytest.raises(InputError, match=message):
        require_raw_set(dataset, "task1", CHANNELS)


def test_a_folder_without_a_number_is_refused(dataset: Path) -> None:
    with pytest.raises(InputError, match="DatasetX_A: expected a folder Dataset<NNN>_<Name>"):
        require_raw_set(dataset.rename(dataset.with_name("DatasetX_A")), "task1", CHANNELS)
