#!/usr/bin/env bash
# A cohort of four sample cases on a scheduler and two workers, each in a container of the image that ./build.sh --worker
# makes, compared with a run in this process. The containers share one network namespace without a network.
# Takes CONTAINER_ENGINE and IMAGE, as build.sh does. Masks, records and logs go to out/cohort-container.
set -euo pipefail
cd "$(dirname "$0")/../.."
. test/environment.sh
IMAGE=${IMAGE:-lesionclick:worker}
out=$PWD/out/cohort-container
name=lesionclick-cohort-$$

require_engine
require_image
setup
rm -rf "$out"
mkdir -p "$out/contained"
for case in sts_002 sts_044 longitudinal longitudinal_two_followups; do
  echo "$PWD/test/input/$case"
done >"$out/cases.txt"
chmod -R a+rwX "$out"
finish() {
  for number in 1 2; do
    "$CONTAINER_ENGINE" logs "$name-worker$number" >"$out/worker$number.log" 2>&1 || true
  done
  for container in "$name-worker1" "$name-worker2" "$name"; do # the last one has the network of the others
    "$CONTAINER_ENGINE" kill "$container" >/dev/null 2>&1 || true # what has ended or never begun
    "$CONTAINER_ENGINE" rm --force "$container" >/dev/null || true
  done
  # what the containers' user made is theirs, and the next run could not remove it
  "$CONTAINER_ENGINE" run --rm --network none "${limits[@]}" "${mounts[@]}" --entrypoint chmod "$IMAGE" \
    -R a+rwX "$out"/contained/* || true
}

# All containers see the cases, the labels and the folder of the results under the paths that this machine has.
mounts=(-v "$PWD/test:$PWD/test:ro" -v "$out:$out")
limits=(--cap-drop ALL --security-opt no-new-privileges --read-only --tmpfs /tmp --env OMP_NUM_THREADS=1)
trap finish EXIT
"$CONTAINER_ENGINE" run --detach --name "$name" --network none "${limits[@]}" "$IMAGE" \
  dask scheduler --host 127.0.0.1 --port 8786 --no-dashboard >/dev/null
for number in 1 2; do
  "$CONTAINER_ENGINE" run --detach --name "$name-worker$number" --network "container:$name" "${limits[@]}" "${mounts[@]}" \
    "$IMAGE" dask worker tcp://127.0.0.1:8786 --nthreads 1 --memory-limit 0 --no-dashboard --local-directory /tmp \
    --name "worker$number" >/dev/null
done
stage "Cohort in containers"
"$CONTAINER_ENGINE" run --rm --network "container:$name" "${limits[@]}" "${mounts[@]}" "$IMAGE" \
  lesionclick.cli cohort "$out/cases.txt" --labels "$PWD/test/labels" --output "$out/contained" --steps 0,10 \
  --scheduler tcp://127.0.0.1:8786
stage "The same in processes"
OMP_NUM_THREADS=1 "$python" -m lesionclick.cli cohort "$out/cases.txt" --labels test/labels --output "$out/alone" \
  --steps 0,10 --workers 1 --threads 1
stage "Comparison"
diff --recursive --brief "$out/contained/masks" "$out/alone/masks"
echo "$(find "$out/contained/masks" -name '*.mha' | wc -l) masks of $(find "$out/contained/records" -name '*.json' | wc -l) cases: all equal"
