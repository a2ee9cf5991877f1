import json
import math
from pathlib import Path

import numpy as np
import pytest

from lesionclick.errors import InputError
from lesionclick.prompts.points import (
    BACKGROUND,
    MAX_BYTES,
    MAX_LESION,
    TUMOR,
    Click,
    at_step,
    clicks_from_indices,
    indices_zyx,
    is_first_on_lesion,
    is_inside,
    parse_clicks,
    points_from_indices,
    read_clicks,
    read_lesion_points,
    warn_about_clicks,
    write_clicks,
)

SHAPE = (30, 20, 10)


def text(*points: object, **changes: object) -> str:
    """A click file as the platform writes it, with `changes` to its keys; a change to None removes the key."""
    content = {"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points, **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


def point(name: object = TUMOR, at: object = (1, 2, 3)) -> dict[str, object]:
    return {"name": name, "point": at}


def tumor(x: float, y: float, z: float) -> Click:
    return Click(TUMOR, (x, y, z))


class TestParse:
    def test_names_and_points_in_the_order_of_the_file(self) -> None:
        content = text(point(BACKGROUND, [0, 5, 803]), point(TUMOR, [1.5, 2, 3]), point(TUMOR, [-1, 0, 0]))
        assert parse_clicks(content, "test") == (
            Click(BACKGROUND, (0.0, 5.0, 803.0)),
            Click(TUMOR, (1.5, 2.0, 3.0)),
            Click(TUMOR, (-1.0, 0.0, 0.0)),
        )

    def test_bytes_are_read_as_text_is(self) -> None:
        assert parse_clicks(text(point()).encode(), "test") == parse_clicks(text(point()), "test")

    def test_no_point_at_all_is_a_valid_file(self) -> None:
        assert parse_clicks(text(), "test") == ()

    def test_background_alone_is_a_valid_file(self) -> None:
        assert parse_clicks(text(point(BACKGROUND)), "test") == (Click(BACKGROUND, (1.0, 2.0, 3.0)),)

    def test_repeated_points_are_kept(self) -> None:
        assert parse_clicks(text(point(), point()), "test") == (tumor(1, 2, 3), tumor(1, 2, 3))

    def test_keys_that_are_not_needed_are_ignored(self) -> None:
        content = text({**point(), "probability": 0.5}, name="Lesions", version={"major": 1, "minor": 7})
        assert parse_clicks(content, "test") == (tumor(1, 2, 3),)

    def test_allowed_names_are_the_callers(self) -> None:
        content = text(point("3", [1.25, 2, 3]), point("Lesion 3"))
        assert [click.name for click in parse_clicks(content, "test", names={"3", "Lesion 3"})] == ["3", "Lesion 3"]
        with pytest.raises(InputError, match="'tumor'"):
            parse_clicks(text(point(TUMOR)), "test", names={"3"})

    @pytest.mark.parametrize(
        "content",
        [
            pytest.param("", id="empty"),
            pytest.param("tumor 1 2 3", id="no JSON"),
            pytest.param(text(point())[:-1], id="cut off"),
            pytest.param(b"\xff" + text(point()).encode(), id="no UTF-8"),
            pytest.param("[" * 200_000, id="nested too deeply"),
            pytest.param(f'{{"points": {"9" * 5000}}}', id="a number of 5000 digits"),
            pytest.param("null", id="null"),
            pytest.param("[]", id="a list"),
            pytest.param(text(point())[:-1] + ', "points": []}', id="points twice"),
            pytest.param(text(point()).replace('"name"', '"name": "tumor", "name"'), id="name twice"),
            pytest.param(text(version=None), id="no version"),
            pytest.param(text(version=1), id="version is a number"),
            pytest.param(text(version={"minor": 0}), id="no major version"),
            pytest.param(text(version={"major": 2, "minor": 0}), id="another version"),
            pytest.param(text(type=None), id="no type"),
            pytest.param(text(type="Point"), id="another type"),
            pytest.param(text(points=None), id="no points"),
            pytest.param(text(points={}), id="points are an object"),
            pytest.param(text(points="tumor"), id="points are a string"),
            pytest.param(text([1, 2, 3]), id="a point is a list"),
            pytest.param(text({"point": [1, 2, 3]}), id="no name"),
            pytest.param(text({"name": TUMOR}), id="no coordinates"),
            pytest.param(text(point("lesion")), id="an unknown name"),
            pytest.param(text(point("Tumor")), id="another case"),
            pytest.param(text(point(1)), id="name is a number"),
            pytest.param(text(point([TUMOR])), id="name is a list"),
            pytest.param(text(point(at=[1, 2])), id="two coordinates"),
            pytest.param(text(point(at=[1, 2, 3, 4])), id="four coordinates"),
            pytest.param(text(point(at=[])), id="no coordinate"),
            pytest.param(text(point(at="123")), id="coordinates are a string"),
            pytest.param(text(point(at={"x": 1, "y": 2, "z": 3})), id="coordinates are an object"),
            pytest.param(text(point(at=None)), id="coordinates are null"),
            pytest.param(text(point(at=[1, 2, "3"])), id="a string for a number"),
            pytest.param(text(point(at=[1, 2, None])), id="null for a number"),
            pytest.param(text(point(at=[1, 2, True])), id="true for a number"),
            pytest.param(text(point(at=[1, 2, [3]])), id="a list for a number"),
            pytest.param(text(point(at=[1, 2, math.nan])), id="NaN"),
            pytest.param(text(point(at=[1, 2, math.inf])), id="infinite"),
            pytest.param(text(point(at=[1, 2, 3])).replace("3", "1e400"), id="infinite when read"),
            pytest.param(text(point(at=[1, 2, 10**400])), id="an integer beyond floats"),
        ],
    )
    def test_anything_else_is_refused_with_the_name_of_the_source(self, content: str | bytes) -> None:
        with pytest.raises(InputError, match=r"^clicks\.json.*: expected .*, found ") as caught:
            parse_clicks(content, "clicks.json")
        assert len(str(caught.value)) < 300

    def test_message_tells_which_point(self) -> None:
        with pytest.raises(
            InputError, match=r"test, point 1: expected three finite numbers \[x, y, z\], found \[1, 2\]"
        ):
            parse_clicks(text(point(), point(at=[1, 2])), "test")


class TestFiles:
    def test_click_files_of_the_challenge(self, golden: Path) -> None:
        files = sorted((golden / "challenge_clicks").glob("*.json"))
        assert len(files) == 4
        for path in files:
            clicks = read_clicks(path)
            names = [click.name for click in clicks]
            assert names in ([TUMOR] * 10 + [BACKGROUND] * 10, [BACKGROUND] * 10)
            stored = json.loads(path.read_bytes())["points"]
            assert [list(click.point_xyz) for click in clicks] == [entry["point"] for entry in stored]

    def test_written_clicks_are_read_again(self, tmp_path: Path) -> None:
        clicks = (Click(BACKGROUND, (0.0, -4.0, 803.0)), tumor(1.5, 2.25, 1e300), tumor(1, 2, 3), tumor(1, 2, 3))
        write_clicks(tmp_path / "clicks.json", clicks)
        assert read_clicks(tmp_path / "clicks.json") == clicks

    def test_written_file_has_the_platforms_form(self, tmp_path: Path) -> None:
        write_clicks(tmp_path / "clicks.json", [tumor(126.0, 2.5, 3.0)])
        assert json.loads((tmp_path / "clicks.json").read_text()) == {
            "version": {"major": 1, "minor": 0},
            "type": "Multiple points",
            "points": [{"name": "tumor", "point": [126, 2.5, 3]}],
        }
        assert "126," in (tmp_path / "clicks.json").read_text()

    def test_huge_file_is_refused_unread(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.json"
        with path.open("wb") as file:
            file.truncate(50_000_000)
        with pytest.raises(InputError, match=f"at most {MAX_BYTES} bytes, found 50000000"):
            read_clicks(path)

    def test_largest_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.json"
        path.write_text(text(point()).ljust(MAX_BYTES))
        assert read_clicks(path) == (tumor(1, 2, 3),)
        path.write_text(text(point()).ljust(MAX_BYTES + 1))
        with pytest.raises(InputError, match="at most"):
            read_clicks(path)

    def test_missing_file_and_folder_are_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"none\.json: expected a click file, found nothing"):
            read_clicks(tmp_path / "none.json")
        with pytest.raises(InputError, match="found a folder or device"):
            read_clicks(tmp_path)


class TestLesionPoints:
    @staticmethod
    def read(folder: Path, *points: object) -> dict[int, tuple[float, float, float]]:
        (folder / "points.json").write_text(text(*points))
        return read_lesion_points(folder / "points.json")

    def test_numbers_in_either_form_and_any_case(self, tmp_path: Path) -> None:
        points = [point("12", [1, 2.5, -3]), point("Lesion 3", [4, 5, 6]), point("LESION 1"), point("lesion 65535")]
        found = self.read(tmp_path, *points)
        assert found == {1: (1, 2, 3), 3: (4, 5, 6), 12: (1, 2.5, -3), MAX_LESION: (1, 2, 3)}
        assert list(found) == [1, 3, 12, 65535]

    def test_no_point(self, tmp_path: Path) -> None:
        assert self.read(tmp_path) == {}

    @pytest.mark.parametrize(
        "name",
        [
            *("0", "65536", "99999", "100000", "-1", "+1", "1.0", "01", " 1", "1 ", "1\n", "\u0661", "1_0", ""),
            *("Lesion", "Lesion 0", "Lesion  1", "Lesion 1 2", "tumor", "lesions 1", "Lesion\n1"),
        ],
    )
    def test_other_names_are_refused(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(
            InputError, match=r"json, point 1: expected a lesion's number from 1 to 65535.*found '"
        ) as caught:
            self.read(tmp_path, point("1"), point(name))
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize("name", [3, None, ["3"], True])
    def test_names_that_are_no_text_are_refused(self, tmp_path: Path, name: object) -> None:
        with pytest.raises(InputError, match="point 0: expected a name, found"):
            self.read(tmp_path, point(name))

    def test_number_that_comes_twice_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match=r"point 2: expected one point for each lesion, found lesion 3 again"):
            self.read(tmp_path, point("3"), point("4"), point("Lesion 3"))

    def test_points_are_checked_as_in_every_click_file(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="point 0: expected three finite numbers"):
            self.read(tmp_path, point("3", [1, math.nan, 3]))
        with pytest.raises(InputError, match="found nothing"):
            read_lesion_points(tmp_path / "none.json")


class TestSteps:
    CLICKS = tuple(Click(name, (n, 0.0, 0.0)) for n, name in enumerate((TUMOR, BACKGROUND, TUMOR, TUMOR, BACKGROUND)))

    @pytest.mark.parametrize(
        ("step", "kept"), [(0, []), (1, [0, 1]), (2, [0, 1, 2, 4]), (3, [0, 1, 2, 3, 4]), (10, [0, 1, 2, 3, 4])]
    )
    def test_first_of_each_name_in_the_order_of_the_file(self, step: int, kept: list[int]) -> None:
        assert [click.point_xyz[0] for click in at_step(self.CLICKS, step)] == kept

    def test_repeated_clicks_count(self) -> None:
        assert at_step((tumor(1, 1, 1), tumor(1, 1, 1), tumor(2, 2, 2)), 2) == (tumor(1, 1, 1), tumor(1, 1, 1))


class TestIndices:
    def test_axes_are_turned_around_and_other_names_left_out(self) -> None:
        clicks = (tumor(1, 2, 3), Click(BACKGROUND, (4, 5, 6)), tumor(9, 19, 29))
        found = indices_zyx(clicks, TUMOR, SHAPE)
        assert found.tolist() == [[3, 2, 1], [29, 19, 9]]
        assert found.dtype == np.int64
        assert indices_zyx(clicks, BACKGROUND, SHAPE).tolist() == [[6, 5, 4]]

    @pytest.mark.parametrize("clicks", [(), (Click(BACKGROUND, (1, 2, 3)),), (tumor(-1, 0, 0),)])
    def test_no_click_gives_no_row(self, clicks: tuple[Click, ...]) -> None:
        assert indices_zyx(clicks, TUMOR, SHAPE).shape == (0, 3)

    @pytest.mark.parametrize(("x", "index"), [(0.5, 0), (1.5, 2), (2.5, 2), (2.4, 2), (2.6, 3), (-0.5, 0), (9.49, 9)])
    def test_coordinates_are_rounded_half_to_even(self, x: float, index: int) -> None:
        assert indices_zyx((tumor(x, 0, 0),), TUMOR, SHAPE).tolist() == [[0, 0, index]]

    @pytest.mark.parametrize(
        "outside", [(10, 0, 0), (0, 20, 0), (0, 0, 30), (-1, 0, 0), (-0.51, 0, 0), (9.5, 0, 0), (1e300, 0, 0)]
    )
    def test_clicks_outside_are_left_out_and_the_others_kept(self, outside: tuple[float, float, float]) -> None:
        clicks = (tumor(1, 2, 3), tumor(*outside), tumor(4, 5, 6))
        assert indices_zyx(clicks, TUMOR, SHAPE).tolist() == [[3, 2, 1], [6, 5, 4]]

    def test_clicks_from_indices_is_the_inverse(self) -> None:
        inside = np.random.default_rng(0).integers(0, SHAPE, (20, 3))
        clicks = clicks_from_indices(inside[:12], inside[12:])
        assert clicks[0] == tumor(*inside[0, ::-1].tolist())
        assert np.array_equal(indices_zyx(clicks, TUMOR, SHAPE), inside[:12])
        assert np.array_equal(indices_zyx(clicks, BACKGROUND, SHAPE), inside[12:])
        assert clicks_from_indices(inside[:0], inside[:0]) == ()

    def test_points_from_indices_turns_the_axes_of_one_and_of_many(self) -> None:
        assert points_from_indices([1, 2.5, 3]).tolist() == [3, 2.5, 1]
        assert points_from_indices(np.array([[1, 2, 3], [4, 5, 6]])).tolist() == [[3, 2, 1], [6, 5, 4]]

    @pytest.mark.parametrize(
        ("point_xyz", "inside"),
        [
            *[((9, 19, 29), True), ((-0.5, 0, 0), True), ((9.49, 19.49, 29.49), True)],
            *[
                ((10, 0, 0), False),
                ((0, 20, 0), False),
                ((0, 0, 30), False),
                ((0, 0, -0.51), False),
                ((9.5, 0, 0), False),
            ],
        ],
    )
    def test_point_is_inside_where_its_voxel_is(self, point_xyz: tuple[float, float, float], inside: bool) -> None:
        assert is_inside(point_xyz, SHAPE) is inside


class TestWarnings:
    @pytest.mark.parametrize(
        ("clicks", "message"),
        [
            ([tumor(0.5, 0, 0), tumor(1.5, 0, 0)], "2 of 2 clicks .* rounded half to even, such as tumor (0.5, 0, 0)"),
            (
                [tumor(1, 0, 0), tumor(10, 0, 0)],
                "1 of 2 clicks .*(10, 20, 30) voxels (x, y, z) .*ignored, .*(10, 0, 0)",
            ),
            ([tumor(1, 0, 0)] * 3, "2 of 3 clicks .* clicked before, and are kept, such as tumor (1, 0, 0)"),
            ([tumor(1, 0, 0), Click(BACKGROUND, (1, 0, 0))], "1 of 2 clicks .* kept, such as background (1, 0, 0)"),
        ],
    )
    def test_one_for_each_kind_of_oddity(
        self, clicks: list[Click], message: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        warn_about_clicks(clicks, SHAPE, "lesion-clicks")
        (record,) = caplog.records
        assert record.levelname == "WARNING"
        remaining = record.getMessage()
        assert remaining.startswith("lesion-clicks: ")
        for part in message.split(".*"):
            _, found, remaining = remaining.partition(part)
            assert found == part

    def test_all_kinds_at_once(self, caplog: pytest.LogCaptureFixture) -> None:
        warn_about_clicks([tumor(10.25, 0, 0), tumor(10.25, 0, 0)], SHAPE, "lesion-clicks")
        assert len(caplog.records) == 3

    def test_none_for_ordinary_clicks(self, caplog: pytest.LogCaptureFixture) -> None:
        warn_about_clicks([], SHAPE, "lesion-clicks")
        warn_about_clicks([tumor(1, 0, 0), Click(BACKGROUND, (9, 19, 29))], SHAPE, "lesion-clicks")
        assert caplog.records == []


def test_a_click_within_50_mm_of_an_earlier_one_is_not_the_first_on_its_lesion() -> None:
    # voxels of 2 x 5 x 5 mm: the second is 50 mm from the first, the third 40, the fourth 48 from the second alone
    points = np.array([[0, 0, 0], [0, 10, 0], [20, 0, 0], [24, 10, 0]])
    assert is_first_on_lesion(points, (2.0, 5.0, 5.0)).tolist() == [True, True, False, False]
    assert is_first_on_lesion(points[::-1], (2.0, 5.0, 5.0)).tolist() == [True, True, False, False]
    assert is_first_on_lesion(points[:0], (2.0, 5.0, 5.0)).tolist() == []
