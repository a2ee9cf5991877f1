"""The series of a study: found, sorted by position, checked for gaps, and read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.misc import is_dicom as is_dicom_file
from pydicom.uid import (
    CTImageStorage,
    EnhancedCTImageStorage,
    EnhancedPETImageStorage,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    LegacyConvertedEnhancedCTImageStorage,
    LegacyConvertedEnhancedPETImageStorage,
    PositronEmissionTomographyImageStorage,
)

from lesionclick.dicom.attributes import attribute, number, required, same_in_all, source, text, vector
from lesionclick.errors import InputError
from lesionclick.images import Grid

IMAGES = {
    "PET": (
        PositronEmissionTomographyImageStorage,
        EnhancedPETImageStorage,
        LegacyConvertedEnhancedPETImageStorage,
    ),
    "CT": (CTImageStorage, EnhancedCTImageStorage, LegacyConvertedEnhancedCTImageStorage),
}
"""The storage classes of each kind of image, of which the first, with a slice in each file, can be read."""

MAX_OFF_GRID = 0.1
"""How far a slice may lie from its place on the grid, in parts of a voxel's smallest side: headers are rounded."""

_ORTHOGONAL = 1e-3

_FIRST_GROUPS = (b"\x02\x00", b"\x08\x00")
"""Groups of attributes that a file without a preamble begins with."""
_LAST_ELEMENT = 0x18
"""The same for elements: of an image, (0008,0018) at the latest."""


@dataclass(frozen=True)
class Series:
    """A series of slices that fill a grid.

    Attributes
    ----------
    slices
        Headers without pixels, in the order of the grid's z axis.
    grid
        Its x axis runs along the rows, its y axis along the columns, its z axis along their cross product.
    """

    slices: tuple[Dataset, ...]
    grid: Grid

    @classmethod
    def sort(cls, datasets: Sequence[Dataset]) -> Series:
        """Sort the slices of one series along their normal and place them on a grid.

        Raises
        ------
        InputError
            If the series is enhanced (several slices in a file), has one slice alone or several at one place, mixes
            orientations, sizes or frames of reference, lacks a slice, or the slices are shifted against each other.
        """
        first = datasets[0]
        if (kind := first.get("SOPClassUID")) not in [classes[0] for classes in IMAGES.values()]:
            raise InputError(
                f"{source(first)}: expected a PET or CT with one slice in each file, found "
                f"{getattr(kind, 'name', kind)}, which is not supported: convert it to single slices first"
            )
        same_in_all(datasets, "SeriesInstanceUID", "SOPClassUID", "FrameOfReferenceUID", "Rows", "Columns")
        required(first, "FrameOfReferenceUID")
        axes = _axes(datasets)
        positions = np.array([vector(one, "ImagePositionPatient", 3) for one in datasets])
        order = np.argsort(positions @ axes[:, 2], kind="stable")
        slices = tuple(datasets[index] for index in order)
        spacing_y, spacing_x = vector(first, "PixelSpacing", 2)
        step = _step(slices, positions[order], axes[:, 2], min(spacing_x, spacing_y))
        _require_all(slices)
        return cls(
            slices,
            Grid(
                (int(required(first, "Columns")), int(required(first, "Rows")), len(slices)),
                (spacing_x, spacing_y, step),
                tuple(map(float, positions[order[0]])),
                tuple(map(float, axes.ravel())),
            ),
        )

    @property
    def uid(self) -> str:
        """The Series Instance UID."""
        return text(self.slices[0], "SeriesInstanceUID")

    def read(self, padding: float | None = None) -> NDArray[np.float64]:
        """Return the values of all slices, each rescaled with its own slope and intercept, shape (z, y, x).

        Parameters
        ----------
        padding
            What voxels get that the header calls padding; by default what they hold.

        Raises
        ------
        InputError
            If a file has no pixels, or pixels of an encoding for which there is no decoder; if a slope is not above 0.
        """
        values = np.empty(self.grid.shape_zyx)
        for index, dataset in enumerate(self.slices):
            slope, intercept = number(dataset, "RescaleSlope", above=0), number(dataset, "RescaleIntercept")
            pixels = _pixels(dataset, self.grid.shape_zyx[1:])
            values[index] = pixels * slope + intercept
            if padding is not None:
                values[index][_are_padding(dataset, pixels)] = padding
        return values


