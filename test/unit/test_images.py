import math
from dataclasses import replace

import numpy as np
import pytest
import SimpleITK as sitk

from lesionclick.errors import InputError
from lesionclick.images import Grid, Volume, require_same_grid

# x and y flipped
GRID = Grid((4, 3, 2), (2.0, 2.5, 3.0), (10.0, 20.0, -30.0), (-1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, 1.0))


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
