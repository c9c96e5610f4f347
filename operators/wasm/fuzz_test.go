package wasm

import (
	"bytes"
	"encoding/binary"
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"

	"github.com/penstock/penstock/operators/wasm/binfmt"
	"github.com/penstock/penstock/pipeline"
)

var fuzzColumns = []Column{
	{Name: "time", Type: "timestamp"}, {Name: "tag", Type: "tag"}, {Name: "value", Type: "float64", Nullable: true},
	{Name: "text", Type: "string", Nullable: true}, {Name: "flag", Type: "bool", Nullable: true}, {Name: "quality", Type: "uint32"},
}

// guestImage is a small guest memory with a right result at 8.
func guestImage(rows uint64) []byte {
	mem := make([]byte, 2048)
	m := image{b: mem}
	next := uint64(512)
	arr := func(at, length uint64, buffers ...uint64) {
		m.put64(at+arrayLength, length)
		m.put64(at+arrayNBuffers, uint64(len(buffers)))
		m.putPtr(at+arrayBuffers, next)
		for _, b := range buffers {
			m.put32(next, uint32(b))
			next += 4
		}
	}
	const root, children, first, dict = 8, 72, 104, 496
	arr(root, rows, 0)
	m.put64(root+arrayNChildren, uint64(len(fuzzColumns)))
	m.putPtr(root+arrayChildren, children)
	for i, c := range fuzzColumns {
		at := uint64(first + arraySize*i)
		m.putPtr(children+4*uint64(i), at)
		if columnTypes[c.Type].width < 0 {
			arr(at, rows, 0, 1200, 1400)
		} else {
			arr(at, rows, 0, 1024)
		}
	}
	next = dict + arraySize
	for i := range rows + 1 {
		m.put32(1200+4*i, uint32(2*i))
	}
	copy(mem[1400:], "aabbccddee")
	// The tag column: one run of dictionary entry 0.
	tag := uint64(first + arraySize)
	m.put32(tag+arrayDictionary, 1600)
	m.put64(1600+arrayLength, 1)
	m.put64(1600+arrayNBuffers, 3)
	m.putPtr(1600+arrayBuffers, 1680)
	m.put32(1684, 1700)
	m.put32(1688, 1720)
	m.put32(1704, 3)
	copy(mem[1720:], "tag")
	return mem
}

// FuzzImport gives the importer a hostile guest memory: it must neither panic
// nor leak, and what it takes must be sound.
func FuzzImport(f *testing.F) {
	f.Add(guestImage(1), uint32(8), int64(1))
	f.Add(guestImage(4), uint32(8), int64(4))
	f.Add(guestImage(4), uint32(8), int64(anyRows))
	f.Add([]byte{}, uint32(0), int64(0))
	f.Fuzz(func(t *testing.T, mem []byte, ptr uint32, rows int64) {
		alloc := memory.NewCheckedAllocator(memory.DefaultAllocator)
		defer alloc.AssertSize(t, 0)
		im := importer{alloc: alloc, cols: fuzzColumns, tagLimit: tagLimit{most: 1000}, maxRows: 1000, maxBytes: 1 << 20}
		cols, n, err := im.read(mem, ptr, rows)
		_ = readSchema(mem, ptr, fuzzColumns)
		if err != nil || len(cols) == 0 {
			return
		}
		fields := make([]arrow.Field, len(cols))
		for i, c := range fuzzColumns {
			fields[i] = arrow.Field{Name: c.Name, Type: columnTypes[c.Type].arrow, Nullable: c.Nullable}
		}
		rec := array.NewRecord(arrow.NewSchema(fields, nil), cols, n)
		for _, c := range cols {
			c.Release()
		}
		defer rec.Release()
		runs, err := pipeline.Runs(nil, rec, 1)
		if err != nil {
			t.Fatal(err)
		}
		seen := map[string]bool{}
		for _, r := range runs {
			if seen[r.Tag] {
				t.Fatal("not grouped")
			}
			seen[r.Tag] = true
		}
		for _, c := range cols {
			for i := range int(n) {
				_ = c.ValueStr(i)
			}
		}
	})
}

func TestFuzzSeedIsSound(t *testing.T) {
	im := importer{alloc: memory.DefaultAllocator, cols: fuzzColumns, tagLimit: tagLimit{most: 1000}, maxRows: 1000, maxBytes: 1 << 20}
	cols, n, err := im.read(guestImage(4), 8, 4)
	if err != nil || n != 4 || len(cols) != 6 {
		t.Fatal(err, n, cols)
	}
}

// An index of -1 is no run, also where no run has begun yet.
func TestNegativeTagIndex(t *testing.T) {
	for from := range 4 {
		mem := guestImage(4)
		for i := from; i < 4; i++ {
			binary.LittleEndian.PutUint32(mem[1024+4*i:], math.MaxUint32)
		}
		im := importer{alloc: memory.DefaultAllocator, cols: fuzzColumns, tagLimit: tagLimit{most: 1000}, maxRows: 1000, maxBytes: 1 << 20}
		_, _, err := im.read(mem, 8, 4)
		if err == nil || !strings.Contains(err.Error(), "has index -1, want") {
			t.Fatal(from, err)
		}
	}
}

// A tag stands once in what a module gives and in each row of what a sink writes.
func TestTagsAreBounded(t *testing.T) {
	for name, says := range map[uint32]string{5000: "a tag has 5000 bytes, the limit is 4096", 4000: "the rows' tags are together longer than 15000 bytes", 3000: ""} {
		mem := append(guestImage(4), make([]byte, 6000)...)
		binary.LittleEndian.PutUint32(mem[1704:], name)
		im := importer{alloc: memory.DefaultAllocator, cols: fuzzColumns, tagLimit: tagLimit{most: 1000}, maxRows: 1000, maxBytes: 15_000}
		_, _, err := im.read(mem, 8, 4)
		if says == "" && err != nil || says != "" && (err == nil || !strings.Contains(err.Error(), says)) {
			t.Fatal(name, err)
		}
	}
}

// FuzzInspect feeds damaged modules to all that reads them before the engine.
func FuzzInspect(f *testing.F) {
	f.Add(readFile(f, testdata("empty")))
	f.Add(readFile(f, testdata("tally"))[:600])
	f.Add([]byte(goodManifest))
	f.Fuzz(func(t *testing.T, wasm []byte) {
		_, o, err := inspect(wasm)
		if err == nil {
			if capped, err := binfmt.CapMemory(wasm, o, max(o.MinPages, 1)); err == nil {
				if _, err := binfmt.Parse(capped); err != nil {
					t.Fatal(err)
				}
			}
		}
		_, _ = ParseManifest(wasm)
		_, _, _ = readState(bytes.NewReader(append(binary.LittleEndian.AppendUint32([]byte(stateMagic), uint32(len(wasm))), wasm...)), 1<<20)
	})
}
