from pathlib import Path

import pytest

from lesionclick.errors import InputError
from lesionclick.grand_challenge.interfaces import (
    INTERFACES,
    LONGITUDINAL_CT,
    PET_CT,
    PRIMARY,
    REGIONS,
    SECONDARY,
    Interface,
    locate,
)

BASELINE = ["images/{}-baseline-ct", "images/{}-baseline-ct-tumor-lesion-seg", "{}-baseline-lesion-clicks.json"]
FOLLOWUP = ["images/{}-followup-ct", "{}-followup-lesion-clicks.json"]


def of(region: str, *paths: str) -> list[str]:
    return [path.format(region) for path in paths]


@pytest.mark.parametrize(
    ("interface", "name", "inputs", "outputs"),
    [
        (
            *(PET_CT[0], "PET/CT", ["images/ct", "images/pet", "lesion-clicks.json"]),
            {"images/tumor-lesion-segmentation": "images/ct"},
        ),
        (
            *(LONGITUDINAL_CT[0], "primary", of("primary", *BASELINE, *FOLLOWUP)),
            {"images/primary-followup-ct-tumor-lesion-seg": "images/primary-followup-ct"},
        ),
        (
            *(LONGITUDINAL_CT[1], "primary and secondary"),
            of("primary", *BASELINE, *FOLLOWUP) + of("secondary", *BASELINE, *FOLLOWUP),
            {
                "images/primary-followup-ct-tumor-lesion-seg": "images/primary-followup-ct",
                "images/secondary-followup-ct-tumor-lesion-seg": "images/secondary-followup-ct",
            },
        ),
        (
            *(LONGITUDINAL_CT[2], "two baselines, one follow-up"),
            of("primary", *BASELINE, *FOLLOWUP) + of("secondary", *BASELINE),
            {"images/primary-followup-ct-tumor-lesion-seg": "images/primary-followup-ct"},
        ),
        (
            *(LONGITUDINAL_CT[3], "one baseline, two follow-ups"),
            of("primary", *BASELINE, *FOLLOWUP) + of("secondary", *FOLLOWUP),
            {
                "images/primary-followup-ct-tumor-lesion-seg": "images/primary-followup-ct",
                "images/secondary-followup-ct-tumor-lesion-seg": "images/secondary-followup-ct",
            },
        ),
    ],
    ids=lambda value: value.name if isinstance(value, Interface) else "",
)
def test_inputs_and_what_each_mask_is_named_after(
    interface: Interface, name: str, inputs: list[str], outputs: dict[str, str]
) -> None:
    assert interface.name == name
    assert [socket.relative_path for socket in interface.inputs] == inputs
    assert {output.socket.relative_path: output.named_after.relative_path for output in interface.outputs} == outputs
    assert all(output.named_after in interface.inputs for output in interface.outputs)


def test_there_are_five_interfaces_and_two_regions() -> None:
    assert INTERFACES == (PET_CT, LONGITUDINAL_CT)
    assert [len(interfaces) for interfaces in INTERFACES] == [1, 4]
    assert REGIONS == (PRIMARY, SECONDARY)
    assert [region.name for region in REGIONS] == ["primary", "secondary"]


def test_kinds_follow_from_what_lies_there() -> None:
    kinds = {socket.slug: socket.kind for socket in SECONDARY.baseline + SECONDARY.followup}
    assert kinds == {
        "secondary-baseline-ct": "image",
        "secondary-baseline-ct-tumor-lesion-seg": "image",
        "secondary-baseline-lesion-clicks": "json",
        "secondary-followup-ct": "image",
        "secondary-followup-lesion-clicks": "json",
    }
    for interface in (interface for interfaces in INTERFACES for interface in interfaces):
        for socket in (*interface.inputs, *(output.socket for output in interface.outputs)):
            folder = f"images/{socket.slug}"
            assert socket.relative_path == (folder if socket.kind == "image" else f"{socket.slug}.json")


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
