package wasm

import (
	"bytes"
	"context"
	"io"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// slow lets greedy take some seconds, with nothing that counts, in the call
// after two good batches.
func slow(where string, from int) func(*Config) {
	return func(c *Config) {
		params("where", where, "what", "spin", "size", 1_300_000_000, "from", from)(c)
		c.Metered, c.Deadline = MeteredNever, time.Second
	}
}

// forNative is for the engines whose code a clock can watch.
func forNative(t *testing.T, f func(t *testing.T, engine string)) {
	if len(engines) == 1 {
		t.Skip("this build has wazero only")
	}
	forEngines(t, func(t *testing.T, engine string) {
		if engine != EngineWazero {
			f(t, engine)
		}
	})
}

// A call that takes too long is told while it does, and is the module's last one.
// Giving the module up at the same call, in another run, has the same outcome.
func TestDeadline(t *testing.T) {
	forNative(t, func(t *testing.T, engine string) {
		for _, where := range []string{"process", "advance", "snapshot"} {
			t.Run(where, func(t *testing.T) {
				var states [2]bytes.Buffer
				var got [2][]int64
				for i := range states {
					set, told := slow(where, 2), make(chan string, 1)
					if i == 1 {
						set = slow("nowhere", 0)
					}
					f := start(t, greedyInput, "greedy", engine, set)
					f.Watch(func(call string) { told <- call }, nil)
					for n := range 4 {
						if i == 1 && n == 2 && where == "process" {
							f.GiveUp()
						}
						rec := greedyRecord(f.alloc, 10)
						require.NoError(t, f.process(rec))
						rec.Release()
						if i == 1 && n == 1 && where == "advance" {
							f.GiveUp()
						}
						require.NoError(t, f.Advance(context.Background(), 5, f.out))
						if i == 1 && n == 1 && where == "snapshot" {
							f.GiveUp()
						}
						require.NoError(t, f.Snapshot(io.Discard))
					}
					require.True(t, f.Quarantined())
					require.Equal(t, "penstock_"+where+" took longer than 1s", f.QuarantinedFor())
					require.Contains(t, f.log.String(), "penstock_"+where+": it takes longer than 1s: if it needs more, raise deadline")
					if i == 0 {
						require.Equal(t, "penstock_"+where, <-told)
					}
					require.Empty(t, told)
					got[i] = numbers(f.out.recs)
					require.NoError(t, f.Snapshot(&states[i]))
				}
				parked(t)
				require.Equal(t, []int64{1, 2}, got[0])
				require.Equal(t, got[0], got[1])
				require.Equal(t, states[0].Bytes(), states[1].Bytes())
			})
		}
	})
}

// A module that does not come back from its start, or from a state, is an error
// that holds nobody up, and what it was started with is not tried again.
func TestDeadlineOfTheStart(t *testing.T) {
	forNative(t, func(t *testing.T, engine string) {
		set := func(set func(*Config)) func(*Config) {
			return func(c *Config) {
				set(c)
				c.Memory += PageSize // a start of its own
				c.Params["size"] = 4_000_000_000
			}
		}
		for i := range 2 {
			begun := time.Now()
			_, err := tryStart(t, greedyInput, "greedy", engine, set(slow("open", 0)))
			require.ErrorContains(t, err, "penstock_open: it takes longer than 1s: if it needs more, raise deadline")
			require.Less(t, time.Since(begun), []time.Duration{5 * time.Second, time.Second}[i])
		}
		var state bytes.Buffer
		good := start(t, greedyInput, "greedy", engine, set(slow("nowhere", 0)))
		require.NoError(t, good.Snapshot(&state))
		f := start(t, greedyInput, "greedy", engine, set(slow("restore", 0)))
		require.ErrorContains(t, f.Restore(&state), "penstock_restore: it takes longer than 1s")
		parked(t)
	})
}

// parked waits until all goroutines that were left behind in a guest are back.
func parked(t *testing.T) {
	require.Eventually(t, func() bool {
		buf := make([]byte, 1<<20)
		buf = buf[:runtime.Stack(buf, true)]
		return bytes.Count(buf, []byte("(*Operator).Guarded.func2(")) == bytes.Count(buf, []byte("(*deadline).end("))
	}, time.Minute, 50*time.Millisecond)
}

// A process that stood still for a while holds that against no module.
func TestDeadlineOfAFrozenProcess(t *testing.T) {
	var told []string
	d := &deadline{after: time.Second, timer: time.NewTimer(time.Hour)}
	defer d.close()
	d.late, d.stuck = func(call string) { told = append(told, "late") }, func(call string) { told = append(told, "stuck") }
	d.begin("call")
	for range 5 {
		require.Empty(t, told)
		d.look()
	}
	require.Equal(t, []string{"late"}, told)
	require.Error(t, d.end())
	d.begin("call")
	for range 9 {
		require.NotContains(t, told, "stuck")
		d.look()
	}
	require.Equal(t, []string{"late", "late", "stuck"}, told)
}
