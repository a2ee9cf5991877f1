"""The page's server without a browser: marks, places, projections, the reading and its files."""

import gzip
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from fastapi.testclient import TestClient
from helpers.case_folder import write_case
from helpers.growing_session import GrowingSession
from helpers.served_page import GRIDS, HOT_SUV, HOT_XYZ, TOKEN, hot_case, make_reading, wait_until

from lesionclick.algorithm import Algorithm
from lesionclick.errors import InputError, LesionClickError
from lesionclick.grand_challenge.click_files import read_clicks
from lesionclick.images import Grid, Volume
from lesionclick.page.access import Access
from lesionclick.page.app import create_app
from lesionclick.page.marks import History
from lesionclick.page.opening import default_output, open_study
from lesionclick.page.petct import PetCtStudy
from lesionclick.page.places import nifti_bytes, ras_at, voxel_at
from lesionclick.page.reading import Reading
from lesionclick.page.records import Records
from lesionclick.page.study import Answer

ORIGIN_RAS = (-31.0, 42.0, 530.0)
"""The first voxel of each of `GRIDS`, in the viewer's mm."""


class TestHistory:
    def test_steps_are_taken_back_and_made_again(self) -> None:
        history = History("a")
        history.do("ab")
        history.do("abc")
        assert history.undo()
        assert (history.present, history.can_undo, history.can_redo) == ("ab", True, True)
        assert history.redo()
        assert history.present == "abc"

    def test_a_new_step_ends_what_was_taken_back(self) -> None:
        history = History(0)
        history.do(1)
        history.undo()
        history.do(2)
        assert (history.redo(), history.present) == (False, 2)
        assert history.undo()
        assert (history.undo(), history.present) == (False, 0)


class TestPlaces:
    @pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
    def test_millimetres_of_the_written_nifti_lead_to_the_voxel(self, grid: Grid, tmp_path: Path) -> None:
        """SimpleITK, which counts to the left and to the back, reads the place that a viewer sees."""
        path = tmp_path / "image.nii"
        path.write_bytes(nifti_bytes(Volume(np.zeros(grid.shape_zyx, np.float32), grid)))
        image = sitk.ReadImage(str(path))
        for voxel in HOT_XYZ:
            x, y, z = image.TransformIndexToPhysicalPoint(voxel)
            assert voxel_at(grid, (-x, -y, z)) == voxel
            np.testing.assert_allclose(ras_at(grid, voxel), (-x, -y, z), atol=1e-3)

    def test_the_voxel_is_the_one_whose_half_is_not_left(self) -> None:
        grid = GRIDS["identity"]
        x, y, z = ORIGIN_RAS
        assert voxel_at(grid, (x - 1.9, y + 1.9, z - 1.9)) == (0, 0, 0)
        assert voxel_at(grid, (x - 2.1, y, z)) == (1, 0, 0)
        assert voxel_at(grid, (x + 2.1, y, z)) is None
        assert voxel_at(grid, (float("nan"), y, z)) is None


@pytest.fixture
def reading(tmp_path: Path) -> Iterator[Reading]:
    reading = make_reading(tmp_path)
    reading.start()
    yield reading
    reading.stop()


def mm(voxel: tuple[int, ...]) -> list[float]:
    return ras_at(GRIDS["identity"], voxel)


