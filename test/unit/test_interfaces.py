import json
from pathlib import Path

import pytest

from lesionclick.errors import InputError
from lesionclick.grand_challenge.interfaces import (
    INTERFACES,
    PRIMARY,
    SECONDARY,
    Interface,
    find_interface,
    interfaces_of,
    locate,
)

(PET_CT,) = interfaces_of("task1")
FOLLOW_UPS = interfaces_of("task2")

BASELINE = ("images/{0}-baseline-ct", "images/{0}-baseline-ct-tumor-lesion-seg", "{0}-baseline-lesion-clicks.json")
FOLLOWUP = ("images/{0}-followup-ct", "{0}-followup-lesion-clicks.json")
MASK = "images/{0}-followup-ct-tumor-lesion-seg"


def lay_out(folder: Path, *paths: str) -> Path:
    for path in paths:
        if path.endswith(".json"):
            (folder / path).write_text("{}")
        else:
            (folder / path).mkdir(parents=True)
    return folder


def list_sockets(folder: Path, *paths: object) -> Path:
    """Write an inputs.json whose slugs are not the last parts of the paths."""
    sockets = [
        {"socket": {"slug": f"socket-{n}", "relative_path": path}, "file": None, "image": {"name": "../../x"}}
        for n, path in enumerate(paths)
    ]
    (folder / "inputs.json").write_text(json.dumps(sockets))
    return folder


def test_folders_and_files_tell_the_interface(tmp_path: Path) -> None:
    assert find_interface(lay_out(tmp_path, "images/ct", "images/pet", "lesion-clicks.json")) is PET_CT


@pytest.mark.parametrize(
    "paths", [("images/ct", "images/pet", "lesion-clicks.json"), ("images/ct/", "lesion-clicks.json", "images/pet")]
)
def test_relative_paths_of_the_listing_tell_the_interface_whatever_the_slugs(
    tmp_path: Path, paths: tuple[str, ...]
) -> None:
    assert find_interface(list_sockets(tmp_path, *paths)) is PET_CT


def of(region: str, *paths: str) -> list[str]:
    return [path.format(region) for path in paths]


@pytest.mark.parametrize(
    ("interface", "name", "inputs", "outputs"),
    [
        (FOLLOW_UPS[0], "primary", of("primary", *BASELINE, *FOLLOWUP), of("primary", MASK)),
        (
            FOLLOW_UPS[1],
            "primary and secondary",
            of("primary", *BASELINE, *FOLLOWUP) + of("secondary", *BASELINE, *FOLLOWUP),
            of("primary", MASK) + of("secondary", MASK),
        ),
        (
            FOLLOW_UPS[2],
            "two baselines, one follow-up",
            of("primary", *BASELINE, *FOLLOWUP) + of("secondary", *BASELINE),
            of("primary", MASK),
        ),
        (
            FOLLOW_UPS[3],
            "one baseline, two follow-ups",
            of("primary", *BASELINE, *FOLLOWUP) + of("secondary", *FOLLOWUP),
            of("primary", MASK) + of("secondary", MASK),
        ),
    ],
)
def test_interfaces_of_task_2_are_found_by_folder_and_by_listing(
    tmp_path: Path, interface: Interface, name: str, inputs: list[str], outputs: list[str]
) -> None:
    assert find_interface(lay_out(tmp_path, *inputs)) is interface
    assert find_interface(list_sockets(tmp_path, *reversed(inputs))) is interface
    assert (interface.name, interface.task) == (name, "task2")
    assert [socket.relative_path for socket in interface.outputs] == outputs


def test_there_are_five_interfaces_and_two_regions() -> None:
    assert (PET_CT, *FOLLOW_UPS) == INTERFACES
    assert len(FOLLOW_UPS) == 4
    assert (PRIMARY.name, SECONDARY.name) == ("primary", "secondary")
    kinds = {socket.slug: socket.kind for socket in SECONDARY.baseline + SECONDARY.followup}
    assert kinds == {
        "secondary-baseline-ct": "image",
        "secondary-baseline-ct-tumor-lesion-seg": "image",
        "secondary-baseline-lesion-clicks": "json",
        "secondary-followup-ct": "image",
        "secondary-followup-lesion-clicks": "json",
    }


@pytest.mark.parametrize(
    ("paths", "named"),
    [
        (of("primary", *BASELINE), FOLLOW_UPS),
        (of("secondary", *BASELINE, *FOLLOWUP), FOLLOW_UPS),
        (of("primary", *BASELINE, *FOLLOWUP) + of("secondary", BASELINE[0]), FOLLOW_UPS),
        (["images/ct"], (PET_CT,)),
        (["images/mr"], INTERFACES),
        (["images/ct", "primary-followup-lesion-clicks.json"], INTERFACES),
        ([], INTERFACES),
    ],
)
def test_unknown_set_is_refused_with_the_interfaces_of_the_task_that_it_looks_like(
    tmp_path: Path, paths: list[str], named: tuple[Interface, ...]
) -> None:
    with pytest.raises(InputError) as caught:
        find_interface(lay_out(tmp_path, *paths))
    expected, _, found = str(caught.value).partition("; found ")
    for interface in INTERFACES:
        inputs = ", ".join(socket.relative_path for socket in interface.inputs)
        assert (f"{inputs} ({interface.name})" in expected) == (interface in named)
    assert all(repr(path) in found for path in paths)
    assert len(str(caught.value).splitlines()) == 1


