#!/bin/sh
# Builds the hostile module; the .wasm is committed beside its source. What C
# cannot say (compile bombs, a start function, damaged modules) the tests make.
set -eu
cd "$(dirname "$0")"
clang-16 --target=wasm32 -Os -msimd128 -mbulk-memory -nostdlib -Wall -Werror -Wno-infinite-recursion -Wno-int-to-pointer-cast \
  -Wl,--no-entry -Wl,-z,stack-size=65536 -Wl,--strip-all -o beast.tmp beast.c
(cd ../../../.. && go run ./internal/packmodule operators/wasm/testdata/zoo/beast.tmp operators/wasm/testdata/zoo/beast.json operators/wasm/testdata/zoo/beast.wasm)
rm beast.tmp
