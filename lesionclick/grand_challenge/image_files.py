"""The image files of a case: found, checked by their header, and read; and masks, written.

What is not as promised is refused; nothing is repaired.
"""

from __future__ import annotations

import math
import re
import tempfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lesionclick.errors import InputError
from lesionclick.grand_challenge.interfaces import Socket, locate
from lesionclick.images import ITK_ERRORS, Grid, Volume, itk_name, itk_reason, unwritable

MAX_VOXELS = 2**29
"""Largest image that is read: ten times the challenge's median, and 2 GiB as float32."""

MAX_LITRES = 3000.0
"""Largest volume of an image: 3 m long, 1 m wide and high. The network's voxels have a size of their own."""

MIN_SPACING_MM = 0.1
"""Smallest voxel size, well below any PET's; less means metres or centimetres."""

MAX_HEADER_BYTES = 2**20
"""Longest header of a MetaImage, which is some hundred bytes, or some thousand with all that a DICOM header says."""

_GEOMETRY = {
    **dict.fromkeys(("Offset", "Position", "Origin", "ElementSpacing"), 3),
    **dict.fromkeys(("TransformMatrix", "Rotation", "Orientation"), 9),
}
"""Fields of a MetaImage that tell where a 3-D image lies, by all of their names, and how many numbers each has."""

_READERS = {".mha": "MetaImageIO", ".tif": "TIFFImageIO", ".tiff": "TIFFImageIO"}


@dataclass(frozen=True)
class ImageFile:
    """The one image file of a socket, whose header is known and plausible."""

    slug: str
    path: Path
    grid: Grid
    voxel_bytes: int

    def __str__(self) -> str:
        return f"{self.slug} ({self.path.name})"

    @classmethod
    def find(cls, input_dir: Path, socket: Socket) -> ImageFile:
        """Find the image of a socket in a case, and check all that can be told before its voxels are read.

        Raises
        ------
        InputError
            If there is not exactly one image, or its header is not that of a scan.
        """
        path = find_image(input_dir, socket)
        grid, voxel_bytes = _read_header(path)
        return cls(socket.slug, path, grid, voxel_bytes)

    def read(self) -> Volume:
        """Load the voxels as float32.

        Raises
        ------
        InputError
            If they are not all there, or not all finite.
        """
        if self.path.suffix.lower() == ".mha":
            _require_complete(self.path, math.prod(self.grid.size_xyz) * self.voxel_bytes)
        reader = _reader(self.path)
        reader.SetOutputPixelType(sitk.sitkFloat32)
        try:
            array: NDArray[np.float32] = np.asarray(_Voxels(reader.Execute()))
        except ITK_ERRORS as error:
            raise InputError(f"{self.path}: expected a complete image, found {itk_reason(error)}") from error
        if not np.isfinite(array).all():
            nan, infinite = np.count_nonzero(np.isnan(array)), np.count_nonzero(np.isinf(array))
            raise InputError(f"{self.path}: expected finite voxels, found {nan} NaN and {infinite} infinite")
        return Volume(array, self.grid)

    def read_labels(self) -> Volume:
        """Load the voxels as uint16.

        Raises
        ------
        InputError
            As `read`; if any voxel is no whole number from 0 to 65,535.
        """
        array, limit = self.read().array, np.iinfo(np.uint16).max
        labels = np.clip(array, 0, limit).astype(np.uint16)
        if odd := np.count_nonzero(labels != array):
            example = array[labels != array][0]
            expected = f"whole numbers from 0 to {limit}"
            raise InputError(f"{self.path}: expected {expected}, found {odd} other voxels, such as {example:.7g}")
        return Volume(labels, self.grid)


def find_image(input_dir: Path, socket: Socket) -> Path:
    """Return the path of the image of a socket in a case, without a look into the file.

    Raises
    ------
    InputError
        If there is not exactly one image.
    """
    folder = locate(input_dir, socket.relative_path)
    try:
        names = sorted(path.name for path in folder.iterdir())
    except OSError as error:
        raise InputError(f"{folder}: expected a folder with one image, found {error}") from error
    if len(names) != 1 or Path(names[0]).suffix.lower() not in _READERS or not names[0].isprintable():
        expected = f"exactly one file, an image ({', '.join(_READERS)}) with a printable name"
        raise InputError(f"{folder}: expected {expected}, found {len(names)}: {names[:5]}")
    path = locate(input_dir, f"{socket.relative_path}/{names[0]}")
    if not path.is_file():
        raise InputError(f"{path}: expected an image file, found a folder or device")
    return path


class _Voxels:
    """The voxels of an image in the memory that ITK read them into, which lives as long as an array of them does."""

    def __init__(self, image: sitk.Image) -> None:
        self.image = image
        view = sitk.GetArrayViewFromImage(image).__array_interface__
        self.__array_interface__ = {**view, "data": (view["data"][0], False)}  # nobody else has the image


def _reader(path: Path) -> sitk.ImageFileReader:
    reader = sitk.ImageFileReader()
    reader.SetFileName(itk_name(path))
    reader.SetImageIO(_READERS[path.suffix.lower()])
    return reader


