"""What an image for single cases promises besides right masks."""

import shutil
import subprocess
from pathlib import Path

import pytest

from lesionclick.evaluation.engine import ENGINE_FLAGS, Engine
from lesionclick.evaluation.jobs import ReplayError

ROOT = Path(__file__).parents[3]


def shell(engine: Engine, script: str) -> str:
    """Run a script in the image instead of its entry point, under the platform's flags, and return what it prints."""
    command = [engine.command, "run", *ENGINE_FLAGS, "--entrypoint", "sh", engine.image, "-c", script]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_case_without_pet_is_refused(engine: Engine, case: Path, output: Path) -> None:
    shutil.rmtree(case / "images/pet")
    with pytest.raises(ReplayError, match=r"(?s)found 1; its log.*images/pet"):
        engine(case, output)
    assert list(output.iterdir()) == []


def test_broken_model_is_refused(engine: Engine, case: Path, output: Path, tmp_path: Path) -> None:
    model = tmp_path / "model"
    shutil.copytree(ROOT / "resources/task1", model)
    (model / "plans.json").write_text("{", encoding="utf-8")
    with pytest.raises(ReplayError, match=r"(?s)found 2; its log.*plans\.json"):
        Engine(engine.command, engine.image, model, engine.gpu)(case, output)
    assert list(output.iterdir()) == []


def test_closed_output_is_named(engine: Engine, case: Path, output: Path) -> None:
    output.chmod(0o755)  # ours alone, and the container's user is another
    with pytest.raises(ReplayError, match=r"(?s)found 1; its log.*/output"):
        engine(case, output)
    assert list(output.iterdir()) == []


def test_model_mounted_apart_is_used(engine: Engine, case: Path, output: Path, tmp_path: Path) -> None:
    archive = tmp_path / "model.tar.gz"
    subprocess.run(["tar", "-C", ROOT / "resources/task1", "-czf", archive, "."], check=True)
    (tmp_path / "model").mkdir()
    subprocess.run(["tar", "-C", tmp_path / "model", "-xzf", archive], check=True)
    Engine(engine.command, engine.image, tmp_path / "model", engine.gpu)(case, output)
    assert len(list(output.rglob("*.mha"))) == 1


def test_user_is_not_root(engine: Engine) -> None:
    assert int(shell(engine, "id -u")) > 0


def test_nothing_in_tmp_is_run_at_start(engine: Engine) -> None:
    script = """
        folder=$(python -c 'import site; print(site.getusersitepackages())')
        mkdir -p "$folder"
        echo 'print("from", __file__)' >"$folder/usercustomize.py"
        echo "$folder"
        python inference.py --help
    """
    folder, *log = shell(engine, script).splitlines()
    assert folder.startswith("/tmp/")
    assert log[0].startswith("usage:")


def test_everything_is_readable_for_any_user(engine: Engine) -> None:
    assert shell(engine, "find /opt/app /opt/venv ! -type l ! -perm -o=r") == ""


def test_pytorch_is_the_base_images_own(engine: Engine) -> None:
    assert shell(engine, "ls /opt/venv/lib/python3*/site-packages | grep -E '^(torch|nvidia|triton)' || true") == ""


def test_only_inference_is_inside(engine: Engine) -> None:
    found = shell(engine, "cd /opt/app && ls -d * lesionclick/*/").split()
    assert sorted(found) == [
        "__pycache__",
        "inference.py",
        "lesionclick",
        "lesionclick/__pycache__/",
        "lesionclick/grand_challenge/",
        "lesionclick/longitudinal/",
        "lesionclick/network/",
        "lesionclick/petct/",
        "lesionclick/prompts/",
        "requirements.txt",
        "resources",
    ]
