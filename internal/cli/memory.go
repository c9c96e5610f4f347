package cli

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// smallHeap is what the Go heap of a small gateway's pipeline may grow to
// before garbage is collected more often than the collector would by itself.
const smallHeap = 58 << 20

// keepMemorySmall trades spare CPU for memory: the heap stays below smallHeap
// while what is alive fits well, and has the usual room where it does not; and
// a second after the start, what only the start needed is given back.
// GOGC or GOMEMLIMIT in the environment are the user's and stay as they are.
func keepMemorySmall() {
	time.AfterFunc(time.Second, dropStartPages)
	if os.Getenv("GOGC") != "" || os.Getenv("GOMEMLIMIT") != "" {
		return
	}
	debug.SetMemoryLimit(smallHeap)
	go func() {
		live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
		for range time.Tick(time.Second) {
			metrics.Read(live)
			debug.SetMemoryLimit(max(smallHeap, int64(live[0].Value.Uint64())*5/4+8<<20))
		}
	}()
}
