# The house of the developers. `make test` on a fresh clone gets what it needs.
GO         ?= go
STATICCHECK = honnef.co/go/tools/cmd/staticcheck@v0.8.2

COMPONENT  = CGO_CFLAGS="-O2 -I$$($(GO) list -m -f '{{.Dir}}' github.com/bytecodealliance/wasmtime-go/v44)/build/include"

.PHONY: demo build test test-variants test-deps test-short lint bench bench-abi bench-component bench-kernels kernels examples kernels-check dashboards-check generate

demo:
	$(GO) run . demo

build:
	$(GO) build -o penstock .

# Everything, with the race detector, against real servers: a missing one fails.
test: test-deps kernels-check dashboards-check
	PENSTOCK_TEST_PEERS=1 $(GO) test -race -timeout 25m ./...
	$(MAKE) test-variants

# The other builds: without cgo (wazero alone), and with wasmtime in wasmer's place.
test-variants:
	CGO_ENABLED=0 $(GO) vet ./operators/... ./internal/app ./internal/cli .
	CGO_ENABLED=0 $(GO) test ./operators/wasm/...
	$(GO) vet -tags wasmtime ./operators/... ./internal/app ./internal/cli .
	$(COMPONENT) $(GO) vet -tags wasmtime,component ./operators/rationale/... ./operators/wasm
	$(GO) test -tags wasmtime ./operators/wasm/... ./operators/modules
	$(GO) test -race -tags wasmtime ./internal/app -run TestZoo

test-deps:
	tools/test-deps.sh

# What needs no server and no race detector.
test-short:
	$(GO) test -short ./...

lint:
	@unformatted=$$(git ls-files '*.go' | xargs gofmt -l); if [ -n "$$unformatted" ]; then echo "gofmt these:"; echo "$$unformatted"; exit 1; fi
	$(GO) vet ./...
	$(GO) run $(STATICCHECK) ./...

# What this machine carries, what the Wasm boundary costs, and the kernels on
# every engine.
bench: bench-abi bench-kernels
	$(GO) run . bench

# What the Wasm boundary costs: operators/RATIONALE.md.
bench-abi:
	$(GO) test -run '^$$' -bench BenchmarkABI -benchtime 300ms ./operators/wasm

# A component's boundary beside a module's, through the C API of the library that
# wasmtime-go brings.
bench-component:
	$(COMPONENT) $(GO) test -tags wasmtime,component -run '^$$' -bench BenchmarkComponent -benchtime 1s ./operators/wasm

bench-kernels:
	$(MAKE) -C operators/modules bench

kernels: examples
	$(MAKE) -C operators/modules

# The worked examples of each SDK, made as a user makes them, in .cache/examples.
examples: build
	@rm -rf .cache/examples
	@for lang in c rust assemblyscript go; do for kind in map emit; do \
		./penstock operator new .cache/examples/$$lang/$$kind --lang $$lang --kind $$kind >/dev/null && ./penstock operator build .cache/examples/$$lang/$$kind || exit 1; \
	done; done

# The committed modules are what their sources compile to.
kernels-check: test-deps
	@before=$$(sha256sum operators/modules/*/*.wasm); $(MAKE) -B -C operators/modules || exit 1; \
	if [ "$$before" != "$$(sha256sum operators/modules/*/*.wasm)" ]; then echo "a module is not what its source compiles to: commit what make kernels builds"; exit 1; fi

# The dashboards' JSON against the types of @grafana/schema.
dashboards-check: test-deps
	cd dashboards/grafana/check && npm run --silent check

generate:
	$(GO) test ./configs -update
