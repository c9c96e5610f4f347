#!/bin/sh
# Builds misbehave.c once per mode; the .wasm are committed beside their source.
set -eu
cd "$(dirname "$0")"
for m in well calls keeps forgets empty leaks range; do
  mode=$(echo "$m" | tr a-z A-Z)
  clang-16 --target=wasm32 -O2 -mbulk-memory -nostdlib -Wall -Werror -Wno-int-to-pointer-cast -DMODE="$mode" -c -o "$m.o" misbehave.c
  wasm-ld-16 --no-entry --strip-all --stack-first -z stack-size=65536 -o "$m.tmp" "$m.o"
  (cd ../../../.. && go run ./internal/packmodule "operators/wasm/check/testdata/$m.tmp" operators/wasm/check/testdata/misbehave.json "operators/wasm/check/testdata/$m.wasm")
  rm "$m.o" "$m.tmp"
done
