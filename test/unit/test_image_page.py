import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_package_of_the_image_has_its_version_and_a_reason():
    page = (ROOT / "docs/image.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d[^ |]*) \| \S", page, re.MULTILINE)
    pins = re.findall(r"^([^=#\s]+)==(\S+)$", (ROOT / "requirements.txt").read_text(encoding="utf-8"), re.MULTILINE)
    assert len(pins) > 30
    assert sorted(rows) == sorted(pins)
