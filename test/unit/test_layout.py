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
