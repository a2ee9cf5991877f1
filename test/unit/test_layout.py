"""The shape of the source: lengths of files, and signatures that a reader can follow."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = ("lesionclick", "test", "benchmarks")
FILES = sorted([ROOT / "inference.py", *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))])


def positional(function: ast.FunctionDef | ast.AsyncFunctionDef) -> list[str]:
    """Return the names of the parameters that may be given by place, without self and cls."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    return names[1:] if names[:1] in (["self"], ["cls"]) else names


def test_positional_parameters_are_counted() -> None:
    (function,) = ast.parse("def f(self, a, b, /, c, d=1, *e, g, **h): pass").body
    assert isinstance(function, ast.FunctionDef)
    assert positional(function) == ["a", "b", "c", "d"]


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in FILES}
    assert {name: length for name, length in lengths.items() if length > 400} == {}


# Signatures that nnU-Net calls, which are not ours to choose.
NNUNETS = {"__init__", "build_network_architecture"}


def test_no_function_takes_more_than_four_parameters_by_place() -> None:
    ours = [path for path in FILES if path.is_relative_to(ROOT / "lesionclick") or "test" not in path.parts]
    helpers = [path for path in FILES if "helpers" in path.parts]
    found = {
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}": names
        for path in (*ours, *helpers)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and len(names := positional(node)) > 4
        and not (path.name in ("trainers.py", "fixed_time.py") and node.name in NNUNETS)
    }
    assert found == {}
