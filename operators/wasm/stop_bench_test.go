//go:build cgo && (wasmtime || (linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"github.com/tetratelabs/wazero"

	"github.com/penstock/penstock/operators/wasm/meter"
)

// BenchmarkStopping is what it costs to be able to stop a loop: not at all, by
// counting what it does (package meter), and by wazero's own way, which looks at
// a context on every turn. The loops sum 8192 numbers, and mix bits 8192 times.
func BenchmarkStopping(b *testing.B) {
	code := wat(b, `(module (memory (export "memory") 1)
		(func (export "sum") (param $n i32) (result f64) (local $s f64)
		  (loop $next
		    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
		    (local.set $s (f64.add (local.get $s) (f64.load (i32.and (i32.shl (local.get $n) (i32.const 3)) (i32.const 0xfff8)))))
		    (br_if $next (local.get $n)))
		  (local.get $s))
		(func (export "mix") (param $n i32) (result i64) (local $s i64)
		  (loop $next
		    (local.set $n (i32.sub (local.get $n) (i32.const 1)))
		    (local.set $s (i64.xor (i64.add (local.get $s) (i64.extend_i32_u (local.get $n))) (i64.shl (local.get $s) (i64.const 13))))
		    (br_if $next (local.get $n)))
		  (local.get $s)))`)
	counted, err := meter.Instrument(code)
	require.NoError(b, err)
	const turns = 8192
	run := func(name string, call func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportMetric(median(b, func() {
				if err := call(); err != nil {
					b.Fatal(err)
				}
			})/turns, "ns/turn")
			b.ReportMetric(0, "ns/op") // says nothing of runs
		})
	}
	for _, loop := range []string{"sum", "mix"} {
		for _, name := range engines {
			for how, code := range [][]byte{code, counted} {
				e, err := newEngine(name)
				require.NoError(b, err)
				m, err := e.Compile(code)
				require.NoError(b, err)
				i, err := m.Instantiate(nil)
				require.NoError(b, err)
				f, refuel := i.Function(loop), i.Function(meter.RefuelFunction)
				run(loop+"/"+name+"/"+[]string{"free", "counted"}[how], func() error {
					if refuel != nil {
						if _, err := refuel.Call(1 << 40); err != nil {
							return err
						}
					}
					_, err := f.Call(turns)
					return err
				})
				require.NoError(b, i.Close())
				require.NoError(b, m.Close())
				require.NoError(b, e.Close())
			}
		}
		ctx, cancel := context.WithCancel(context.Background())
		r := wazero.NewRuntimeWithConfig(ctx, wazero.NewRuntimeConfig().WithCloseOnContextDone(true))
		i, err := r.Instantiate(ctx, code)
		require.NoError(b, err)
		f := i.ExportedFunction(loop)
		run(loop+"/wazero/by-context", func() error {
			_, err := f.Call(ctx, turns)
			return err
		})
		cancel()
		require.NoError(b, r.Close(context.Background()))
	}
}
