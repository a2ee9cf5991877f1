import logging
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from helpers.longitudinal_folder import (
    BASELINE_XYZ,
    FOLLOWUP_POINTS,
    POINTS,
    baseline_ct,
    baseline_mask,
    followup_ct,
    image_path,
    on_grid_of,
    write_baseline,
    write_followup,
    write_longitudinal_case,
    write_points,
)

from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.interfaces import PRIMARY, REGIONS, SECONDARY, Region
from lesionclick.images import Grid
from lesionclick.longitudinal.case import Baseline, LongitudinalCase
from lesionclick.tasks import TASKS

OUTSIDE = (20.0, 6.0, 7.0)  # the first voxel beyond the baseline's end


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_longitudinal_case(tmp_path)


def read(folder: Path) -> LongitudinalCase:
    return LongitudinalCase.read(CaseFolder.open(folder))


def read_baseline(folder: Path, labels: np.ndarray | None = None, points=POINTS) -> Baseline:
    """The baseline of the case in `folder` after a change of its labels and points."""
    write_baseline(folder, mask=None if labels is None else on_grid_of(baseline_ct(), labels), points=points)
    (baseline,) = read(folder).baselines
    return baseline


def labels_of(*boxes: tuple[int, slice | int, slice | int, slice | int]) -> np.ndarray:
    """A mask with a number in each of some boxes (number, z, y, x)."""
    labels = np.zeros(BASELINE_XYZ[::-1], dtype=np.uint16)
    for number, *box in boxes:
        labels[tuple(box)] = number
    return labels


def only_warning(caplog: pytest.LogCaptureFixture) -> str:
    (record,) = (record for record in caplog.records if record.levelno >= logging.WARNING)
    return record.getMessage()


