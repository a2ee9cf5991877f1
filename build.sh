#!/usr/bin/env bash
# Builds the container image.
#   CONTAINER_ENGINE  docker (default) or podman
#   BASE_IMAGE        the image with PyTorch (default: in the Dockerfile)
#   IMAGE             name of the result (default: lesionclick:latest)
set -euo pipefail
cd "$(dirname "$0")"
engine=${CONTAINER_ENGINE:-docker}
image=${IMAGE:-lesionclick:latest}

if ! command -v "$engine" >/dev/null; then
  echo "error: CONTAINER_ENGINE: expected a command on PATH, found no '$engine'" >&2
  exit 1
fi

options=(
  --platform linux/amd64
  --tag "$image"
  --build-arg "VERSION=$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' lesionclick/__init__.py)"
  --build-arg "REVISION=$(git rev-parse HEAD 2>/dev/null || echo unknown)"
)
if [ -n "${BASE_IMAGE:-}" ]; then
  options+=(--build-arg "BASE_IMAGE=$BASE_IMAGE")
fi
if [ "$(basename "$engine")" = podman ]; then
  # podman's own build network needs kernel modules that small virtual machines lack
  options+=(--network host)
fi
"$engine" build "${options[@]}" .
