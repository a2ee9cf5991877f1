import re
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_package_of_the_images_has_its_version_and_a_reason():
    page = (ROOT / "docs/image.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d[^ |]*) \| \S", page, re.MULTILINE)
    lists = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-worker.txt")]
    pins = re.findall(r"^([^=#\s]+)==(\S+)$", "\n".join(lists), re.MULTILINE)
    assert len(pins) > 30
    assert sorted(rows) == sorted(pins)
