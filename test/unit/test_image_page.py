import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_each_package_of_the_images_has_its_version_and_a_reason():
    page = (ROOT / "docs/image.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([^`]+)` \| (\d[^ |]*) \| \S", page, re.MULTILINE)
    lists = [(ROOT / name).read_text(encoding="utf-8") for name in ("requirements.txt", "requirements-worker.txt")]
    pins = re.findall(r"^([^=#\s]+)==(\S+)$", "\n".join(lists), re.MULTILINE)
    assert len(pins) > 30
    assert sorted(rows) == sorted(pins)


def test_what_inference_does_not_import_stays_out_of_the_challenges_image():
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]
    contracts = tools["importlinter"]["contracts"]
    forbidden = {name for contract in contracts for name in contract.get("forbidden_modules", ())}
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    removed = re.search(r"^RUN cd /opt/app/lesionclick && rm -r (.*)$", dockerfile, re.MULTILINE)
    assert removed
    assert {name.removeprefix("lesionclick.") for name in forbidden} <= set(removed[1].split())


def test_each_argument_that_labels_show_stands_before_a_command():
    """Podman takes a label from its cache, whatever the argument in it, unless a command before it ran anew."""
    dockerfile = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    before, labels = dockerfile.split("\nLABEL ", maxsplit=1)
    shown = re.findall(r"\$\{(\w+)\}", labels.split("\n\n")[0])
    commands = before.rindex("\nRUN ")
    assert shown == ["VERSION", "REVISION", "API_METHOD"]
    assert all(f"\nARG {name}=" in before[:commands] for name in shown)
