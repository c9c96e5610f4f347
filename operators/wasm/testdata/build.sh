#!/bin/sh
# Builds the test guests; the .wasm are committed beside their sources.
set -eu
cd "$(dirname "$0")"
for m in probe tally empty greedy; do
  clang-16 --target=wasm32 -O2 -msimd128 -mbulk-memory -nostdlib -Wall -Werror -Wno-infinite-recursion -Wno-int-to-pointer-cast \
    -Wl,--no-entry -Wl,-z,stack-size=65536 -Wl,--strip-all -o "$m.tmp" "$m.c"
  (cd ../../.. && go run ./internal/packmodule "operators/wasm/testdata/$m.tmp" "operators/wasm/testdata/$m.json" "operators/wasm/testdata/$m.wasm")
  rm "$m.tmp"
done
