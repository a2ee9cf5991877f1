import json
import math
from pathlib import Path

import pytest

from lesionclick.errors import InputError
from lesionclick.grand_challenge.click_files import (
    MAX_BYTES,
    MAX_LESION,
    parse_clicks,
    read_clicks,
    read_lesion_points,
    write_clicks,
)
from lesionclick.prompts.points import BACKGROUND, TUMOR, Point, Prompts


def text(*points: object, **changes: object) -> str:
    """A click file as the platform writes it, with `changes` to its keys; a change to None removes the key."""
    content = {"version": {"major": 1, "minor": 0}, "type": "Multiple points", "points": points, **changes}
    return json.dumps({key: value for key, value in content.items() if value is not None})


def point(name: object = TUMOR, at: object = (1, 2, 3)) -> dict[str, object]:
    return {"name": name, "point": at}


def tumor(x: float, y: float, z: float) -> Point:
    return Point(TUMOR, (x, y, z))


def prompts(*points: Point) -> Prompts:
    return Prompts(points)


class TestParse:
    def test_names_and_points_in_the_order_of_the_file(self) -> None:
        content = text(point(BACKGROUND, [0, 5, 803]), point(TUMOR, [1.5, 2, 3]), point(TUMOR, [-1, 0, 0]))
        assert parse_clicks(content, "test") == prompts(
            Point(BACKGROUND, (0.0, 5.0, 803.0)),
            Point(TUMOR, (1.5, 2.0, 3.0)),
            Point(TUMOR, (-1.0, 0.0, 0.0)),
        )

    def test_bytes_are_read_as_text_is(self) -> None:
        assert parse_clicks(text(point()).encode(), "test") == parse_clicks(text(point()), "test")

    def test_no_point_at_all_is_a_valid_file(self) -> None:
        assert parse_clicks(text(), "test") == prompts()

    def test_background_alone_is_a_valid_file(self) -> None:
        assert parse_clicks(text(point(BACKGROUND)), "test") == prompts(Point(BACKGROUND, (1.0, 2.0, 3.0)))

    def test_repeated_points_are_kept(self) -> None:
        assert parse_clicks(text(point(), point()), "test") == prompts(tumor(1, 2, 3), tumor(1, 2, 3))

    def test_keys_that_are_not_needed_are_ignored(self) -> None:
        content = text({**point(), "probability": 0.5}, name="Lesions", version={"major": 1, "minor": 7})
        assert parse_clicks(content, "test") == prompts(tumor(1, 2, 3))

    def test_allowed_names_are_the_callers(self) -> None:
        content = text(point("3", [1.25, 2, 3]), point("Lesion 3"))
        assert [one.kind for one in parse_clicks(content, "test", names={"3", "Lesion 3"})] == ["3", "Lesion 3"]
        assert parse_clicks(content, "test", names=None) == parse_clicks(content, "test", names={"3", "Lesion 3"})
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
            names = [click.kind for click in clicks]
            assert names in ([TUMOR] * 10 + [BACKGROUND] * 10, [BACKGROUND] * 10)
            stored = json.loads(path.read_bytes())["points"]
            assert [list(click.point_xyz) for click in clicks] == [entry["point"] for entry in stored]

    def test_written_clicks_are_read_again(self, tmp_path: Path) -> None:
        clicks = prompts(Point(BACKGROUND, (0, -4, 803)), tumor(1.5, 2.25, 1e300), tumor(1, 2, 3), tumor(1, 2, 3))
        write_clicks(tmp_path / "clicks.json", clicks)
        assert read_clicks(tmp_path / "clicks.json") == clicks

    def test_written_file_has_the_platforms_form(self, tmp_path: Path) -> None:
        write_clicks(tmp_path / "clicks.json", prompts(tumor(126.0, 2.5, 3.0)))
        assert json.loads((tmp_path / "clicks.json").read_text()) == {
            "version": {"major": 1, "minor": 0},
            "type": "Multiple points",
            "points": [{"name": "tumor", "point": [126, 2.5, 3]}],
        }
        assert "126," in (tmp_path / "clicks.json").read_text()

    def test_what_was_found_is_told_shortly(self) -> None:
        nested = {letter * 40: {letter * 41: {letter * 42: [letter * 43] * 9}} for letter in "abcdefgh"}
        content = json.dumps({"version": nested, "points": [nested] * 9})
        with pytest.raises(InputError, match="an object with the key 'type', found") as refused:
            parse_clicks(content, "clicks")
        assert 300 < len(str(refused.value)) < 400

    def test_huge_file_is_refused_unread(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.json"
        with path.open("wb") as file:
            file.truncate(50_000_000)
        with pytest.raises(InputError, match=f"at most {MAX_BYTES} bytes, found 50000000"):
            read_clicks(path)

    def test_largest_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "clicks.json"
        path.write_text(text(point()).ljust(MAX_BYTES))
        assert read_clicks(path) == prompts(tumor(1, 2, 3))
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
