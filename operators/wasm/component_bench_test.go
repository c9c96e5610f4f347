//go:build cgo && wasmtime && component

package wasm

import (
	"bytes"
	"errors"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/rationale/component"
)

// BenchmarkComponent is the boundary of a component beside that of a module, on
// wasmtime: the columns of a reading as lists, or an Arrow IPC message in a list
// of bytes, from the host or, "between", from another component. The message is
// written by the host each time, but nobody reads it, and none is written for the
// column that comes back.
func BenchmarkComponent(b *testing.B) {
	guest, err := component.Open()
	require.NoError(b, err)
	lists := func(name string, cross func(rec arrow.Record) error) contender {
		return contender{name, func(*testing.B) (func(arrow.Record) error, func()) { return cross, func() {} }}
	}
	ipc := func(name string, cross func(message []byte, rows int) error) contender {
		return contender{name, func(*testing.B) (func(arrow.Record) error, func()) {
			s := ipcStream{buf: &bytes.Buffer{}}
			return func(rec arrow.Record) error {
				s.buf.Reset()
				if err := s.write(rec); err != nil {
					return err
				}
				return cross(s.buf.Bytes(), int(rec.NumRows()))
			}, s.close
		}}
	}
	same := func(want, got []byte) error {
		if !bytes.Equal(want[:len(got)], got) {
			return errors.New("something else came back")
		}
		return nil
	}
	compare(b, []contender{
		moduleOn("module", EngineWasmtime, MeteredNever),
		lists("lists", func(rec arrow.Record) error {
			out := make([]byte, 8*rec.NumRows())
			if err := guest.Lists(rec, out); err != nil {
				return err
			}
			return same(rec.Column(2).Data().Buffers()[1].Bytes(), out)
		}),
		ipc("ipc", func(message []byte, rows int) error {
			out := make([]byte, 8*rows)
			if err := guest.Bytes(message, out); err != nil {
				return err
			}
			return same(message, out)
		}),
		lists("lists-between", func(rec arrow.Record) error { return guest.Between(0, int(rec.NumRows())) }),
		ipc("ipc-between", func(message []byte, rows int) error { return guest.Between(len(message), rows) }),
	})
}
