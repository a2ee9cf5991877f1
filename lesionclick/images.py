"""Images with their place in space: the voxel grid, the array that lies on it, and every conversion of axes.

Arrays and their indices are (z, y, x), as SimpleITK gives them; points are voxel indices in (x, y, z), as the platform
gives them.
"""

from __future__ import annotations

import errno
import gzip
import math
import os
import re
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
from numpy.typing import ArrayLike, NDArray

from lesionclick import metaimage
from lesionclick.errors import InputError

AIR_HU = -1000.0
"""By the definition of the Hounsfield scale."""

ITK_ERRORS = (RuntimeError, OSError)
"""What SimpleITK raises when a file cannot be read or written."""

_NIFTI = (".nii", ".nii.gz", ".img", ".hdr", ".img.gz")

_UNSYNCED = (errno.EINVAL, errno.ENOTSUP)
"""What a file system says that cannot be asked to put a file on the disk at once."""

WRITABLE = (".mha", ".nii", ".nii.gz", ".nrrd")
"""Endings of the forms that keep an image's place in space, and all of it in one file; ITK knows no capitals."""


def points_from_indices(indices_zyx: ArrayLike) -> NDArray[np.float64]:
    """Return points (x, y, z) of array indices (z, y, x), which need not be whole, each of shape (..., 3)."""
    points: NDArray[np.float64] = np.asarray(indices_zyx, dtype=np.float64)[..., ::-1]
    return points


def indices_from_points(points_xyz: ArrayLike) -> NDArray[np.float64]:
    """Return array indices (z, y, x) of points (x, y, z), each of shape (..., 3)."""
    return np.asarray(points_xyz, dtype=np.float64)[..., ::-1]


def are_inside(indices_zyx: ArrayLike, shape_zyx: tuple[int, ...]) -> NDArray[np.bool_]:
    """Tell which indices, shape (n, 3), are rounded (half to even) to a voxel of an array of `shape_zyx`."""
    rounded = np.rint(np.asarray(indices_zyx, dtype=np.float64).reshape(-1, 3))
    inside: NDArray[np.bool_] = np.all((rounded >= 0) & (rounded < shape_zyx), axis=1)
    return inside