def is_dicom(path: Path) -> bool:
    """Tell whether a file is DICOM, also without the preamble that the first versions of the standard did not know."""
    try:
        return path.is_file() and (is_dicom_file(path) or _begins_like_one(path))
    except OSError as error:
        raise InputError(f"{path}: expected a file that can be read, found {error}") from error


def find_series(folder: Path) -> dict[str, list[Dataset]]:
    """Return the headers of all PETs and CTs under a folder by Series Instance UID, without localizers.

    Files that are no DICOM, or DICOM of another kind, are passed over.

    Raises
    ------
    InputError
        If the folder or a file in it cannot be read, or a DICOM file is broken.
    """
    found: dict[str, list[Dataset]] = {}
    for dataset in _headers(folder):
        classes = [one for kind in IMAGES.values() for one in kind]
        if dataset.get("SOPClassUID") in classes and "LOCALIZER" not in text(dataset, "ImageType").split("\\"):
            found.setdefault(str(required(dataset, "SeriesInstanceUID")), []).append(dataset)
    return found


def describe(datasets: Sequence[Dataset]) -> str:
    """Return a series in one line: number, description, slices, and what tells PETs apart."""
    first = datasets[0]
    words = [f"{text(first, 'SeriesNumber') or '-'}: {text(first, 'SeriesDescription') or 'without a description'}"]
    words.append(f"{len(datasets)} files of {text(first, 'Rows')} x {text(first, 'Columns')}")
    if text(first, "Units"):
        words += [text(first, "Units"), f"corrected for {text(first, 'CorrectedImage') or 'nothing'}"]
    return ", ".join([*words, text(first, "SeriesInstanceUID")])


def _begins_like_one(path: Path) -> bool:
    """Tell whether a file begins with one of the first attributes, with its type or a length that it may have."""
    with path.open("rb") as file:
        start = file.read(8)
    if len(start) < 8 or start[:2] not in _FIRST_GROUPS or int.from_bytes(start[2:4], "little") > _LAST_ELEMENT:
        return False
    return (start[4:6].isalpha() and start[4:6].isupper()) or int.from_bytes(start[4:], "little") < 2**8


def _headers(folder: Path) -> Iterator[Dataset]:
    if not folder.is_dir():
        raise InputError(f"{folder}: expected a folder of DICOM files, found none")
    for path in sorted(path for path in folder.rglob("*") if is_dicom(path)):
        try:
            yield dcmread(path, stop_before_pixels=True, force=True)
        except Exception as error:  # pydicom lets through whatever a broken file provokes
            raise InputError(f"{path}: expected a DICOM file, found {error}") from error


def _axes(datasets: Sequence[Dataset]) -> NDArray[np.float64]:
    """Return the directions of rows, columns and normal as the columns of a matrix (3, 3)."""
    for keyword, length in (("ImageOrientationPatient", 6), ("PixelSpacing", 2)):
        first, *others = (vector(dataset, keyword, length) for dataset in datasets)
        for dataset, other in zip(datasets[1:], others, strict=True):
            if not np.allclose(first, other, rtol=0, atol=1e-4):
                raise InputError(
                    f"{source(datasets[0])} and {source(dataset)}: expected one {attribute(keyword)} in all slices of "
                    f"a series, found {first} and {other}"
                )
    x, y = np.array(vector(datasets[0], "ImageOrientationPatient", 6)).reshape(2, 3)
    lengths = np.linalg.norm(x), np.linalg.norm(y)
    if not np.allclose(lengths, 1, atol=0.01) or abs(x @ y) > _ORTHOGONAL:
        raise InputError(
            f"{source(datasets[0])}: expected two directions at right angles in "
            f"{attribute('ImageOrientationPatient')}, found {[*x, *y]}"
        )
    x, y = x / lengths[0], y / lengths[1]
    return np.stack([x, y, np.cross(x, y)], axis=1)


