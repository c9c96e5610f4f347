#!/usr/bin/env bash
# Takes the README's picture of the operator page, docs/page.png, after half a
# minute of the demo in headless Chromium (tools/test-deps.sh installs it).
set -euo pipefail
cd "$(dirname "$0")/.."
mkdir -p docs
PENSTOCK_PICTURE="$PWD/${1:-docs/page.png}" PENSTOCK_TEST_PEERS=1 go test ./internal/cli -count=1 -run '^TestPicture$'
ls -l "${1:-docs/page.png}"
