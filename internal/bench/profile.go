package bench

import (
	"os"
	"runtime"
	"runtime/pprof"
)

// startProfile profiles a child when PENSTOCK_BENCH_PROFILE names a prefix: the
// CPU into PREFIX.cpu, and at the end the heap into PREFIX.heap.
func startProfile() (stop func() error, err error) {
	prefix := os.Getenv("PENSTOCK_BENCH_PROFILE")
	if prefix == "" {
		return func() error { return nil }, nil
	}
	cpu, err := os.Create(prefix + ".cpu")
	if err != nil {
		return nil, err
	}
	if err := pprof.StartCPUProfile(cpu); err != nil {
		return nil, err
	}
	return func() error {
		pprof.StopCPUProfile()
		if err := cpu.Close(); err != nil {
			return err
		}
		heap, err := os.Create(prefix + ".heap")
		if err != nil {
			return err
		}
		runtime.GC()
		if err := pprof.WriteHeapProfile(heap); err != nil {
			return err
		}
		return heap.Close()
	}, nil
}
