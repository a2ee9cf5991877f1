"""The scripts at the top level, in a checkout of their own, with an engine and a Python that scripts play."""

import os
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = (
    *("build.sh", "demo.sh", "export.sh", "sbom.sh", "test/environment.sh", "test/container/cohort.sh"),
    *("pyproject.toml", "requirements.txt", "lesionclick/__init__.py"),
)
ENGINE = """#!/bin/sh
echo "$@" >>calls
case "$*" in
"image inspect"*) [ -n "$FOUND" ] && echo "$FOUND" ;;
save*) echo an image ;;
esac
"""
PYTHON = """#!/bin/sh
case "$*" in
"-m venv"*) rm -rf .venv && mkdir -p .venv/bin && cp "$0" .venv/bin/python && cp "$0" .venv/bin/pip ;;
"-m pip"*) [ -x .venv/bin/pip ] ;;
esac
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The scripts, and a model to export, in a folder with a space in its name."""
    folder = tmp_path / "a checkout"
    for name in FILES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, folder / name)
    (folder / "resources/task1").mkdir(parents=True)
    (folder / "resources/task1/plans.json").write_text("{}")
    (tmp_path / "bin").mkdir()
    for name, script in (("engine", ENGINE), ("python3.11", PYTHON)):
        (tmp_path / "bin" / name).write_text(script)
        (tmp_path / "bin" / name).chmod(0o755)
    return folder


def run(checkout: Path, script: str, *arguments: str, found: str = "unknown") -> subprocess.CompletedProcess[str]:
    """Run a script; `found` is the revision of the engine's image, none where it has no image."""
    path = f"{checkout.parent / 'bin'}:{os.environ['PATH']}"
    env = {"PATH": path, "CONTAINER_ENGINE": "engine", "FOUND": found, "GIT_CEILING_DIRECTORIES": str(checkout.parent)}
    return subprocess.run([checkout / script, *arguments], env=env, capture_output=True, text=True, check=False)


def commit(checkout: Path) -> str:
    """Make a commit of all, and return its name."""
    git = ["git", "-C", str(checkout), "-c", "user.name=a", "-c", "user.email=a@b"]
    for words in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "--no-verify", "--message", "a"]):
        subprocess.run([*git, *words], check=True, capture_output=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@pytest.mark.parametrize("script", ["export.sh", "sbom.sh", "test/container/cohort.sh"])
def test_an_image_that_the_engine_lacks_is_named(checkout: Path, script: str) -> None:
    done = run(checkout, script, found="")
    assert done.returncode == 1
    assert "error: IMAGE: expected an image that engine has, found no 'lesionclick:" in done.stderr
    assert not (checkout / "out").exists()
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("changed", [False, True])
def test_an_image_has_the_revision_of_the_files_it_is_built_of(checkout: Path, changed: bool) -> None:
    name = commit(checkout)
    if changed:
        (checkout / "requirements.txt").write_text("numpy==1.0\n")
    assert run(checkout, "build.sh").returncode == 0
    assert f"REVISION={name}{'-dirty' * changed} " in (checkout / "calls").read_text()


def test_an_image_of_another_revision_is_exported_with_a_warning(checkout: Path) -> None:
    name = commit(checkout)
    assert run(checkout, "export.sh", found=name).stderr == ""
    done = run(checkout, "export.sh", found="old")
    assert done.returncode == 0
    assert f"warning: lesionclick:latest: expected revision {name}, found old" in done.stderr


def test_an_exported_model_holds_the_files_that_links_lead_to(checkout: Path) -> None:
    shutil.move(checkout / "resources/task1", checkout / "trained")
    (checkout / "resources/task1").symlink_to(checkout / "trained")
    assert run(checkout, "export.sh").returncode == 0
    with tarfile.open(checkout / "out/model.tar.gz") as archive:
        assert archive.extractfile("./task1/plans.json").read() == b"{}"
        assert not [member.name for member in archive if member.issym()]
    assert sorted(path.name for path in (checkout / "out").iterdir()) == ["lesionclick.tar.gz", "model.tar.gz"]


def test_an_environment_that_was_never_finished_is_made_anew(checkout: Path) -> None:
    (checkout / ".venv/bin").mkdir(parents=True)
    shutil.copy(checkout.parent / "bin/python3.11", checkout / ".venv/bin/python")  # without pip
    assert run(checkout, "demo.sh").returncode == 0
    assert (checkout / ".venv/lesionclick.stamp").is_file()


def test_an_environment_that_lost_its_python_is_made_anew(checkout: Path) -> None:
    assert run(checkout, "demo.sh").returncode == 0
    (checkout / ".venv/bin/python").unlink()
    (checkout / ".venv/bin/pip").write_text("#!/no/such/python\n")
    assert run(checkout, "demo.sh").returncode == 0
