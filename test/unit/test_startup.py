"""What a single case imports: packages that it does not need would only cost time at the start."""

import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
UNNEEDED = (
    "fastapi",
    "jinja2",
    "lesionclick.commands",
    "lesionclick.evaluation",
    "lesionclick.simulation",
    "lesionclick.training",
    "matplotlib",
    "nnunetv2.evaluation",
    "nnunetv2.experiment_planning",
    "nnunetv2.training",
    "pandas",
)


def test_a_case_needs_nothing_of_training_evaluation_and_tables(tmp_path: Path) -> None:
    script = "import sys, inference; assert inference.main(sys.argv[1:]) == 0; print(*sys.modules)"
    folders = ["--input", ROOT / "test" / "input" / "sts_002", "--output", tmp_path]
    arguments = [sys.executable, "-c", script, *map(str, folders)]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert {"torch", "lesionclick.petct.session", "nnunetv2.utilities.plans_handling.plans_handler"} <= loaded
    found = {name for name in loaded for one in UNNEEDED if name == one or name.startswith(f"{one}.")}
    assert not found


def test_a_case_that_is_refused_at_once_needs_no_network(tmp_path: Path) -> None:
    case = tmp_path / "input"
    shutil.copytree(ROOT / "test" / "input" / "sts_002", case)
    (case / "lesion-clicks.json").write_text("{")
    script = "import sys, inference; assert inference.main(sys.argv[1:]) == 1; print(*sys.modules)"
    arguments = [sys.executable, "-c", script, "--input", str(case), "--output", str(tmp_path / "output")]
    done = subprocess.run(arguments, cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = set(done.stdout.splitlines()[-1].split())
    assert "lesionclick.petct.case" in loaded
    assert not loaded & {"torch", "nnunetv2", "lesionclick.network"}