class TestRead:
    def test_images_and_points(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        case = read(folder)
        (baseline,), (followup,) = case.baselines, case.followups
        for volume, image in ((baseline.ct, baseline_ct()), (followup.ct, followup_ct())):
            assert volume.array.dtype == np.float32
            assert np.array_equal(volume.array, sitk.GetArrayFromImage(image))
            assert volume.grid == Grid.from_image(image)
        assert baseline.lesions.array.dtype == np.uint16
        assert np.array_equal(baseline.lesions.array, sitk.GetArrayFromImage(baseline_mask()))
        assert baseline.lesions.grid == baseline.ct.grid
        assert (baseline.points, followup.points) == (POINTS, FOLLOWUP_POINTS)
        assert (baseline.region, followup.region) == ("primary", "primary")
        assert caplog.records == []

    @pytest.mark.parametrize(
        ("baselines", "followups"),
        [((PRIMARY,), (PRIMARY,)), (REGIONS, REGIONS), (REGIONS, (PRIMARY,)), ((PRIMARY,), REGIONS)],
    )
    def test_regions_come_in_their_order(
        self, tmp_path: Path, baselines: tuple[Region, ...], followups: tuple[Region, ...]
    ) -> None:
        case = read(write_longitudinal_case(tmp_path, baselines[::-1], followups[::-1]))
        assert [baseline.region for baseline in case.baselines] == [region.name for region in baselines]
        assert [followup.region for followup in case.followups] == [region.name for region in followups]

    def test_each_region_has_its_own_files(self, tmp_path: Path) -> None:
        write_longitudinal_case(tmp_path, REGIONS, REGIONS)
        write_baseline(
            tmp_path, SECONDARY, mask=on_grid_of(baseline_ct(), labels_of((7, 3, 3, 3))), points={7: (3, 3, 3)}
        )
        write_followup(tmp_path, SECONDARY, ct=followup_ct() + 1000, points={})
        case = read(tmp_path)
        assert [list(baseline.points) for baseline in case.baselines] == [[1, 2], [7]]
        assert [baseline.lesions.array.max() for baseline in case.baselines] == [2, 7]
        assert [list(followup.points) for followup in case.followups] == [[1, 2], []]
        assert np.array_equal(case.followups[1].ct.array, case.followups[0].ct.array + 1000)

    def test_points_of_the_followups_alone_are_read_by_region(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        folder = CaseFolder.open(write_longitudinal_case(tmp_path, REGIONS, REGIONS))
        case = LongitudinalCase.read(folder)
        write_points(tmp_path, SECONDARY.followup_clicks, {4: (1.0, 2.5, 3.0), 5: (0.0, 0.0, 14.0)})
        points = TASKS["task2"].read_prompts(folder, case)
        assert points == {"primary": FOLLOWUP_POINTS, "secondary": {4: (1.0, 2.5, 3.0)}}
        assert "secondary-followup-lesion-clicks: lesions [5]" in only_warning(caplog)

    def test_no_followup_point_is_an_ordinary_step(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        (followup,) = read(write_longitudinal_case(tmp_path, followup_points={})).followups
        assert followup.points == {}
        assert caplog.records == []

    def test_empty_mask_and_no_point_is_a_case_without_lesions(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        baseline = read_baseline(folder, labels_of(), {})
        assert baseline.points == {}
        assert not baseline.lesions.array.any()
        assert caplog.records == []

    def test_largest_number(self, folder: Path) -> None:
        baseline = read_baseline(folder, labels_of((65535, 7, 6, 5)), {65535: (5.0, 6.0, 7.0)})
        assert baseline.points == {65535: (5.0, 6.0, 7.0)}
        assert baseline.lesions.array[7, 6, 5] == 65535


class TestRefused:
    @pytest.mark.parametrize("socket", PRIMARY.baseline + PRIMARY.followup)
    def test_listed_input_that_is_missing(self, folder: Path, socket) -> None:
        entries = [
            f'{{"socket": {{"relative_path": "{s.relative_path}"}}}}' for s in PRIMARY.baseline + PRIMARY.followup
        ]
        (folder / "inputs.json").write_text(f"[{', '.join(entries)}]")
        read(folder)
        (folder / socket.relative_path).rename(folder / "gone")
        with pytest.raises(InputError, match=f"{socket.relative_path}: expected "):
            read(folder)

    @pytest.mark.parametrize("socket", [PRIMARY.baseline_ct, PRIMARY.baseline_mask, PRIMARY.followup_ct])
    def test_every_image_is_checked(self, folder: Path, socket) -> None:
        path = image_path(folder, socket)
        path.write_bytes(path.read_bytes()[:-50])
        with pytest.raises(InputError, match=f"{socket.slug}.mha: expected .*bytes of voxels, found"):
            read(folder)

    def test_mask_on_another_grid_than_its_ct(self, folder: Path) -> None:
        write_baseline(folder, mask=baseline_mask()[1:])
        with pytest.raises(
            InputError, match=r"5d1e-primary-baseline-ct-tumor-lesion-seg\.mha\) \(19, 18, 16\), .*\(20,"
        ):
            read(folder)

    def test_mask_with_fractions(self, folder: Path) -> None:
        write_baseline(folder, mask=sitk.Cast(baseline_mask(), sitk.sitkFloat32) * 0.5)
        with pytest.raises(
            InputError, match=r"expected whole numbers from 0 to 65535, found 27 other voxels, such as 0\.5"
        ):
            read(folder)

    @pytest.mark.parametrize("socket", [PRIMARY.baseline_clicks, PRIMARY.followup_clicks])
    def test_points_of_task_1(self, folder: Path, socket) -> None:
        path = folder / socket.relative_path
        path.write_text(path.read_text().replace("Lesion 1", "tumor"))
        with pytest.raises(InputError, match=f"{socket.relative_path}, point 0: expected a lesion's number"):
            read(folder)


class TestTolerated:
    def test_mask_whose_grid_differs_by_rounding(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        mask = baseline_mask()
        mask.SetOrigin((30.0, 40.0005, -700.0))
        write_baseline(folder, mask=mask)
        (baseline,) = read(folder).baselines
        assert baseline.lesions.grid == baseline.ct.grid == Grid.from_image(baseline_ct())
        assert "differ by rounding" in only_warning(caplog)

    @pytest.mark.parametrize("outside", [(18.0, 3.0, 3.0), (3.0, -1.0, 3.0), (3.0, 3.0, 13.51)])
    def test_followup_point_outside_is_ignored(
        self, folder: Path, outside: tuple[float, float, float], caplog: pytest.LogCaptureFixture
    ) -> None:
        write_points(folder, PRIMARY.followup_clicks, {1: outside, 2: (17.4, 19.4, 13.4)})
        (followup,) = read(folder).followups
        assert followup.points == {2: (17.4, 19.4, 13.4)}
        message = only_warning(caplog)
        assert "primary-followup-lesion-clicks: lesions [1]" in message
        assert "outside the image of (18, 20, 14) voxels (x, y, z) and is ignored" in message

    def test_point_without_voxels_is_a_lesion_without_a_mask(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        points = POINTS | {5: (1.0, 2.0, 3.0)}
        baseline = read_baseline(folder, points=points)
        assert baseline.points == points
        assert np.array_equal(baseline.lesions.array, sitk.GetArrayFromImage(baseline_mask()))
        assert "lesions [5]: there is no voxel in the mask" in only_warning(caplog)

    def test_empty_mask_with_points(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        baseline = read_baseline(folder, labels_of())
        assert baseline.points == POINTS
        assert "lesions [1, 2]: there is no voxel in the mask" in only_warning(caplog)

    def test_label_without_point_gets_its_centre_of_gravity(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = labels_of((2, 8, 11, 14), (9, 3, 4, slice(5, 8)), (9, 3, 5, 5))  # x 5, 6, 7, 5 and y 4, 4, 4, 5
        baseline = read_baseline(folder, labels, {2: (14.0, 11.0, 8.0)})
        assert baseline.points == {2: (14.0, 11.0, 8.0), 9: pytest.approx((5.75, 4.25, 3.0))}
        assert "lesions [9]: there is no point, its centre of gravity is used" in only_warning(caplog)

    def test_mask_without_any_point(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert read_baseline(folder, points={}).points == {n: pytest.approx(point) for n, point in POINTS.items()}
        assert "lesions [1, 2]: there is no point" in only_warning(caplog)

    def test_point_outside_gives_way_to_the_centre_of_gravity(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        baseline = read_baseline(folder, points={1: POINTS[1], 2: OUTSIDE})
        assert baseline.points == {1: POINTS[1], 2: pytest.approx(POINTS[2])}
        message = only_warning(caplog)
        assert message.endswith("lesions [2]: the point lies outside the image, its centre of gravity is used")

    def test_point_outside_without_voxels_is_left_out(self, folder: Path, caplog: pytest.LogCaptureFixture) -> None:
        assert read_baseline(folder, points=POINTS | {3: OUTSIDE}).points == POINTS
        message = only_warning(caplog)
        assert "lesions [3]: the point lies outside the image" in message
        assert message.endswith("the lesion is left out")


class TestBinaryMask:
    def test_components_take_the_number_of_the_nearest_point(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = (sitk.GetArrayFromImage(baseline_mask()) > 0).astype(np.uint8)
        baseline = read_baseline(folder, labels, {4: POINTS[1], 300: POINTS[2]})
        assert (baseline.lesions.array[7, 6, 5], baseline.lesions.array[8, 11, 14]) == (4, 300)
        assert np.bincount(baseline.lesions.array.ravel())[[4, 300]].tolist() == [27, 8]
        assert baseline.lesions.array.dtype == np.uint16
        assert baseline.points == {4: POINTS[1], 300: POINTS[2]}
        assert "found a binary mask: 2 of 2 components take the number" in only_warning(caplog)

    def test_nearest_voxel_counts_in_mm_and_not_the_centre(self, folder: Path) -> None:
        # the rod's right end is 2.5 voxels of 4 mm from the second point; its left end is 1 and 2.84 voxels of 3 mm
        # from the first, 9.0 mm, and then 1 and 3.4 voxels, 10.6 mm
        labels = labels_of((1, 5, 5, slice(2, 18)))
        baseline = read_baseline(folder, labels, {1: (1.0, 7.84, 5.0), 2: (17.0, 5.0, 7.5)})
        assert set(np.unique(baseline.lesions.array)) == {0, 1}
        baseline = read_baseline(folder, labels, {1: (1.0, 8.4, 5.0), 2: (17.0, 5.0, 7.5)})
        assert set(np.unique(baseline.lesions.array)) == {0, 2}

    def test_neighbours_across_corners_are_one_component(self, folder: Path) -> None:
        labels = labels_of((1, 5, 5, 5), (1, 6, 6, 6), (1, 8, 8, 8))
        baseline = read_baseline(folder, labels, {2: (5.0, 5.0, 5.0), 3: (8.0, 8.0, 8.0)})
        assert [baseline.lesions.array[n, n, n] for n in (5, 6, 7, 8)] == [2, 2, 0, 3]

    def test_several_components_of_one_point_and_a_point_without(
        self, folder: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        labels = labels_of((1, 5, 5, 5), (1, 5, 5, 8))
        baseline = read_baseline(folder, labels, {2: (6.0, 5.0, 5.0), 3: (15.0, 5.0, 5.0)})
        assert [baseline.lesions.array[5, 5, x] for x in (5, 8)] == [2, 2]
        assert baseline.points == {2: (6.0, 5.0, 5.0), 3: (15.0, 5.0, 5.0)}
        assert [
            record.getMessage() for record in caplog.records if "lesions [3]: there is no voxel" in record.getMessage()
        ]

    @pytest.mark.parametrize(("z", "number"), [(12, 2), (13, 0)])
    def test_component_beyond_50_mm_is_left_out(
        self, folder: Path, z: int, number: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        # 12.4 and 13.4 voxels of 4 mm from the point
        baseline = read_baseline(folder, labels_of((1, z, 5, 5)), {2: (5.0, 5.0, -0.4)})
        assert baseline.lesions.array[z, 5, 5] == number
        assert f"{int(number > 0)} of 1 components take" in caplog.records[0].getMessage()
        assert baseline.points == {2: (5.0, 5.0, -0.4)}

    def test_points_outside_take_no_component(self, folder: Path) -> None:
        baseline = read_baseline(folder, labels_of((1, 6, 6, 17)), {1: OUTSIDE, 3: (5.0, 6.0, 7.0)})
        assert baseline.lesions.array[6, 6, 17] == 3
        assert baseline.points == {3: (5.0, 6.0, 7.0)}

    @pytest.mark.parametrize("points", [{1: (5.0, 5.0, 5.0)}, {}])
    def test_a_single_lesion_1_is_no_binary_mask(self, folder: Path, points, caplog: pytest.LogCaptureFixture) -> None:
        labels = labels_of((1, 5, 5, 5), (1, 5, 5, 15))
        baseline = read_baseline(folder, labels, points)
        assert np.array_equal(baseline.lesions.array, labels)
        assert baseline.points == {1: (5.0, 5.0, 5.0) if points else (10.0, 5.0, 5.0)}
        assert not any("binary" in record.getMessage() for record in caplog.records)
