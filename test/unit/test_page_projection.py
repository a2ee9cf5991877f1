"""The rotating projection: what it shows, which voxel each pixel is, and what it takes."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.served_page import GRIDS, HOT_SUV, HOT_XYZ, hot_case

from lesionclick.images import Grid, Volume
from lesionclick.page import projection
from lesionclick.page.projection import Projector, Raster, pooled_grid


class TestProjection:
    @pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
    def test_every_frame_shows_every_hot_voxel_that_nothing_hides_and_knows_it(self, grid: Grid) -> None:
        projector = Projector(hot_case(grid, HOT_XYZ[:1]).pet)
        for number in range(0, projector.n_frames, 5):
            frame = projector.frame(number)
            assert frame.values.max() == np.float32(HOT_SUV)
            hot = np.unique(frame.voxels[frame.values == np.float32(HOT_SUV)])
            assert [projector.point_xyz(int(voxel)) for voxel in hot] == [HOT_XYZ[0]]

    def test_each_pixel_shows_the_value_of_the_voxel_that_it_names(self) -> None:
        grid = Grid((21, 17, 13), (1.7, 1.7, 3.0), (5.0, -3.0, 9.0), (0.0, 1.0, 0.0, -1.0, 0.0, 0.0, 0.0, 0.0, 1.0))
        pet = Volume(np.random.default_rng(0).uniform(0, 9, grid.shape_zyx).astype(np.float32), grid)
        frame = Projector(pet).frame(7)
        shown = frame.voxels >= 0
        assert (pet.array.ravel()[frame.voxels[shown]] == frame.values[shown]).all()
        assert frame.values.max() == pet.array.max()

    def test_a_pet_of_small_voxels_is_joined_before_it_is_sampled(self) -> None:
        grid = Grid((400, 400, 326), (2.036, 2.036, 3.0))
        pooled = pooled_grid(grid)
        assert pooled.size_xyz == (200, 200, 326)
        np.testing.assert_allclose(pooled.spacing_xyz, (4.072, 4.072, 3.0))
        np.testing.assert_allclose(pooled.origin_xyz, (1.018, 1.018, 0.0))
        rows, columns = Raster.around(pooled).shape
        assert rows * columns**2 < 150e6

    @pytest.mark.parametrize(
        ("spacing", "block"), [(0.9, 3.6), (1.0, 4.0), (2.6, 5.2), (2.7, 2.7), (4.0, 4.0), (7.0, 7.0)]
    )
    def test_blocks_are_of_about_four_millimetres(self, spacing: float, block: float) -> None:
        assert pooled_grid(Grid((9, 9, 9), (spacing,) * 3)).spacing_xyz == pytest.approx((block,) * 3)

    @pytest.mark.parametrize("samples", [1, 20_000])
    def test_a_frame_is_sampled_in_bands_of_a_limited_size(self, monkeypatch: pytest.MonkeyPatch, samples: int) -> None:
        projector = Projector(hot_case(GRIDS["oblique"]).pet)
        whole = projector.frame(5)
        sizes = []
        resample = sitk.Resample

        def watched(image: sitk.Image, size: tuple[int, ...], *others: object) -> sitk.Image:
            sizes.append(size)
            return resample(image, size, *others)

        monkeypatch.setattr(projection, "BAND_SAMPLES", samples)
        monkeypatch.setattr(sitk, "Resample", watched)
        banded = projector.frame(5)
        np.testing.assert_array_equal(banded.values, whole.values)
        np.testing.assert_array_equal(banded.voxels, whole.voxels)
        rows, columns = projector.shape
        assert sum(size[1] for size in sizes) == rows
        assert max(np.prod(size) for size in sizes) <= max(samples, columns**2)
        assert len(sizes) > 1

    def test_each_frame_is_made_once_and_alone(self, monkeypatch: pytest.MonkeyPatch) -> None:
        made: list[int] = []
        busy = threading.Lock()

        def make(_projector: Projector, number: int) -> projection.Frame:
            assert busy.acquire(blocking=False), "another frame is being made"
            time.sleep(0.02)
            made.append(number)
            busy.release()
            return projection.Frame(np.zeros((1, 1), np.float32), np.zeros((1, 1), np.int32))

        monkeypatch.setattr(Projector, "frame", make)
        frames = projection.Frames(hot_case().pet)
        with ThreadPoolExecutor(8) as pool:
            assert len(list(pool.map(frames.frame, [0, 1, 2] * 4))) == 12
        assert sorted(made) == [0, 1, 2]

    def test_the_front_shows_the_right_side_on_the_left_and_a_quarter_turn_the_left_side(self) -> None:
        """The hot voxel lies at the patient's far right, front and head; the grid runs to the left, back and head."""
        grid = Grid((30, 20, 40), (4.0, 4.0, 4.0))
        pet = np.full(grid.shape_zyx, 0.5, np.float32)
        pet[38, 1, 1] = 9.0
        projector = Projector(Volume(pet, grid))
        quarter = projector.n_frames // 4
        columns = {}
        for number in (0, quarter):
            frame = projector.frame(number)
            rows, seen = np.nonzero(frame.values == 9)
            columns[number] = seen.mean() / frame.values.shape[1]
            assert rows.mean() < 0.2 * frame.values.shape[0]
        assert columns[0] < 0.3
        assert columns[quarter] < 0.35, "from the left the face looks to the left"
