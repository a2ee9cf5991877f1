import json
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from helpers.case_folder import CT_NAME, PET_NAME, PROMPTS, ct_path, pet_path, write_case
from helpers.longitudinal_folder import FOLLOWUP_POINTS, image_path, write_longitudinal_case, write_points

from lesionclick.errors import InputError
from lesionclick.grand_challenge.case_folder import CaseFolder
from lesionclick.grand_challenge.click_files import write_clicks
from lesionclick.grand_challenge.interfaces import (
    CT,
    LESION_CLICKS,
    LONGITUDINAL_CT,
    PET,
    PET_CT,
    PRIMARY,
    REGIONS,
    SECONDARY,
    TUMOR_LESION_SEGMENTATION,
    Interface,
)
from lesionclick.prompts.points import Prompts

ALL = (*PET_CT, *LONGITUDINAL_CT)
PET_CT_PATHS = ("images/ct", "images/pet", "lesion-clicks.json")


def paths_of(interface: Interface) -> list[str]:
    return [socket.relative_path for socket in interface.inputs]


PRIMARY_BASELINE = [socket.relative_path for socket in PRIMARY.baseline]
SECONDARY_REGION = [socket.relative_path for socket in SECONDARY.baseline + SECONDARY.followup]


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


class TestOpen:
    @pytest.mark.parametrize("interface", ALL, ids=lambda interface: interface.name)
    def test_folders_and_files_tell_the_interface(self, tmp_path: Path, interface: Interface) -> None:
        folder = CaseFolder.open(lay_out(tmp_path, *paths_of(interface)))
        assert folder.interface is interface
        assert folder.path == tmp_path

    @pytest.mark.parametrize("interface", ALL, ids=lambda interface: interface.name)
    def test_listing_tells_the_interface_whatever_the_slugs_and_the_order(
        self, tmp_path: Path, interface: Interface
    ) -> None:
        list_sockets(tmp_path, *reversed(paths_of(interface)))
        assert CaseFolder.open(tmp_path).interface is interface

    def test_listed_folder_may_end_in_a_slash(self, tmp_path: Path) -> None:
        list_sockets(tmp_path, "images/ct/", "lesion-clicks.json", "images/pet")
        assert CaseFolder.open(tmp_path).interface is PET_CT[0]

    def test_interface_is_found_once(self, tmp_path: Path) -> None:
        """What the folder turns into afterwards does not change what it was opened as."""
        folder = CaseFolder.open(write_case(tmp_path))
        image = folder.image(CT)
        list_sockets(tmp_path, "images/mr")
        lay_out(tmp_path, "images/mr")
        assert folder.interface is PET_CT[0]
        assert folder.image(CT) is image
        assert folder.mask_paths(tmp_path).keys() == {TUMOR_LESION_SEGMENTATION.socket}
        assert folder.fingerprint()
        with pytest.raises(InputError, match="images/mr"):
            CaseFolder.open(tmp_path)

    @pytest.mark.parametrize(
        ("paths", "named"),
        [
            (PRIMARY_BASELINE, LONGITUDINAL_CT),
            (SECONDARY_REGION, LONGITUDINAL_CT),
            (paths_of(LONGITUDINAL_CT[0]) + SECONDARY_REGION[:1], LONGITUDINAL_CT),
            (["images/ct"], PET_CT),
            (["images/mr"], ALL),
            (["images/ct", "primary-followup-lesion-clicks.json"], ALL),
            ([], ALL),
        ],
    )
    def test_unknown_set_is_refused_with_the_interfaces_of_the_task_that_it_looks_like(
        self, tmp_path: Path, paths: Sequence[str], named: tuple[Interface, ...]
    ) -> None:
        with pytest.raises(InputError) as caught:
            CaseFolder.open(lay_out(tmp_path, *paths))
        expected, _, found = str(caught.value).partition("; found ")
        for interface in ALL:
            assert (f"{', '.join(paths_of(interface))} ({interface.name})" in expected) == (interface in named)
        assert all(repr(path) in found for path in paths)
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize(
        "paths",
        [
            (),
            ("images/ct",),
            ("images/pet", "lesion-clicks.json"),
            ("images/ct", "images/pet"),
            (*PET_CT_PATHS, "images/mr"),
            (*PET_CT_PATHS, "other.json"),
        ],
    )
    def test_unknown_set_is_refused_with_what_was_found_and_what_is_known(
        self, tmp_path: Path, paths: tuple[str, ...]
    ) -> None:
        for folder in (lay_out(tmp_path, *paths), list_sockets(tmp_path, *paths)):
            with pytest.raises(InputError) as caught:
                CaseFolder.open(folder)
            expected, _, found = str(caught.value).partition("; found ")
            assert "expected images/ct, images/pet, lesion-clicks.json (PET/CT)" in expected
            assert all(repr(path) in found for path in paths)
            assert paths or found == "nothing"

    def test_listing_counts_where_folders_say_otherwise(self, tmp_path: Path) -> None:
        lay_out(tmp_path, *PET_CT_PATHS)
        with pytest.raises(InputError, match=r"inputs\.json: .*found \['images/mr'\]"):
            CaseFolder.open(list_sockets(tmp_path, "images/mr"))

    def test_socket_that_is_listed_twice_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="found"):
            CaseFolder.open(list_sockets(tmp_path, "images/ct", *PET_CT_PATHS))

    @pytest.mark.parametrize(
        "content",
        [
            *(b"", b"{", b"\xff", b"[" * 200_000, b"3", b"{}", b"[1]", b"[{}]"),
            *(b'[{"socket": 1}]', b'[{"socket": {"slug": "ct"}}]'),
            *(b'[{"socket": {"relative_path": %s}}]' % path for path in (b"null", b"3", b"[]")),
        ],
    )
    def test_broken_listing_is_refused(self, tmp_path: Path, content: bytes) -> None:
        lay_out(tmp_path, *PET_CT_PATHS)
        (tmp_path / "inputs.json").write_bytes(content)
        with pytest.raises(InputError, match=r"inputs\.json: expected "):
            CaseFolder.open(tmp_path)

    @pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
    def test_listing_that_is_no_file_is_refused(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        make(lay_out(tmp_path, *PET_CT_PATHS) / "inputs.json")
        with pytest.raises(InputError, match=r"inputs\.json: expected a file, found a folder or device"):
            CaseFolder.open(tmp_path)

    def test_listing_that_is_a_link_out_is_refused(self, tmp_path: Path) -> None:
        list_sockets(tmp_path, *PET_CT_PATHS)
        (tmp_path / "case").mkdir()
        (tmp_path / "case" / "inputs.json").symlink_to(tmp_path / "inputs.json")
        with pytest.raises(InputError, match="inside"):
            CaseFolder.open(tmp_path / "case")

    def test_missing_folder_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="none: expected the folder of a case"):
            CaseFolder.open(tmp_path / "none")


