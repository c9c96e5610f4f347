#!/usr/bin/env bash
# Gets what the tests need on Debian and Ubuntu, and leaves what is there
# alone: a broker, InfluxDB, the compilers of the kernels and of the SDKs'
# examples, a browser, and the npm packages of the OPC UA peer and the
# dashboards' check.
set -euo pipefail
cd "$(dirname "$0")/.."

as_root() {
	if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi
}

packages=()
want() { # program package
	command -v "$1" >/dev/null || [ -x "/usr/sbin/$1" ] || packages+=("$2")
}
want clang-16 clang-16
want wasm-ld-16 lld-16
want mosquitto mosquitto
command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null || want chromium chromium
want gcc gcc
want node nodejs
want npm npm
# Any rustc that has WebAssembly's core library will do.
rust_target() { [ -d "$("$1" --print target-libdir --target wasm32-unknown-unknown 2>/dev/null || echo /nowhere)" ]; }
rust_target rustc || rust_target /usr/bin/rustc || packages+=(rustc cargo libstd-rust-dev-wasm32)

# influxd 1.8.10 takes a minute of compiling; the downloads go on meanwhile.
influxd=0
if [ ! -x .cache/bin/influxd ]; then
	echo "test-deps: building influxd 1.8.10"
	GOFLAGS= GOBIN="$PWD/.cache/bin" go install github.com/influxdata/influxdb/cmd/influxd@v1.8.10 &
	influxd=$!
fi

if [ ${#packages[@]} -gt 0 ]; then
	echo "test-deps: installing ${packages[*]}"
	as_root apt-get -o Acquire::Retries=3 -qq update
	as_root env DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 -qq install -y --no-install-recommends "${packages[@]}"
fi

for dir in ingest/opcua/testdata/node-opcua dashboards/grafana/check; do
	[ -f "$dir/package-lock.json" ] || continue
	if [ ! "$dir/node_modules/.package-lock.json" -nt "$dir/package-lock.json" ]; then
		echo "test-deps: npm ci in $dir"
		(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error)
		touch "$dir/node_modules/.package-lock.json"
	fi
done

if [ "$influxd" != 0 ]; then wait "$influxd"; fi
echo "test-deps: everything is here"
