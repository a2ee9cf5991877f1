#!/usr/bin/env bash
# Fetches the viewer from npm, in the version and with the checksum of package-lock.json, and compares it with the file that
# the package serves; with --write it takes its place.
set -euo pipefail
cd "$(dirname "$0")"

served=../static/vendor/niivue.js
npm ci --silent
built=node_modules/@niivue/niivue/dist/index.js
if [ "${1-}" = --write ]; then
  cp "$built" "$served"
fi
cmp "$built" "$served"
echo "viewer: $(node -p "require('./node_modules/@niivue/niivue/package.json').version"), as npm has it"
for source in ../static/*.js; do
  node --input-type=module --check - <"$source"
done
