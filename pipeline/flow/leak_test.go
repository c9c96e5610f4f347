package flow_test

import (
	"testing"

	"go.uber.org/goleak"
)

// The embedded server leaves a few goroutines of its own behind for a moment.
func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server.(*Server).startGoRoutine.func1"))
}