class TestFiles:
    def test_image_of_a_socket(self, tmp_path: Path) -> None:
        folder = CaseFolder.open(write_case(tmp_path))
        assert folder.image(CT).path == ct_path(tmp_path)
        assert folder.image(PET).path == pet_path(tmp_path)
        assert str(folder.image(PET)) == f"pet ({PET_NAME}.mha)"

    def test_header_of_an_image_is_read_once(self, tmp_path: Path) -> None:
        folder = CaseFolder.open(write_case(tmp_path))
        image = folder.image(CT)
        ct_path(tmp_path).unlink()
        assert folder.image(CT) is image

    def test_missing_image_is_refused(self, tmp_path: Path) -> None:
        ct_path(write_case(tmp_path)).unlink()
        with pytest.raises(InputError, match="images/ct: expected exactly one file"):
            CaseFolder.open(tmp_path).image(CT)

    def test_json_of_a_socket(self, tmp_path: Path) -> None:
        assert CaseFolder.open(write_case(tmp_path)).json(LESION_CLICKS) == tmp_path / "lesion-clicks.json"

    def test_json_that_is_a_link_out_is_refused(self, tmp_path: Path) -> None:
        folder = CaseFolder.open(write_case(tmp_path / "case"))
        path = tmp_path / "case" / "lesion-clicks.json"
        path.rename(tmp_path / "elsewhere")
        path.symlink_to(tmp_path / "elsewhere")
        with pytest.raises(InputError, match=r"lesion-clicks\.json: expected a path inside"):
            folder.json(LESION_CLICKS)