@dataclass(frozen=True)
class Grid:
    """The voxel grid of an image, in the platform's axis order.

    Attributes
    ----------
    size_xyz
        Number of voxels along x, y, z.
    spacing_xyz
        Voxel size in mm.
    origin_xyz
        Centre of the first voxel in mm.
    direction
        Direction cosines, nine numbers, row by row.
    """

    size_xyz: tuple[int, ...]
    spacing_xyz: tuple[float, ...]
    origin_xyz: tuple[float, ...] = (0.0, 0.0, 0.0)
    direction: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0)

    @property
    def shape_zyx(self) -> tuple[int, ...]:
        """Shape of the array on this grid."""
        return self.size_xyz[::-1]

    @property
    def spacing_zyx(self) -> tuple[float, ...]:
        """Voxel size in mm, in the array's axis order."""
        return self.spacing_xyz[::-1]

    @property
    def voxel_ml(self) -> float:
        """Volume of a voxel in ml."""
        return float(np.prod(self.spacing_xyz)) / 1000

    @property
    def axes_mm(self) -> NDArray[np.float64]:
        """Matrix (3, 3) that turns a step in voxels (x, y, z) into one in mm."""
        axes: NDArray[np.float64] = np.array(self.direction).reshape(3, 3) * np.array(self.spacing_xyz)
        return axes

    def to_physical(self, points_xyz: ArrayLike) -> NDArray[np.float64]:
        """Return the places in mm, shape (n, 3), of voxel indices (x, y, z), which may be fractional."""
        points = np.asarray(points_xyz, dtype=np.float64).reshape(-1, 3)
        places: NDArray[np.float64] = np.array(self.origin_xyz) + points @ self.axes_mm.T
        return places

    def to_index(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Return the voxel indices (x, y, z), shape (n, 3), of places in mm; the inverse of `to_physical`."""
        moved = np.asarray(points_mm, dtype=np.float64).reshape(-1, 3) - np.array(self.origin_xyz)
        indices: NDArray[np.float64] = np.linalg.solve(self.axes_mm, moved.T).T
        return indices

    def to_index_zyx(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Return the array indices (z, y, x), shape (n, 3), of places (x, y, z) in mm."""
        return indices_from_points(self.to_index(points_mm))

    @classmethod
    def from_image(cls, image: sitk.Image) -> Grid:
        """Return the grid of a SimpleITK image."""
        return cls(image.GetSize(), image.GetSpacing(), image.GetOrigin(), image.GetDirection())


@dataclass(frozen=True)
class Volume:
    """An array (z, y, x) and the grid that it lies on.

    Raises
    ------
    InputError
        If the array's shape is not the grid's.
    """

    array: NDArray[Any]
    grid: Grid

    def __post_init__(self) -> None:
        if self.array.shape != self.grid.shape_zyx:
            raise InputError(
                f"array of shape {self.array.shape} (z, y, x) does not fit a grid of shape {self.grid.shape_zyx}"
            )

    @classmethod
    def from_image(cls, image: sitk.Image) -> Volume:
        """Return a SimpleITK image's voxels and grid."""
        return cls(sitk.GetArrayFromImage(image), Grid.from_image(image))

    @classmethod
    def read(cls, path: Path | str) -> Volume:
        """Read an image file of any form that SimpleITK knows.

        Raises
        ------
        InputError
            As `read_image`.
        """
        return cls.from_image(read_image(path))

    def write(self, path: Path | str, compression: int = -1) -> None:
        """Write a compressed image file that any user can read; it appears whole or not at all.

        Parameters
        ----------
        path
            Its ending tells the form, one of `WRITABLE`. An existing file is replaced.
        compression
            From 1 to 9; by default the usual one.

        Raises
        ------
        InputError
            If the ending is another, the folder or the file cannot be written, or there is no room.
        """
        path = Path(path)
        if not path.name.endswith(WRITABLE):
            raise InputError(f"{path}: expected a file to write that ends in {', '.join(WRITABLE)}, found {path.name}")
        image = self.to_image()
        with replacing(path) as temporary:
            try:
                sitk.WriteImage(image, itk_name(temporary), useCompression=True, compressionLevel=compression)
            except ITK_ERRORS as error:
                raise unwritable(path.parent, error) from error
            _require_written(temporary, self.array)
            with suppress(PermissionError):  # a mount of another kind keeps its own permissions
                temporary.chmod(0o644)

    def to_image(self) -> sitk.Image:
        """Return a SimpleITK image with the array's values and the grid's geometry."""
        image = sitk.GetImageFromArray(self.array)
        image.SetSpacing(self.grid.spacing_xyz)
        image.SetOrigin(self.grid.origin_xyz)
        image.SetDirection(self.grid.direction)
        return image


def read_image(path: Path | str, pixel_type: int = sitk.sitkUnknown) -> sitk.Image:
    """Read a 3-D image file of any form that SimpleITK knows, except DICOM, which has a slice in a file.

    Parameters
    ----------
    path
        Of the file.
    pixel_type
        SimpleITK's number of the type wanted; by default the file's own.

    Raises
    ------
    InputError
        If there is no such file, it is no image, not 3-D or with several values per voxel, of which ITK would make a
        single one; if a NIfTI file or a MetaImage is cut off or damaged, of which ITK reads arbitrary voxels; or if
        voxels of a NIfTI file are not finite: ITK makes zeros of these.
    """
    path = Path(path)
    fields = metaimage.read_fields(path) if is_metaimage(path) and path.exists() else {}
    reader = sitk.ImageFileReader()
    try:
        reader.SetFileName(itk_name(path))
        reader.ReadImageInformation()
        if sitk.ImageFileReader.GetImageIOFromFileName(itk_name(path)) == "GDCMImageIO":
            raise InputError(f"{path}: expected an image such as NIfTI, found a DICOM file: import its folder")
        dimension, components = reader.GetDimension(), reader.GetNumberOfComponents()
        if (dimension, components) != (3, 1):
            raise InputError(
                f"{path}: expected a 3-D image with one value per voxel, found {dimension}-D with {components}"
            )
        if fields:
            metaimage.require_numbers(fields, path)
            metaimage.require_complete(path, math.prod(reader.GetSize()) * bytes_per_voxel(reader))
        if path.name.lower().endswith(_NIFTI):
            _require_sound_nifti(path)
        image = reader.Execute()
        if pixel_type not in (sitk.sitkUnknown, image.GetPixelID()):
            image = sitk.Cast(image, pixel_type)
    except ITK_ERRORS as error:
        raise InputError(f"{path}: expected an image, found: {itk_reason(error)}") from error
    return image


def is_metaimage(path: Path) -> bool:
    """Tell whether a file's name is that of a MetaImage with its voxels in it."""
    return path.suffix.lower() == ".mha"


def bytes_per_voxel(reader: sitk.ImageFileReader) -> int:
    """Return how many bytes one value takes in the file whose header a reader has read."""
    size: int = sitk.Image([1, 1, 1], reader.GetPixelID()).GetSizeOfPixelComponent()
    return size


def require_boxes(grid: Grid, name: str) -> None:
    """Refuse a grid whose voxels are no boxes, which ITK and all that follows would take for such.

    Raises
    ------
    InputError
        If the direction is no three unit vectors at right angles, to 0.001.
    """
    cosines = np.reshape(grid.direction, (3, 3))
    if not np.allclose(cosines @ cosines.T, np.eye(3), atol=1e-3):
        raise InputError(f"{name}: expected a direction of three unit vectors at right angles, found {grid}")


def require_same_grid(
    a: Volume | Grid, b: Volume | Grid, name_a: str, name_b: str, *, tolerance_mm: float = 1e-3
) -> None:
    """Refuse two images whose voxels do not lie in the same places.

    The corners of the two grids are compared, so that the tolerance holds for every voxel however large the image.

    Raises
    ------
    InputError
        Naming both images and what differs.
    """
    grid_a, grid_b = (v.grid if isinstance(v, Volume) else v for v in (a, b))
    if grid_a.size_xyz != grid_b.size_xyz:
        raise InputError(
            f"{name_a} and {name_b} must lie on one grid, but their sizes (x, y, z) differ: "
            f"{name_a} {grid_a.size_xyz}, {name_b} {grid_b.size_xyz}"
        )
    distance = np.linalg.norm(_corners_mm(grid_a) - _corners_mm(grid_b), axis=1).max()
    if not distance <= tolerance_mm:
        raise InputError(
            f"{name_a} and {name_b} must lie on one grid, but their voxels are up to {distance:.4g} mm apart "
            f"(allowed {tolerance_mm:g} mm): {name_a} {grid_a}, {name_b} {grid_b}"
        )


def itk_name(path: Path | str) -> str:
    """Return the name of a file or folder for ITK, which ends the process at one that is no UTF-8.

    Raises
    ------
    InputError
        If it is none, as of a folder from an archive with another encoding.
    """
    name = str(path)
    try:
        name.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{name!a}: expected a name in UTF-8, found other bytes; give it another name") from error
    return name


def itk_reason(error: Exception) -> str:
    """Return the end of an ITK message, in one line and without the address of ITK's object."""
    return re.sub(r"^\w+\(0x\w+\): ", "", " ".join(str(error).split("ERROR:")[-1].split()))


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give the name of a hidden file of the same form to write, which takes the place of `path` when the context ends.

    It does so whole, once it is on the disk; after an error `path` is as before. Two contexts may write one path.

    Raises
    ------
    InputError
        If the file cannot be written.
    """
    temporary = path.with_name(f".{secrets.token_hex(8)}.{path.name[-16:]}")  # a name may be as long as names can be
    try:
        yield temporary
        sync(temporary)
        temporary.replace(path)
    except OSError as error:
        raise unwritable(path.parent, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Put a file on the disk itself, where its file system can be asked to.

    Raises
    ------
    OSError
        If that fails.
    """
    with path.open("rb") as file:
        try:
            os.fsync(file.fileno())
        except OSError as error:
            if error.errno not in _UNSYNCED:
                raise


def unwritable(folder: Path, error: Exception) -> InputError:
    """Return the error of a folder that cannot be written to."""
    return InputError(f"{folder}: expected a folder that user {os.getuid()} can write, found {itk_reason(error)}")


def _require_sound_nifti(path: Path) -> None:
    """Refuse a NIfTI file whose voxels are cut off, damaged or not finite.

    Nibabel notices each voxel that is missing, and reading a packed file to its end compares the checksum; ITK does
    neither.
    """
    import nibabel

    try:
        if path.suffix.lower() == ".gz":
            with gzip.open(path) as file:
                while file.read(2**20):
                    pass
        stored = nibabel.load(path).dataobj  # type: ignore[attr-defined]
        values = stored.get_unscaled()
        finite = values.dtype.kind != "f" or bool(np.isfinite(values).all())
    except Exception as error:  # nibabel lets through whatever a broken file provokes
        raise InputError(f"{path}: expected an image, found: {error}") from error
    if not finite:
        raise InputError(f"{path}: expected finite voxels, found NaN or infinite ones")


def _require_written(path: Path, array: NDArray[Any]) -> None:
    """Read a file again, because ITK does not notice that a disk is full."""
    try:
        found = sitk.GetArrayFromImage(sitk.ReadImage(str(path)))
        complete = np.array_equal(found, array, equal_nan=array.dtype.kind == "f")  # slow, and masks have no NaN
    except ITK_ERRORS:
        complete = False
    if not complete:
        raise InputError(f"{path.parent}: expected room for {path.name}, found a full disk")


def _corners_mm(grid: Grid) -> NDArray[np.float64]:
    """Return the physical places of the eight corner voxels, shape (8, 3), in x, y, z."""
    last = np.array(grid.size_xyz) - 1
    corners = np.stack(np.meshgrid(*([0, n] for n in last), indexing="ij"), axis=-1).reshape(-1, 3)
    return grid.to_physical(corners)
