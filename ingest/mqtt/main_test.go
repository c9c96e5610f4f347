package mqtt

import (
	"os"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if os.Getenv(benchChild) != "" {
		os.Exit(runBenchChild())
	}
	goleak.VerifyTestMain(m,
		// nats-server starts it once a process and never ends it.
		goleak.IgnoreTopFunction("github.com/nats-io/nats-server/v2/server/pse.periodic"),
		goleak.IgnoreAnyFunction("github.com/nats-io/nats-server/v2/server/ats.Register.func1"))
}