class TestMaskPaths:
    def test_mask_is_named_after_the_ct(self, tmp_path: Path) -> None:
        paths = CaseFolder.open(write_case(tmp_path / "in")).mask_paths(tmp_path / "out")
        expected = tmp_path / "out" / "images" / "tumor-lesion-segmentation" / f"{CT_NAME}.mha"
        assert paths == {TUMOR_LESION_SEGMENTATION.socket: expected}

    def test_ending_in_capitals_and_name_with_dots(self, tmp_path: Path) -> None:
        ct_path(write_case(tmp_path)).rename(tmp_path / "images" / "ct" / "a.b c.MHA")
        (path,) = CaseFolder.open(tmp_path).mask_paths(tmp_path).values()
        assert path.name == "a.b c.mha"

    @pytest.mark.parametrize("followups", [(PRIMARY,), REGIONS])
    def test_each_followup_has_a_mask_that_is_named_after_its_ct(self, tmp_path: Path, followups) -> None:
        folder = CaseFolder.open(write_longitudinal_case(tmp_path / "in", followups=followups))
        paths = folder.mask_paths(tmp_path)
        assert list(paths) == [region.mask.socket for region in followups]
        assert list(paths.values()) == [
            tmp_path / f"images/{name}-followup-ct-tumor-lesion-seg/5d1e-{name}-followup-ct.mha"
            for name in (region.name for region in followups)
        ]

    def test_every_folder_is_made_and_left_empty(self, tmp_path: Path) -> None:
        folder = CaseFolder.open(write_longitudinal_case(tmp_path / "in", followups=REGIONS))
        for _ in range(2):
            folder.prepare_output(tmp_path / "out")
            folders = list((tmp_path / "out" / "images").iterdir())
            assert {folder.name for folder in folders} == {region.mask.socket.slug for region in REGIONS}
            assert [list(folder.iterdir()) for folder in folders] == [[], []]

    @pytest.mark.parametrize("file", ["out", "out/images", "out/images/secondary-followup-ct-tumor-lesion-seg"])
    def test_file_in_the_way_of_any_is_refused_with_folder_and_user(self, tmp_path: Path, file: str) -> None:
        folder = CaseFolder.open(write_longitudinal_case(tmp_path / "in", followups=REGIONS))
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
        message = f"followup-ct-tumor-lesion-seg: expected a folder that user {os.getuid()} can write"
        with pytest.raises(InputError, match=message):
            folder.prepare_output(tmp_path / "out")


