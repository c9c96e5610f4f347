package app

import (
	"testing"

	"go.uber.org/goleak"
)

// The embedded server leaves a few goroutines of its own behind for a moment. One
// that came back from a module too late stays, and who waits for it.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"),
		goleak.IgnoreAnyFunction("github.com/penstock/penstock/operators/wasm.(*deadline).end"),
		goleak.IgnoreAnyFunction("github.com/penstock/penstock/internal/app.ended.func1"))
}
