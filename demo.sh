#!/usr/bin/env bash
# Runs all steps of the sample cases, without a container, and writes the masks and a report to out/demo.
set -euo pipefail
cd "$(dirname "$0")"
. test/environment.sh

setup
stage "Replay of the sample cases"
"$python" -m lesionclick.cli replay test/input --labels test/labels --expected test/expected/scores.json --output out/demo
stage "Done. Open the report: out/demo/report.html"