class TestFingerprint:
    @staticmethod
    def of(folder: Path, *without) -> str:
        return CaseFolder.open(folder).fingerprint(without)

    def test_it_is_the_same_for_a_copy_under_other_names(self, tmp_path: Path) -> None:
        write_case(tmp_path / "one")
        ct_path(write_case(tmp_path / "other")).rename(tmp_path / "other" / "images" / "ct" / "renamed.mha")
        assert self.of(tmp_path / "one") == self.of(tmp_path / "other")

    @pytest.mark.parametrize("path_of", [ct_path, pet_path])
    @pytest.mark.parametrize("place", [0.0, 0.3, 0.7, 1.0])
    def test_any_byte_of_an_image_changes_it(self, tmp_path: Path, path_of, place: float) -> None:
        folder = CaseFolder.open(write_case(tmp_path, compressed=False))
        images = [folder.image(socket) for socket in (CT, PET)]  # a header that breaks is not what is looked at
        before = folder.fingerprint()
        content = bytearray(path_of(tmp_path).read_bytes())
        content[int(place * (len(content) - 1))] ^= 1
        path_of(tmp_path).write_bytes(content)
        assert folder.fingerprint() != before
        assert folder.fingerprint(without=(LESION_CLICKS,)) != before
        assert [folder.image(socket) for socket in (CT, PET)] == images

    def test_no_image_is_opened_for_it(self, tmp_path: Path) -> None:
        """ITK ends a process at some files, and a cohort asks for the digest of what killed its workers."""
        write_case(tmp_path)
        ct_path(tmp_path).write_bytes(b"no image")
        with pytest.raises(InputError, match="MetaImage header"):
            CaseFolder.open(tmp_path).image(CT)
        assert self.of(tmp_path)

    def test_images_that_change_places_change_it(self, tmp_path: Path) -> None:
        before = self.of(write_case(tmp_path))
        ct, pet = ct_path(tmp_path).read_bytes(), pet_path(tmp_path).read_bytes()
        ct_path(tmp_path).write_bytes(pet)
        pet_path(tmp_path).write_bytes(ct)
        assert self.of(tmp_path) != before

    def test_prompts_change_it_unless_they_are_left_out(self, tmp_path: Path) -> None:
        write_case(tmp_path)
        whole, alone = self.of(tmp_path), self.of(tmp_path, LESION_CLICKS)
        seen = {whole, alone}
        (first, *_), (*_, last) = PROMPTS, PROMPTS
        for changed in (
            (first,),
            (last, first),
            (first, first, last),
            (replace(first, point_xyz=(6.0, 7.0, 8.5)), last),
        ):
            write_clicks(tmp_path / "lesion-clicks.json", Prompts(changed))
            assert self.of(tmp_path, LESION_CLICKS) == alone
            seen.add(self.of(tmp_path))
        assert len(seen) == 6

    def test_only_what_a_click_file_says_counts(self, tmp_path: Path) -> None:
        before = self.of(write_case(tmp_path))
        path = tmp_path / "lesion-clicks.json"
        path.write_text(json.dumps(json.loads(path.read_text()), indent=8))
        assert self.of(tmp_path) == before

    def test_broken_click_file_is_refused_unless_it_is_left_out(self, tmp_path: Path) -> None:
        before = self.of(write_case(tmp_path), LESION_CLICKS)
        (tmp_path / "lesion-clicks.json").write_text("{")
        assert self.of(tmp_path, LESION_CLICKS) == before
        with pytest.raises(InputError, match=r"lesion-clicks\.json: expected JSON"):
            self.of(tmp_path)

    def test_missing_image_is_refused(self, tmp_path: Path) -> None:
        ct_path(write_case(tmp_path)).unlink()
        with pytest.raises(InputError, match="images/ct: expected exactly one file"):
            self.of(tmp_path)

    def test_inputs_of_a_followup_count_each(self, tmp_path: Path) -> None:
        prompts = tuple(region.followup_clicks for region in REGIONS)
        write_longitudinal_case(tmp_path, REGIONS, REGIONS)
        whole, alone = self.of(tmp_path), self.of(tmp_path, *prompts)
        write_points(tmp_path, SECONDARY.followup_clicks, {1: FOLLOWUP_POINTS[1]})
        assert self.of(tmp_path) != whole
        assert self.of(tmp_path, *prompts) == alone
        seen = {alone}
        for region in REGIONS:
            write_points(tmp_path, region.baseline_clicks, {2: (1.0, 1.0, 1.0)})
            seen.add(self.of(tmp_path, *prompts))
            for socket in (region.baseline_ct, region.baseline_mask, region.followup_ct):
                path = image_path(tmp_path, socket)
                path.write_bytes(path.read_bytes() + b"\0")
                seen.add(self.of(tmp_path, *prompts))
        assert len(seen) == 9
