"""The image files of a case: found, checked by their header, and read; and masks, written.

What is not as promised is refused; nothing is repaired.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray

from lesionclick import metaimage
from lesionclick.errors import InputError
from lesionclick.grand_challenge.interfaces import Socket, locate
from lesionclick.images import (
    ITK_ERRORS,
    Grid,
    Volume,
    bytes_per_voxel,
    is_metaimage,
    itk_name,
    itk_reason,
    require_boxes,
    unwritable,
)

MAX_VOXELS = 2**29
"""Largest image that is read: ten times the challenge's median, and 2 GiB as float32."""

MAX_LITRES = 3000.0
"""Largest volume of an image: 3 m long, 1 m wide and high. The network's voxels have a size of their own."""

MIN_SPACING_MM = 0.1
"""Smallest voxel size, well below any PET's; less means metres or centimetres."""

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
        if is_metaimage(self.path):
            metaimage.require_complete(self.path, math.prod(self.grid.size_xyz) * self.voxel_bytes)
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
    fields = metaimage.read_fields(path) if is_metaimage(path) else {}
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
    metaimage.require_numbers(fields, path)
    require_boxes(grid, str(path))
    return grid, bytes_per_voxel(reader)


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
