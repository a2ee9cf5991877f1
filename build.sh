#!/usr/bin/env bash
# Builds the container image: one case per run, or with --invoke a server for the platform's invoke API, or with
# --worker the scheduler and the workers of a cohort (docs/cohort.md).
#   CONTAINER_ENGINE  docker (default) or podman
#   BASE_IMAGE        the image with PyTorch (default: in the Dockerfile)
#   IMAGE             name of the result (default: lesionclick:latest, with --invoke lesionclick:invoke, with --worker
#                     lesionclick:worker)
set -euo pipefail
cd "$(dirname "$0")"
. test/environment.sh
target=challenge
if [ "$*" = --worker ]; then
  target=worker IMAGE=${IMAGE:-lesionclick:worker}
  shift
fi
choose_api_method "$@"

require_engine
options=(
  --platform linux/amd64
  --target "$target"
  --tag "$IMAGE"
  --build-arg "API_METHOD=$api_method"
  --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' lesionclick/__init__.py)"
  --build-arg "REVISION=$(revision)"
)
if [ -n "${BASE_IMAGE:-}" ]; then
  options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
fi
if [ "$(basename "$CONTAINER_ENGINE")" = podman ]; then
  # podman's own build network needs kernel modules that small virtual machines lack
  options+=(--network host)
fi
"$CONTAINER_ENGINE" build "${options[@]}" .
