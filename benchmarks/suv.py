"""SUV of one real PET whose header is told in other ways, by this package and by three libraries, as a markdown table.

    python benchmarks/suv.py ../shared/data/dicom/STS_041

A cell is the largest deviation from the known SUV, in per cent of it, or the error. z-rad, MIRP and pysuv take part
where they are installed; MIRP's public functions want a mask, so that its reader of single PET slices is called.
"""

import argparse
import copy
import logging
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom import Dataset, dcmread

from lesionclick.dicom.series import Series
from lesionclick.dicom.study import find_pet, read_suv

sys.path.insert(0, str(Path(__file__).parents[1] / "test"))

from helpers.dicom_variants import VARIANTS, Variant


def lesionclick(paths: list[Path]) -> NDArray[np.floating]:
    """Read by this package."""
    return read_suv(find_pet(paths[0].parent)).array


def zrad(paths: list[Path]) -> NDArray[np.floating]:
    """Read by z-rad, after its checks."""
    from zrad.io.pet_suv import apply_suv_correction, validate_pet_dicom_tags

    files = [{"file_path": path, "ds": dcmread(path)} for path in paths]
    validate_pet_dicom_tags(files)
    rows, columns = files[0]["ds"].Rows, files[0]["ds"].Columns
    return sitk.GetArrayFromImage(apply_suv_correction(files, sitk.Image(columns, rows, len(files), sitk.sitkFloat64)))


def mirp(paths: list[Path]) -> NDArray[np.floating]:
    """Read by MIRP, slice by slice."""
    from mirp._data_import.dicom_file_pet import ImageDicomFilePT

    slices = []
    for path in paths:
        one = ImageDicomFilePT(file_path=str(path), image_modality="pet", image_file_type="dicom")
        one.load_data()
        slices.append(np.squeeze(one.image_data))
    return np.stack(slices)


def pysuv(paths: list[Path]) -> NDArray[np.floating]:
    """Read by pysuv, slice by slice."""
    from pysuv import compute_suv

    return np.stack([compute_suv(path) for path in paths])


READERS = (lesionclick, zrad, mirp, pysuv)


def compare(read: Callable[[list[Path]], NDArray[np.floating]], paths: list[Path], known: NDArray[np.floating]) -> str:
    """Return a cell of the table."""
    try:
        found = read(paths)
    except ModuleNotFoundError:
        return "not installed"
    except Exception as error:
        return " ".join(f"{type(error).__name__}: {error}".split())[:70]
    hot = known > 0.1
    return f"{100 * np.abs(found[hot] / known[hot] - 1).max():.4f}"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path)
    source = find_pet(parser.parse_args().study)
    known = read_suv(source).array
    warnings.simplefilter("ignore")
    logging.disable()
    print("| header | " + " | ".join(read.__name__ for read in READERS) + " |\n| --- |" + " --- |" * len(READERS))
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            paths = write(variant, source, Path(folder))
            cells = [compare(read, paths, known) for read in READERS]
        print(f"| {variant.__name__} | " + " | ".join(cells) + " |")


def write(variant: Variant, source: Series, folder: Path) -> list[Path]:
    """Write the variant's files and return their paths in the order of the slices."""
    slices: list[Dataset] = [copy.deepcopy(dcmread(str(header.filename))) for header in source.slices]
    variant(slices)
    paths = [folder / f"{index:03}.dcm" for index in range(len(slices))]
    for dataset, path in zip(slices, paths, strict=True):
        dataset.save_as(path)
    return paths


if __name__ == "__main__":
    main()
