#!/usr/bin/env bash
# Replays the sample cases against the container as the platform does, compares each score with the expected one, and
# checks how the container fails. Exits with another code than 0 on any difference. Builds the image if there is none;
# after a change, run ./build.sh first: an image of another revision gets a warning. With --invoke one server handles all
# cases, asked from a container beside it, and Task 1 at three of its steps, since each step runs the same code.
# Takes CONTAINER_ENGINE, BASE_IMAGE and IMAGE, as build.sh does.
set -euo pipefail
cd "$(dirname "$0")"
. test/environment.sh
choose_api_method "$@"

require_engine
if ! "$CONTAINER_ENGINE" image inspect "$IMAGE" >/dev/null 2>&1; then
  stage "Build of $IMAGE"
  ./build.sh "$@"
fi
require_image
setup
steps=()
if [ "$api_method" = invoke ]; then
  steps=(--steps "0,5,10")
fi
stage "Replay of the sample cases in $IMAGE"
"$python" -m lesionclick.cli replay test/input --engine "$CONTAINER_ENGINE" --image "$IMAGE" \
  --labels test/labels --expected test/expected/scores.json --output "out/container-$api_method" \
  ${steps[@]+"${steps[@]}"} "$@"
stage "Promises of the image"
"$python" -m pytest -rP "test/container/$api_method"
stage "Container passed. Report: out/container-$api_method/report.html"
