#!/usr/bin/env bash
# Lists the Python packages of an image, the base image's too, as a CycloneDX bill of materials: out/sbom.json.
# With --scan it also looks up their known vulnerabilities, and exits with another code than 0 where there is one, or
# where a package cannot be looked up, as without network.
# Takes CONTAINER_ENGINE and IMAGE, as build.sh does.
set -euo pipefail
cd "$(dirname "$0")"
. test/environment.sh
IMAGE=${IMAGE:-lesionclick:latest}

case "$*" in
  "" | --scan) ;;
  *)
    echo "error: arguments: expected none or --scan, found '$*'" >&2
    exit 1
    ;;
esac
require_engine
require_image
setup
"$python" -m pip install --quiet --disable-pip-version-check --constraint requirements.txt \
  cyclonedx-bom==7.5.0 pip-audit==2.10.1
mkdir -p out
"$CONTAINER_ENGINE" run --rm --network none --interactive --entrypoint python "$IMAGE" - >out/packages.txt <<'EOF'
import re
from importlib.metadata import distributions

# the first on the path is the one that is imported; a name may be written in several ways
found = {re.sub("[-_.]+", "-", package.name.lower()): package for package in reversed(list(distributions()))}
print(*(f"{package.name}=={package.version}" for _, package in sorted(found.items())), sep="\n")
EOF
"$python" -m cyclonedx_py requirements out/packages.txt --output-reproducible --output-file out/sbom.json
stage "$(wc -l <out/packages.txt) packages in $IMAGE: out/sbom.json"
if [ "$*" = --scan ]; then
  # the index knows public versions, and not the local part, such as +cu126
  sed 's/+.*//' out/packages.txt >out/public.txt
  "$python" -m pip_audit --strict --no-deps --disable-pip --requirement out/public.txt
fi