class TestReading:
    def test_a_point_is_on_disk_before_it_is_answered_for(self, reading: Reading) -> None:
        reading.add("pet", "tumor", mm((3, 4, 5)))
        reading.add("pet", "background", mm((6, 7, 8)))
        written = read_clicks(reading.records.folder / "lesion-clicks.json")
        assert [(one.kind, one.point_xyz) for one in written] == [("tumor", (3, 4, 5)), ("background", (6, 7, 8))]

    def test_undo_redo_and_removal_reach_mask_and_file(self, reading: Reading) -> None:
        first = reading.add("pet", "tumor", mm((3, 4, 5)))
        alone = reading.final_answer().masks["pet"].array
        reading.add("pet", "tumor", mm((20, 18, 14)))
        assert reading.final_answer().masks["pet"].array.sum() > alone.sum()
        reading.undo()
        np.testing.assert_array_equal(reading.final_answer().masks["pet"].array, alone)
        reading.redo()
        assert reading.remove(first.number)
        assert not reading.remove(first.number)
        assert [one.point_xyz for one in read_clicks(reading.records.paths[0])] == [(20, 18, 14)]
        reading.undo()
        assert len(read_clicks(reading.records.paths[0])) == 2

    def test_a_click_where_a_point_of_this_kind_lies_does_nothing(self, reading: Reading) -> None:
        marks = [reading.add("pet", kind, mm((3, 4, 5))) for kind in ("tumor", "tumor", "background")]
        assert marks[0] == marks[1] != marks[2]
        assert len(read_clicks(reading.records.paths[0])) == 2

    def test_a_further_reading_goes_on_from_the_files(self, reading: Reading) -> None:
        reading.add("pet", "tumor", mm((3, 4, 5)))
        again = make_reading(reading.records.folder)
        assert [mark["voxel"] for mark in again.state()["marks"]] == [(3, 4, 5)]

    def test_a_mark_that_cannot_be_written_is_none(self, reading: Reading, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(*_arguments: object) -> None:
            raise InputError("full disk")

        monkeypatch.setattr(reading.records, "write", full)
        with pytest.raises(InputError, match="full disk"):
            reading.add("pet", "tumor", mm((3, 4, 5)))
        assert reading.state()["marks"] == []
        assert not reading.state()["can_undo"]

    @pytest.mark.parametrize(
        ("scan", "kind", "place"),
        [
            ("ct", "tumor", (3, 4, 5)),
            ("pet", "lesion", (3, 4, 5)),
            ("pet", "tumor", (-1, 4, 5)),
            ("pet", "tumor", (3, 22, 5)),
        ],
    )
    def test_what_is_no_point_of_the_case_is_refused(
        self, reading: Reading, scan: str, kind: str, place: tuple[int, ...]
    ) -> None:
        with pytest.raises((InputError, ValueError), match="expected"):
            reading.add(scan, kind, mm(place))
        assert reading.state()["revision"] == 0

    def test_a_click_stops_the_network_and_the_first_mask_comes_at_once(self, tmp_path: Path) -> None:
        reading = make_reading(tmp_path, pause_s=1000.0)
        reading.start()
        wait_until(lambda: reading.state()["mask"] == 1)
        reading.add("pet", "tumor", mm((3, 4, 5)))
        wait_until(lambda: reading.state()["mask"] == 2)
        assert not reading.state()["final"]
        reading.study._session.pause_s = 0.0  # type: ignore[attr-defined]
        reading.undo()
        assert reading.final_answer().masks["pet"].array.sum() == len(HOT_XYZ)
        reading.stop()

    def test_the_table_of_lesions_goes_with_the_next_point(self, reading: Reading) -> None:
        reading.final_answer()
        assert reading.state()["findings"] is not None
        reading.study._session.pause_s = 1000.0  # type: ignore[attr-defined]
        reading.add("pet", "tumor", mm((3, 4, 5)))
        assert reading.state()["findings"] is None

    def test_a_session_that_fails_says_so_and_goes_on_with_the_next_point(
        self, reading: Reading, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_arguments: object) -> None:
            raise RuntimeError("no luck")

        with monkeypatch.context() as patch:
            patch.setattr(reading.study._session, "_segmentation", fail)  # type: ignore[attr-defined]
            reading.add("pet", "tumor", mm((3, 4, 5)))
            with pytest.raises(InputError, match="RuntimeError: no luck"):
                reading.final_answer()
        reading.undo()
        assert reading.final_answer().final
        assert reading.state()["error"] is None

    def test_proposals_come_and_go_with_the_next_point(self, reading: Reading) -> None:
        reading.final_answer()
        reading.ask_for_suggestions()
        wait_until(lambda: reading.state()["suggestions"] is not None)
        (one,) = reading.state()["suggestions"]
        assert (one["kind"], one["ras_mm"]) == ("tumor", mm((1, 2, 3)))
        reading.add("pet", "tumor", mm((3, 4, 5)))
        assert reading.state()["suggestions"] is None

    def test_what_failed_is_tried_again_with_the_next_request_for_proposals(
        self, reading: Reading, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*_arguments: object, **_options: object) -> None:
            raise RuntimeError("no luck")

        reading.final_answer()
        with monkeypatch.context() as patch:
            patch.setattr(reading.study, "suggest", fail)
            reading.ask_for_suggestions()
            wait_until(lambda: reading.state()["error"] == "RuntimeError: no luck")
        reading.ask_for_suggestions()
        wait_until(lambda: reading.state()["suggestions"] is not None)
        assert reading.state()["error"] is None
        assert reading.state()["warnings"] == []

    def test_a_click_stops_proposals(self, tmp_path: Path) -> None:
        reading = make_reading(tmp_path)
        reading.start()
        reading.final_answer()
        reading.study._session.pause_s = 1000.0  # type: ignore[attr-defined]
        reading.ask_for_suggestions()
        wait_until(lambda: reading.state()["busy"])
        before = reading.state()["mask"]
        reading.add("pet", "tumor", mm((3, 4, 5)))
        wait_until(lambda: reading.state()["mask"] > before)
        reading.stop()

    def test_each_listener_hears_of_each_change_until_it_leaves(self, reading: Reading) -> None:
        reading.final_answer()
        heard: list[int] = []
        with reading.listening(lambda: heard.append(1)):
            reading.add("pet", "tumor", mm((3, 4, 5)))
            assert heard
            reading.final_answer()
        count = len(heard)
        reading.undo()
        assert len(heard) == count

    def test_marks_from_many_threads_are_all_kept(self, reading: Reading) -> None:
        threads = [threading.Thread(target=reading.add, args=("pet", "tumor", mm((n, 3, 3)))) for n in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(one.point_xyz[0] for one in read_clicks(reading.records.paths[0])) == list(range(16))


@pytest.fixture
def client(reading: Reading) -> Iterator[TestClient]:
    app = create_app(reading, Access("127.0.0.1", 4744, TOKEN))
    with TestClient(app, base_url="http://127.0.0.1:4744", headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


class TestAddresses:
    def test_a_scan_is_a_nifti_file_with_the_values_and_the_place(self, client: TestClient, tmp_path: Path) -> None:
        case = hot_case()
        for name, volume in (("pet", case.pet), ("ct", case.ct)):
            path = tmp_path / f"{name}.nii"
            path.write_bytes(client.get(f"/api/scans/{name}.nii").content)
            image = sitk.ReadImage(str(path))
            np.testing.assert_array_equal(sitk.GetArrayFromImage(image), volume.array)
            np.testing.assert_allclose(image.GetOrigin(), volume.grid.origin_xyz, atol=1e-4)
        assert client.get("/api/scans/none.nii").status_code == 404

    def test_the_mask_is_the_answer_s(self, client: TestClient, reading: Reading, tmp_path: Path) -> None:
        client.post("/api/points", json={"scan": "pet", "kind": "tumor", "ras_mm": mm((3, 4, 5))})
        answer = reading.final_answer()
        path = tmp_path / "mask.nii"
        path.write_bytes(client.get("/api/masks/pet.nii").content)
        np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), answer.masks["pet"].array)

    def test_a_pixel_of_the_projection_leads_to_its_voxel(self, client: TestClient) -> None:
        shape = client.get("/api/projection").json()["shape"]
        frame = np.frombuffer(client.get("/api/projection/0").content, "<u2").reshape(shape)
        rows, columns = np.nonzero(frame == 1000 * HOT_SUV)
        found = {
            tuple(client.get("/api/projection/0/voxel", params={"row": row, "column": column}).json()["voxel"])
            for row, column in zip(rows.tolist(), columns.tolist(), strict=True)
        }
        assert found == set(HOT_XYZ)
        for path in ("/api/projection/36", "/api/projection/0/voxel?row=0&column=99999", "/api/projection/-1"):
            assert client.get(path).status_code == 404

    @pytest.mark.parametrize(
        "body",
        [
            {},
            {"scan": "pet", "kind": "tumor", "ras_mm": [0, 0]},
            {"scan": "pet", "kind": "tumor", "ras_mm": [1e30, 0, 0]},
            {"scan": "pet", "kind": "tumor", "ras_mm": [0, 0, 0], "voxel": [1, 2, 3]},
            {"scan": "pet", "kind": "neither", "ras_mm": ORIGIN_RAS},
            {"scan": "brain", "kind": "tumor", "ras_mm": ORIGIN_RAS},
        ],
    )
    def test_what_is_no_click_is_refused(self, client: TestClient, body: dict[str, object]) -> None:
        assert client.post("/api/points", json=body).status_code == 422
        assert client.get("/api/state").json()["marks"] == []

    def test_the_table_is_a_file(self, client: TestClient) -> None:
        answer = client.get("/api/lesions.csv")
        assert answer.headers["content-type"].startswith("text/csv")
        assert len(answer.text.splitlines()) == len(HOT_XYZ) + 2

    @pytest.mark.parametrize(
        ("error", "status", "detail"),
        [
            (OSError(28, "No space left on device"), 500, "OSError: [Errno 28] No space left on device"),
            (LesionClickError("no memory"), 500, "LesionClickError: no memory"),
            (InputError("no mask"), 422, "no mask"),
        ],
    )
    def test_a_failure_is_told_in_words(
        self,
        client: TestClient,
        reading: Reading,
        monkeypatch: pytest.MonkeyPatch,
        *,
        error: Exception,
        status: int,
        detail: str,
    ) -> None:
        def fail(*_arguments: object) -> None:
            raise error

        monkeypatch.setattr(reading.study, "save", fail)
        answer = client.post("/api/save")
        assert (answer.status_code, answer.json()) == (status, {"detail": detail})

    def test_saving_writes_mask_table_and_clicks(self, client: TestClient, reading: Reading) -> None:
        client.post("/api/points", json={"scan": "pet", "kind": "tumor", "ras_mm": mm((3, 4, 5))})
        saved = client.post("/api/save").json()
        assert saved["files"] == ["lesion-clicks.json", "mask.mha", "mask.nii.gz", "lesions.csv"]
        mask = Volume.read(reading.records.folder / "mask.nii.gz").array
        np.testing.assert_array_equal(mask, reading.final_answer().masks["pet"].array)


class TestOpening:
    def test_the_written_clicks_give_the_algorithm_the_same_mask(self, tmp_path: Path, baseline_folder: Path) -> None:
        """The clicks of the page are the challenge's: a container that gets them writes the page's mask."""
        case = write_case(tmp_path / "case")
        study = open_study([case], model=baseline_folder)
        reading = Reading(study, Records(tmp_path / "out", ("lesion-clicks.json",)))
        reading.start()
        reading.add("pet", "tumor", ras_at(study.scans["pet"].grid, (9, 9, 9)))
        reading.save()
        reading.stop()
        clicks = json.loads((tmp_path / "out/lesion-clicks.json").read_text())
        assert len(clicks["points"]) == 3
        (case / "lesion-clicks.json").write_text(json.dumps(clicks))
        done = Algorithm(baseline_folder).handle(case, tmp_path / "platform")
        saved = Volume.read(tmp_path / "out/mask.mha").array
        np.testing.assert_array_equal(Volume.read(done.masks[0]).array, saved)

    def test_a_pair_of_files_is_a_case(self, tmp_path: Path, baseline_folder: Path) -> None:
        case = hot_case()
        case.ct.write(tmp_path / "ct.nii.gz")
        case.pet.write(tmp_path / "pet.mha")
        study = open_study([tmp_path / "ct.nii.gz", tmp_path / "pet.mha"], model=baseline_folder)
        assert (study.name, list(study.scans)) == ("pet", ["ct", "pet"])
        assert default_output([tmp_path / "ct.nii.gz", tmp_path / "pet.nii.gz"]) == tmp_path / "pet-lesionclick"

    def test_the_page_tells_what_the_log_warned_of(self, tmp_path: Path, baseline_folder: Path) -> None:
        case = hot_case()
        case.ct.write(tmp_path / "ct.nii.gz")
        Volume(case.pet.array * 10_000, case.pet.grid).write(tmp_path / "pet.nii.gz")
        study = open_study([tmp_path / "ct.nii.gz", tmp_path / "pet.nii.gz"], model=baseline_folder)
        reading = Reading(study, Records(tmp_path / "out", ("lesion-clicks.json",)))
        with TestClient(create_app(reading, Access.make("testserver", 80, TOKEN))) as client:
            client.headers["Authorization"] = f"Bearer {TOKEN}"
            (warning,) = client.get("/api/state").json()["warnings"]
        assert warning == "PET: the maximum is 1.2e+05, which looks like Bq/ml; expected SUV, and went on"

    @pytest.mark.parametrize("names", [[], ["none"], ["a.txt", "b.txt"], ["a", "b", "c"]])
    def test_what_is_no_case_is_refused(self, tmp_path: Path, names: list[str]) -> None:
        with pytest.raises(InputError, match="case: expected a folder, or a CT and a PET file"):
            open_study([tmp_path / name for name in names])


def test_without_a_lesion_no_segmentation_of_an_earlier_mask_stays(tmp_path: Path) -> None:
    from helpers.dicom_series import GRID, ct_slices, pet_slices, write

    from lesionclick.dicom.study import read_study

    stored = np.random.default_rng(0).integers(100, 9000, GRID.shape_zyx).astype(np.int16)
    write(pet_slices(stored), tmp_path / "study/a")
    write(ct_slices(stored), tmp_path / "study/b")
    dicom = read_study(tmp_path / "study")
    study = PetCtStudy(GrowingSession(dicom.case), "study", dicom.pet)  # type: ignore[arg-type]
    mask = np.zeros(GRID.shape_zyx, np.uint8)
    mask[1, 2, 3] = 1
    for lesions, names in ((mask, {"segmentation.dcm"}), (np.zeros_like(mask), set())):
        saved = study.save(tmp_path, Answer({"pet": Volume(lesions, study.scans["pet"].grid)}, final=True))
        assert {path.name for path in (*saved, *tmp_path.iterdir()) if path.suffix == ".dcm"} == names


def test_masks_are_sent_compressed(client: TestClient) -> None:
    with client.stream("GET", "/api/masks/pet.nii") as answer:
        raw = b"".join(answer.iter_raw())
    assert gzip.decompress(raw)[:4] == (348).to_bytes(4, "little")


def test_a_dicom_study_is_a_case_that_knows_its_series(tmp_path: Path, baseline_folder: Path) -> None:
    from helpers.dicom_series import GRID, ct_slices, pet_slices, write

    stored = np.random.default_rng(0).integers(100, 9000, GRID.shape_zyx).astype(np.int16)
    write(pet_slices(stored), tmp_path / "study/images")  # as some archives call it
    write(ct_slices(stored), tmp_path / "study/b")
    study = open_study([tmp_path / "study"], model=baseline_folder)
    assert study.describe() == {"task": "task1", "name": "study", "dicom": True}
    np.testing.assert_allclose(study.scans["pet"].array, stored / 1000, rtol=1e-5)  # 2 Bq/ml each, SUV 1 is 2000
