#!/usr/bin/env bash
# Builds the wheel, installs it in an empty environment, and runs the Python lines of the README there, in an empty folder
# with the images of a sample case. Nothing of the checkout and of .venv is seen: -I leaves both out.
set -euo pipefail
cd "$(dirname "$0")/.."
. test/environment.sh

folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
base=$(find_python)

stage "Wheel, and an empty environment"
"$base" -m venv "$folder/venv"
python=$folder/venv/bin/python
"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir "$folder" .
# as setup does: PyTorch by its plain name, the rest in the container's versions
"$python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
"$python" -m pip install --quiet --disable-pip-version-check --constraint requirements.txt \
  torch==2.13.0 "$folder"/lesionclick-*.whl

stage "The README's lines"
mkdir "$folder/case"
cp test/input/sts_002/images/ct/*.mha "$folder/case/ct.mha"
cp test/input/sts_002/images/pet/*.mha "$folder/case/pet.mha"
# shellcheck disable=SC2016  # the backticks are the README's
lines=$(sed -n '/^```python$/,/^```$/{//!p}' README.md)
cd "$folder/case"
"$python" -I -c "$lines"
"$python" -I -c '
import SimpleITK as sitk
from lesionclick import LongitudinalModel

found = int(sitk.GetArrayFromImage(sitk.ReadImage("mask.mha")).sum())
assert found > 0, "mask.mha: expected lesion voxels, found none"
LongitudinalModel.load()
'
stage "Wheel passed"