def _step(
    slices: Sequence[Dataset], positions: NDArray[np.float64], normal: NDArray[np.float64], pixel_mm: float
) -> float:
    """Return the distance of the slices in mm; `positions`, shape (n, 3), are sorted along the normal."""
    name = attribute("ImagePositionPatient")
    if len(slices) < 2:
        raise InputError(f"{source(slices[0])}: expected a series of at least two slices, found this one")
    steps = np.diff(positions @ normal)
    usual = float(np.median(steps))
    smallest, largest = int(np.argmin(steps)), int(np.argmax(steps))
    tolerance = MAX_OFF_GRID * min(usual, pixel_mm)
    if steps[smallest] <= tolerance:
        raise InputError(
            f"{source(slices[smallest])} and {source(slices[smallest + 1])}: expected one slice at each place, found "
            f"two {steps[smallest]:.3g} mm apart by {name}: several images in time or of one file"
        )
    if steps[largest] - steps[smallest] > tolerance:
        raise InputError(
            f"{source(slices[largest])} and {source(slices[largest + 1])}: expected slices every {usual:.4g} mm by "
            f"{name}, found {steps[largest]:.4g} mm between these (steps from {steps[smallest]:.4g} mm on): "
            "a slice is missing"
        )
    step = float(steps.mean())
    off = np.linalg.norm(positions - positions[0] - np.outer(np.arange(len(slices)) * step, normal), axis=1)
    if off.max() > tolerance:
        raise InputError(
            f"{source(slices[int(np.argmax(off))])}: expected the slices in line along their normal by {name}, as "
            f"without a tilted gantry, found this one {off.max():.3g} mm beside its place"
        )
    return step


def _require_all(slices: Sequence[Dataset]) -> None:
    """Refuse a PET of fewer slices than its header promises, which shows those missing at an end."""
    if not text(slices[0], "NumberOfSlices"):
        return
    promised = number(slices[0], "NumberOfSlices")
    if len(slices) < promised:
        raise InputError(
            f"{source(slices[0])}: expected {promised:g} slices as {attribute('NumberOfSlices')} says, "
            f"found {len(slices)}"
        )


def _are_padding(header: Dataset, pixels: NDArray[np.number]) -> NDArray[np.bool_]:
    """Tell which stored values a slice's header calls padding: one, or all from it to a limit (PS3.3 C.7.5.1.1.2)."""
    if not text(header, "PixelPaddingValue"):
        return np.zeros(pixels.shape, dtype=bool)
    limit = "PixelPaddingRangeLimit" if text(header, "PixelPaddingRangeLimit") else "PixelPaddingValue"
    ends = np.array([int(number(header, keyword)) for keyword in ("PixelPaddingValue", limit)])
    low, high = np.sort(ends.astype(pixels.dtype))  # headers tell signed numbers as unsigned ones
    are_padding: NDArray[np.bool_] = (pixels >= low) & (pixels <= high)
    return are_padding


def _pixels(header: Dataset, shape: tuple[int, ...]) -> NDArray[np.number]:
    try:
        dataset = dcmread(source(header), force=True)
        if "TransferSyntaxUID" not in dataset.file_meta:  # a file without a preamble
            implicit, _ = dataset.original_encoding
            dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
        pixels: NDArray[np.number] = dataset.pixel_array
    except Exception as error:  # pydicom and its decoders let through whatever a broken file provokes
        raise InputError(f"{source(header)}: expected pixels that pydicom can decode, found {error}") from error
    if pixels.shape != shape:
        raise InputError(f"{source(header)}: expected pixels of shape {shape} (y, x), found {pixels.shape}")
    return pixels