def test_only_the_given_interfaces_are_known(tmp_path: Path) -> None:
    lay_out(tmp_path, *of("primary", *BASELINE, *FOLLOWUP))
    assert find_interface(tmp_path, FOLLOW_UPS) is FOLLOW_UPS[0]
    with pytest.raises(InputError, match=r"expected images/ct, .*\(PET/CT\); found "):
        find_interface(tmp_path, (PET_CT,))


def test_listing_counts_where_folders_say_otherwise(tmp_path: Path) -> None:
    lay_out(tmp_path, "images/ct", "images/pet", "lesion-clicks.json")
    with pytest.raises(InputError, match=r"inputs\.json: .*found \['images/mr'\]"):
        find_interface(list_sockets(tmp_path, "images/mr"))


@pytest.mark.parametrize(
    "paths",
    [
        (),
        ("images/ct",),
        ("images/pet", "lesion-clicks.json"),
        ("images/ct", "images/pet"),
        ("images/ct", "images/pet", "lesion-clicks.json", "images/mr"),
        ("images/ct", "images/pet", "lesion-clicks.json", "other.json"),
    ],
)
def test_unknown_sets_are_refused_with_what_was_found_and_what_is_known(tmp_path: Path, paths: tuple[str, ...]) -> None:
    for folder in (lay_out(tmp_path, *paths), list_sockets(tmp_path, *paths)):
        with pytest.raises(InputError) as caught:
            find_interface(folder)
        expected, _, found = str(caught.value).partition("; found ")
        assert "expected images/ct, images/pet, lesion-clicks.json (PET/CT)" in expected
        assert all(repr(path) in found for path in paths)
        assert paths or found == "nothing"


def test_socket_that_is_listed_twice_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found"):
        find_interface(list_sockets(tmp_path, "images/ct", "images/ct", "images/pet", "lesion-clicks.json"))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff",
        b"[" * 200_000,
        b"3",
        b"{}",
        b"[1]",
        b"[{}]",
        b'[{"socket": 1}]',
        b'[{"socket": {"slug": "ct"}}]',
    ]
    + [b'[{"socket": {"relative_path": %s}}]' % path for path in (b"null", b"3", b"[]")],
)
def test_broken_listing_is_refused(tmp_path: Path, content: bytes) -> None:
    lay_out(tmp_path, "images/ct", "images/pet", "lesion-clicks.json")
    (tmp_path / "inputs.json").write_bytes(content)
    with pytest.raises(InputError, match=r"inputs\.json: expected "):
        find_interface(tmp_path)


def test_missing_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="none: expected the folder of a case"):
        find_interface(tmp_path / "none")


def test_outputs_are_where_the_platform_wants_them() -> None:
    assert [socket.relative_path for socket in PET_CT.outputs] == ["images/tumor-lesion-segmentation"]


class TestLocate:
    def test_path_in_the_folder(self, tmp_path: Path) -> None:
        assert locate(tmp_path, "images/ct") == tmp_path / "images" / "ct"

    def test_link_in_the_folder_and_to_the_folder(self, tmp_path: Path) -> None:
        (tmp_path / "case").mkdir()
        (tmp_path / "case" / "a").touch()
        (tmp_path / "case" / "b").symlink_to("a")
        (tmp_path / "link").symlink_to("case")
        assert locate(tmp_path / "link", "b") == tmp_path / "link" / "b"

    @pytest.mark.parametrize("target", ["../outside", "/etc/hostname"])
    def test_links_that_lead_out_are_refused(self, tmp_path: Path, target: str) -> None:
        (tmp_path / "case").mkdir()
        (tmp_path / "case" / "link").symlink_to(target)
        with pytest.raises(InputError, match=r"expected a path inside .*, found a link to "):
            locate(tmp_path / "case", "link")

    def test_link_to_itself_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "link").symlink_to("link")
        with pytest.raises(InputError, match="link"):
            locate(tmp_path, "link")

    def test_listing_that_is_a_link_out_is_refused(self, tmp_path: Path) -> None:
        list_sockets(tmp_path, "images/ct", "images/pet", "lesion-clicks.json")
        (tmp_path / "case").mkdir()
        (tmp_path / "case" / "inputs.json").symlink_to(tmp_path / "inputs.json")
        with pytest.raises(InputError, match="inside"):
            find_interface(tmp_path / "case")
