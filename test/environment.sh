# shellcheck shell=bash
# Sourced by the scripts at the top level, from there.
#   stage TEXT        print a heading
#   setup             make .venv with the package and its tools; quick where it is up to date
#   $python           the Python in it
#   choose_api_method [--invoke]    set $api_method, exec or invoke, and $IMAGE, where it is not set
#   revision          print the checkout's commit, with -dirty where files differ from it
#   require_engine    stop where the container engine is missing
#   require_image     stop where it has no $IMAGE, warn where that is of another revision
#   $CONTAINER_ENGINE with its default

python=.venv/bin/python
export CONTAINER_ENGINE=${CONTAINER_ENGINE:-docker}

stage() {
  printf '\n==> %s\n' "$*"
}

# Print the first Python on PATH that is new enough; 3.11 is what we test with.
find_python() {
  local name
  for name in python3.11 python3.12 python3.13 python3 python; do
    if "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$name"
      return
    fi
  done
  echo "error: Python: expected 3.11 or newer on PATH, found none" >&2
  return 1
}

setup() {
  local stamp=.venv/lesionclick.stamp wanted base
  wanted=$({ pwd -P && cat pyproject.toml requirements.txt; } | cksum)
  if [ -f "$stamp" ] && [ "$(cat "$stamp")" = "$wanted" ] && [ -x "$python" ]; then
    return
  fi
  stage "Python environment in .venv: about 3 minutes, once"
  # Its pip does not run where it was never finished, was moved, or lost its Python to an upgrade of the system.
  if ! .venv/bin/pip --version >/dev/null 2>&1; then
    base=$(find_python)
    "$base" -m venv --clear .venv
  fi
  # PyTorch first and by its plain name, so that pip's own settings decide on the build. It is named again so that
  # nothing replaces it. What the container installs has the container's versions here too.
  "$python" -m pip install --quiet --disable-pip-version-check torch==2.13.0
  "$python" -m pip install --quiet --disable-pip-version-check --constraint requirements.txt \
    torch==2.13.0 --editable '.[dev]'
  echo "$wanted" >"$stamp"
}

choose_api_method() {
  case "$*" in
    "") api_method=exec IMAGE=${IMAGE:-lesionclick:latest} ;;
    --invoke) api_method=invoke IMAGE=${IMAGE:-lesionclick:invoke} ;;
    *)
      echo "error: arguments: expected none or --invoke, found '$*'" >&2
      return 1
      ;;
  esac
  export api_method IMAGE
}

require_engine() {
  if ! command -v "$CONTAINER_ENGINE" >/dev/null; then
    echo "error: CONTAINER_ENGINE: expected a command on PATH, found no '$CONTAINER_ENGINE'" >&2
    return 1
  fi
}

revision() {
  git describe --always --dirty --abbrev=40 --exclude='*' 2>/dev/null || echo unknown
}

require_image() {
  local label=org.opencontainers.image.revision found wanted
  if ! found=$("$CONTAINER_ENGINE" image inspect --format "{{index .Config.Labels \"$label\"}}" "$IMAGE"); then
    echo "error: IMAGE: expected an image that $CONTAINER_ENGINE has, found no '$IMAGE'; ./build.sh makes it" >&2
    return 1
  fi
  wanted=$(revision)
  if [ "$found" != "$wanted" ]; then
    echo "warning: $IMAGE: expected revision $wanted, found $found; ./build.sh makes it anew" >&2
  fi
}
