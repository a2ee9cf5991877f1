#!/usr/bin/env bash
# Runs what must pass before a commit: style, types, shell scripts, tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")"
. test/environment.sh

setup
stage "ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .
stage "mypy"
"$python" -m mypy
"$python" -m mypy --config-file benchmarks/mypy.ini
stage "import-linter"
.venv/bin/lint-imports
stage "shellcheck"
.venv/bin/shellcheck --external-sources ./*.sh test/wheel.sh test/container/cohort.sh lesionclick/page/web/check.sh .ci/run
stage "pytest"
# Two at a time, of one thread each: most tests wait for processes that start.
OMP_NUM_THREADS=1 "$python" -m pytest --numprocesses 2 --dist worksteal "$@"
