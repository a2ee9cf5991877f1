"""The cases of a cohort: found in a folder, by a pattern, or in a list."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

from lesionclick.cohort.work import CohortCase
from lesionclick.errors import InputError
from lesionclick.evaluation.jobs import find_cases


def find_cohort(source: Path, pattern: str | None = None) -> list[CohortCase]:
    """Return the cases of a cohort in the order of their names.

    Parameters
    ----------
    source
        Folder of case folders, one case folder, or a text file with the path of a case folder in each line; relative
        paths begin at the file's folder, and lines that begin with ``#`` do not count.
    pattern
        Glob pattern of the case folders below the folder `source`, such as ``sub-*/ses-*``; a case is then called by
        all parts of its path, ``sub-01_ses-02``.

    Raises
    ------
    InputError
        If there is none, or two have one name.
    """
    if pattern is not None:
        try:
            found = [path for path in source.glob(pattern) if path.is_dir() and path != source]
        except (ValueError, NotImplementedError) as error:
            raise InputError(f"{source}: expected a pattern of folders below it, found {pattern!r}: {error}") from error
        cases = [CohortCase("_".join(path.relative_to(source).parts), path) for path in found]
        if not cases:
            raise InputError(f"{source}: expected folders of cases that match {pattern!r}, found none")
    elif source.is_file():
        cases = [CohortCase(_name(path), path) for path in _read_list(source)]
    else:
        cases = [CohortCase(_name(path), path) for path in find_cases(source)]
    twice = sorted(name for name, count in Counter(case.name for case in cases).items() if count > 1)
    if twice:
        raise InputError(f"{source}: expected another name for each case, found {len(twice)} twice, such as {twice[0]}")
    return sorted((CohortCase(case.name, case.path.resolve()) for case in cases), key=lambda case: case.name)


def _name(path: Path) -> str:
    """Return the last part of a path, of "." and ".." too; a link has its own name."""
    return os.path.basename(os.path.abspath(path))


def _read_list(source: Path) -> list[Path]:
    try:
        text = source.read_text(encoding="utf-8-sig")  # with or without the mark that Windows writes
        lines = [line.strip() for line in text.splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{source}: expected a text file with a case folder in each line, found {error}") from error
    paths = [source.parent / line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise InputError(f"{source}: expected a case folder in each line, found none")
    return paths
