"""The import direction of the design, read from the source, and the size of the files."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "lesionclick"

# A module may import from the rows above its own, and from no other of its row.
LAYERS = (
    {"__init__", "errors"},
    {"images", "clicks", "interfaces", "budget"},
    {"image_files", "refine", "prompts", "sliding_window", "network_input", "alignment"},
    {"case", "model_folder", "registration", "ensemble"},
    {"model", "patches"},
    {"petct", "longitudinal", "server"},
    {"inference", "cli"},
)
LEVELS = {name: level for level, names in enumerate(LAYERS) for name in names}
OFFLINE = {"simulation", "evaluation", "training"}
ENTRY_POINTS = ("inference", "server")


def source_of(module: str) -> Path:
    return ROOT / "inference.py" if module == "inference" else PACKAGE / f"{module}.py"


def imported(source: str) -> set[str]:
    """Return the modules and sub-packages of lesionclick that a source imports anywhere in it."""
    return {name.split(".")[1] for name in _imported_names(ast.parse(source)) if name.startswith("lesionclick.")}


def _imported_names(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            origin = "lesionclick" if node.level else ""
            base = ".".join(part for part in (origin, node.module) if part)
            yield from ([f"{base}.{alias.name}" for alias in node.names] if base == "lesionclick" else [base])


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import lesionclick.model", {"model"}),
        ("from lesionclick.simulation.clicks import simulate", {"simulation"}),
        ("from lesionclick import sliding_window, errors as e", {"sliding_window", "errors"}),
        ("from . import petct", {"petct"}),
        ("from .training.train import x", {"training"}),
        ("def f():\n    from lesionclick.evaluation import metrics", {"evaluation"}),
        ("import numpy\nfrom torch import nn", set()),
    ],
)
def test_imports_are_found_in_every_form(source: str, expected: set[str]) -> None:
    assert imported(source) == expected


def existing() -> list[str]:
    return sorted({path.stem for path in PACKAGE.glob("*.py")} | {"inference"})


def test_every_module_has_its_place() -> None:
    assert set(existing()) <= set(LEVELS)


@pytest.mark.parametrize("module", [name for name in existing() if name != "cli"])
def test_imports_point_one_way(module: str) -> None:
    used = imported(source_of(module).read_text(encoding="utf-8"))
    assert {name for name in used if LEVELS.get(name, len(LAYERS)) >= LEVELS[module]} == set()


def test_container_imports_nothing_that_only_training_and_evaluation_need() -> None:
    seen: set[str] = set()
    waiting = [name for name in ENTRY_POINTS if source_of(name).exists()]
    while waiting:
        module = waiting.pop()
        seen.add(module)
        waiting += imported(source_of(module).read_text(encoding="utf-8")) - seen - OFFLINE
        assert imported(source_of(module).read_text(encoding="utf-8")) & (OFFLINE | {"cli"}) == set(), module
    assert {"inference", "petct", "model", "case", "clicks"} <= seen


def test_no_file_is_longer_than_400_lines() -> None:
    files = [ROOT / "inference.py"]
    for folder in ("lesionclick", "test", "benchmarks"):
        files += (ROOT / folder).rglob("*.py")
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in files}
    assert {name: length for name, length in lengths.items() if length > 400} == {}
