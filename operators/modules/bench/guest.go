package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/operators/wasm/engine"
	"github.com/penstock/penstock/operators/wasm/meter"
)

// guest is the kernel in an engine, its batch laid out in its memory once.
type guest struct {
	batch             *batch
	mod               engine.Module
	inst              engine.Instance
	process           engine.Function
	refuel            engine.Function // nil when it is not metered
	times, values     uint32          // columns
	calls             int
	in, out, describe uint32 // ArrowArray, ArrowArray, ArrowSchema of out
	err               error  // the first of alloc's and data's
}

// The Arrow C Data Interface on wasm32: sizes, and places of fields.
const (
	schemaSize, arraySize = 48, 64

	arrayNBuffers, arrayNChildren, arrayBuffers, arrayChildren, arrayDictionary = 24, 32, 40, 44, 48
	schemaNChildren, schemaChildren, schemaDictionary                           = 24, 32, 36
)

func startWasm(name string, code []byte, b *batch, metered bool) (*guest, error) {
	g := &guest{batch: b}
	var err error
	if metered {
		if code, err = meter.Instrument(code); err != nil {
			return nil, err
		}
	}
	if g.mod, err = wasm.NewCompiler("", nil).Compile(name, code); err != nil {
		return nil, err
	}
	metric := engine.HostFunc{Module: "penstock", Name: "metric", Params: string([]byte{engine.I32, engine.I32, engine.F64}),
		Call: func([]uint64) uint64 { return 0 }}
	if g.inst, err = g.mod.Instantiate([]engine.HostFunc{metric}); err != nil {
		return nil, errors.Join(err, g.mod.Close())
	}
	g.refuel = g.inst.Function(meter.RefuelFunction)
	if err := g.prepare(); err != nil {
		return nil, errors.Join(err, g.close())
	}
	return g, nil
}

// prepare lays out everything and opens and binds the kernel.
func (g *guest) prepare() error {
	b := g.batch
	params := g.data(b.params)
	g.times, g.values = g.data(b.time), g.data(b.values[0])
	names := g.array(len(b.nameAt)-1, 0, g.data(b.nameAt), g.data(b.names))
	g.in = g.array(len(b.time), 0)
	cols := g.data([]uint32{
		g.array(len(b.time), 0, g.times), g.array(len(b.time), names, g.data(b.index)),
		g.array(len(b.time), 0, g.values), g.array(len(b.time), 0, g.data(b.quality)),
	})
	g.put(g.in+arrayNChildren, 4)
	g.put(g.in+arrayChildren, cols)
	in := g.schema("+s", 0)
	g.put(in+schemaNChildren, 4)
	g.put(in+schemaChildren, g.data([]uint32{g.schema("tsn:UTC", 0), g.schema("i", g.schema("u", 0)), g.schema("g", 0), g.schema("I", 0)}))
	g.out, g.describe = g.alloc(arraySize), g.alloc(schemaSize)
	if g.err != nil {
		return g.err
	}
	if err := g.status("penstock_open", params, uint32(8*len(b.params))); err != nil {
		return err
	}
	g.process = g.inst.Function("penstock_process")
	return g.status("penstock_bind", in, g.describe)
}

func (g *guest) alloc(size int) uint32 {
	p, err := g.inst.Function("penstock_alloc").Call(uint64(size+16), 64)
	if err != nil || p == 0 {
		g.err = errors.Join(g.err, fmt.Errorf("no %d bytes of guest memory: %w", size, err))
		return 0
	}
	clear(g.inst.Memory()[p:][:size+16])
	return uint32(p)
}

func (g *guest) data(v any) uint32 {
	p := g.alloc(binary.Size(v))
	_, err := binary.Encode(g.inst.Memory()[p:], binary.LittleEndian, v)
	g.err = errors.Join(g.err, err)
	return p
}

func (g *guest) put(at, v uint32)          { binary.LittleEndian.PutUint32(g.inst.Memory()[at:], v) }
func (g *guest) get(at uint32) uint32      { return binary.LittleEndian.Uint32(g.inst.Memory()[at:]) }
func (g *guest) close() error              { return errors.Join(g.inst.Close(), g.mod.Close()) }
func (g *guest) child(of, i uint32) uint32 { return g.get(of + 4*i) }

// array makes an ArrowArray; the first buffer is its validity, none.
func (g *guest) array(rows int, dictionary uint32, buffers ...uint32) uint32 {
	a := g.alloc(arraySize)
	g.put(a, uint32(rows))
	g.put(a+arrayNBuffers, uint32(1+len(buffers)))
	g.put(a+arrayBuffers, g.data(append([]uint32{0}, buffers...)))
	g.put(a+arrayDictionary, dictionary)
	return a
}

func (g *guest) schema(format string, dictionary uint32) uint32 {
	s := g.alloc(schemaSize)
	g.put(s, g.data([]byte(format)))
	g.put(s+schemaDictionary, dictionary)
	return s
}

func (g *guest) status(name string, args ...uint32) error {
	r, err := g.inst.Function(name).Call(uint64(args[0]), uint64(args[1]))
	if err == nil && r != 0 {
		err = fmt.Errorf("%s returned %d", name, int32(r))
	}
	return err
}

// run makes calls and returns the time spent in them and a hash of the last
// output. Between calls the batch gets other values and later times.
func (g *guest) run(calls int) (spent time.Duration, hash uint64, err error) {
	for range calls {
		start := time.Now()
		if g.refuel != nil {
			if _, err := g.refuel.Call(meter.StartFuel); err != nil {
				return 0, 0, err
			}
		}
		r, err := g.process.Call(uint64(g.in), uint64(g.out))
		spent += time.Since(start)
		if err != nil || r != 0 {
			return 0, 0, fmt.Errorf("penstock_process returned %d: %w", int32(r), err)
		}
		g.calls++
		_, err = binary.Encode(g.inst.Memory()[g.values:], binary.LittleEndian, g.batch.values[g.calls%variants])
		if err != nil {
			return 0, 0, err
		}
		times := g.inst.Memory()[g.times:]
		for i := range g.batch.time {
			t := times[8*i : 8*i+8]
			binary.LittleEndian.PutUint64(t, binary.LittleEndian.Uint64(t)+uint64(g.batch.span()))
		}
	}
	return spent, g.hash(), nil
}

// hash is FNV-1a over the data of the output's columns, as in native.c.
func (g *guest) hash() uint64 {
	mem := g.inst.Memory()
	h := uint64(14695981039346656037)
	for i := range g.get(g.out + arrayNChildren) {
		a, s := g.child(g.get(g.out+arrayChildren), i), g.child(g.get(g.describe+schemaChildren), i)
		n := g.get(a)
		switch mem[g.get(s)] {
		case 'b':
			n /= 8
		case 'i', 'I':
			n *= 4
		default:
			n *= 8
		}
		for _, x := range mem[g.child(g.get(a+arrayBuffers), 1):][:n] {
			h = (h ^ uint64(x)) * 1099511628211
		}
	}
	return h
}
