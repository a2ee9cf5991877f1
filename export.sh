#!/usr/bin/env bash
# Saves what Grand Challenge takes as uploads: the image, and the models for those who upload them apart.
#   out/lesionclick.tar.gz   the image IMAGE (default: lesionclick:latest, with --invoke lesionclick:invoke) of
#                            CONTAINER_ENGINE (default: docker)
#   out/model.tar.gz         the folder MODEL (default: resources), a model folder or one with task1 and task2 in it,
#                            to be unpacked at /opt/ml/model
set -euo pipefail
cd "$(dirname "$0")"
. test/environment.sh
choose_api_method "$@"
model=${MODEL:-resources}

require_engine
require_image
if [ ! -f "$model/plans.json" ] && [ ! -f "$model/task1/plans.json" ] && [ ! -f "$model/task2/plans.json" ]; then
  echo "error: MODEL: expected a folder with plans.json, in it or in its task1 or task2, found none in '$model'" >&2
  exit 1
fi
mkdir -p out
# A broken upload is found late: the final names appear only when all is written.
trap 'rm -rf out/*.tar.gz.part out/.model' EXIT
rm -rf out/.model
"$CONTAINER_ENGINE" save "$IMAGE" | gzip >out/lesionclick.tar.gz.part
mv out/lesionclick.tar.gz.part out/lesionclick.tar.gz
# The platform's user has to read the models, however private their files are here, and where links lead to them.
mkdir out/.model
cp -RL "$model/." out/.model
chmod -R a+rX,go-w out/.model
tar -C out/.model -czf out/model.tar.gz.part .
mv out/model.tar.gz.part out/model.tar.gz
ls -lh out/lesionclick.tar.gz out/model.tar.gz