def _read_header(path: Path) -> tuple[Grid, int]:
    """Return grid and bytes per voxel of an image, and refuse what no scan can be before any memory is taken."""
    fields: dict[str, str] = {}
    if path.suffix.lower() == ".mha":
        try:
            with path.open("rb") as file:
                fields = _read_meta_fields(file, path)
        except OSError as error:
            raise InputError(f"{path}: expected a readable file, found {error}") from error
    reader = _reader(path)
    try:
        reader.ReadImageInformation()
    except ITK_ERRORS as error:
        raise InputError(f"{path}: expected an image, found {itk_reason(error)}") from error
    dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
    if (dimension, components) != (3, 1):
        raise InputError(
            f"{path}: expected a 3-D image with one value per voxel, found {dimension}-D with {components}"
        )
    grid = Grid(reader.GetSize(), reader.GetSpacing(), reader.GetOrigin(), reader.GetDirection())
    voxels = math.prod(grid.size_xyz)
    if not 0 < voxels <= MAX_VOXELS:
        raise InputError(f"{path}: expected 1 to {MAX_VOXELS} voxels, found {voxels} in size (x, y, z) {grid.size_xyz}")
    litres = voxels * grid.voxel_ml / 1000
    if min(grid.spacing_xyz) < MIN_SPACING_MM or litres > MAX_LITRES:
        raise InputError(
            f"{path}: expected voxels of at least {MIN_SPACING_MM} mm and an image of at most {MAX_LITRES:.0f} litres, "
            f"found {litres:.3g} litres and {grid}"
        )
    _require_numbers(fields, path)
    cosines = np.reshape(grid.direction, (3, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(3), atol=1e-3):
        raise InputError(f"{path}: expected a direction of three unit vectors at right angles, found {grid}")
    return grid, sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()


def _read_meta_fields(file: BinaryIO, path: Path) -> dict[str, str]:
    """Return the header of a MetaImage, with the file at its first voxel, and refuse what ITK would not survive.

    ITK crashes at a number of dimensions that is negative or large. Each line has to be a field, so that ITK sees the
    same fields: it skips line breaks where a sign or a value is missing.
    """
    fields: dict[str, str] = {}
    value = "-"
    while "ElementDataFile" not in fields:
        before, line = value, file.readline(MAX_HEADER_BYTES)
        key, sign, value = (part.strip() for part in line.decode("ascii", "replace").partition("="))
        complete = sign and line.endswith(b"\n") and file.tell() <= MAX_HEADER_BYTES
        if not complete or (key == "ElementDataFile" and not (before and value)):
            raise InputError(f"{path}: expected an image with a MetaImage header, found {line[:40]!r} in it")
        if "NDims" in line.decode("ascii", "replace") and (
            key != "NDims" or key in fields or not re.fullmatch("[1-9]|10", value)
        ):
            raise InputError(f"{path}: expected NDims = 3, once, found {line[:40]!r}")
        fields[key] = value
    return fields


def _require_numbers(fields: Mapping[str, str], path: Path) -> None:
    """Refuse a MetaImage whose place in space is not told by as many finite numbers; ITK reads zeros for others."""
    for key, count in _GEOMETRY.items():
        text = fields.get(key, "0 " * count)
        try:
            numbers = [] if "_" in text else [float(number) for number in text.split()]
        except ValueError:
            numbers = []
        if len(numbers) != count or not all(map(math.isfinite, numbers)):
            raise InputError(f"{path}: expected {count} finite numbers as {key}, found {fields[key][:60]!r}")


def _require_complete(path: Path, n_bytes: int) -> None:
    """Refuse a MetaImage with voxels in another file, and compressed voxels that are damaged, too few or too many.

    ITK would read the first from wherever the header says, and make an image with arbitrary voxels of the second, also
    where the header has another ``CompressedDataSize`` than the voxels have.
    """
    length = consumed = 0
    inflate = zlib.decompressobj(wbits=47)  # zlib or gzip, as ITK takes them
    with path.open("rb") as file:
        fields = _read_meta_fields(file, path)
        data_file = fields["ElementDataFile"]
        if data_file not in ("LOCAL", "Local", "local"):
            raise InputError(f"{path}: expected voxels in the file itself (LOCAL), found {data_file!r}")
        if not fields.get("CompressedData", "").startswith(("T", "t", "1")):
            return
        try:
            while not inflate.eof and (chunk := file.read(2**16)):
                length += len(inflate.decompress(chunk))
                consumed += len(chunk)
        except zlib.error as error:
            raise InputError(f"{path}: expected a complete image, found {error}") from error
    if not inflate.eof or length != n_bytes:
        raise InputError(f"{path}: expected {n_bytes} bytes of voxels, found {length}")
    consumed -= len(inflate.unused_data)
    if (said := fields.get("CompressedDataSize")) != str(consumed):
        raise InputError(f"{path}: expected CompressedDataSize = {consumed}, found {said or 'none'}")


def require_writable(folder: Path) -> None:
    """Make a folder and try to write into it.

    Raises
    ------
    InputError
        If either fails.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise unwritable(folder, error) from error


def write_masks(masks: Mapping[Path, Volume]) -> None:
    """Write all masks of a case, or none: what was written before one that fails is removed.

    Raises
    ------
    InputError
        As `Volume.write`.
    """
    written: list[Path] = []
    try:
        for path, mask in masks.items():
            mask.write(path)
            written.append(path)
    except BaseException:
        for path in written:
            path.unlink(missing_ok=True)
        raise
