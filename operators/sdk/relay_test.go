package sdk_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/sdk"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// relay builds testdata's emit operator, which uses all of the SDK.
func relay(t *testing.T, lang string) string {
	t.Helper()
	return made(t, lang, wasm.KindEmit, "relay")
}

// relayOut says where relay has the columns of everything.
var relayOut = []int{2, 3, 0, 1, 4, 5, 6}

// relayed is what relay makes, computed here.
type relayed struct {
	schema *arrow.Schema
	tags   []string
	rows   map[string]uint32
	due    map[string]bool
}

func newRelayed() *relayed {
	var fields []arrow.Field
	for _, from := range relayOut {
		fields = append(fields, everything.Field(from))
	}
	return &relayed{arrow.NewSchema(fields, nil), nil, map[string]uint32{}, map[string]bool{}}
}

func (m *relayed) process(t *testing.T, alloc memory.Allocator, in arrow.Record) arrow.Record {
	runs, err := pipeline.Runs(nil, in, 1)
	require.NoError(t, err)
	b := array.NewRecordBuilder(alloc, m.schema)
	defer b.Release()
	for _, run := range runs {
		if !m.due[run.Tag] && m.rows[run.Tag] == 0 {
			m.tags = append(m.tags, run.Tag)
		}
		m.due[run.Tag] = true
		for i := run.Start; i < run.End; i++ {
			for range m.rows[run.Tag] % 3 {
				for to, from := range relayOut {
					if in.Column(from).IsNull(i) {
						b.Field(to).AppendNull()
					} else {
						require.NoError(t, b.Field(to).AppendValueFromString(in.Column(from).ValueStr(i)))
					}
				}
			}
			m.rows[run.Tag]++
		}
	}
	return b.NewRecord()
}

func (m *relayed) advance(t *testing.T, alloc memory.Allocator, watermark arrow.Timestamp) arrow.Record {
	b := array.NewRecordBuilder(alloc, m.schema)
	defer b.Release()
	for _, tag := range m.tags {
		if !m.due[tag] {
			continue
		}
		m.due[tag] = false
		for i, name := range []string{tag, "due/" + tag} {
			b.Field(0).AppendNull()
			b.Field(1).(*array.StringBuilder).Append([]string{tag, ""}[i])
			b.Field(2).(*array.TimestampBuilder).Append(watermark + arrow.Timestamp(i))
			require.NoError(t, b.Field(3).(*array.BinaryDictionaryBuilder).AppendString(name))
			b.Field(4).(*array.Uint32Builder).Append([]uint32{m.rows[tag], 7}[i])
			b.Field(5).AppendNull()
			b.Field(6).AppendNull()
		}
	}
	return b.NewRecord()
}

// Rows of every type, made of batches and when time advances, none among them;
// also in another engine that goes on from a snapshot.
func TestEmitEveryType(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			module := relay(t, lang)
			for k, engine := range engines {
				o, m := open(t, everything, module, engine, nil), newRelayed()
				same := func(want arrow.Record) {
					t.Helper()
					defer want.Release()
					if want.NumRows() == 0 {
						require.Empty(t, o.recs)
						return
					}
					require.Len(t, o.recs, 1)
					require.True(t, array.RecordEqual(want, o.recs[0]), "want %v\ngot %v", want, o.recs[0])
					o.recs[0].Release()
					o.recs = o.recs[:0]
				}
				advance := func(at arrow.Timestamp) {
					require.NoError(t, o.Advance(context.Background(), at, o), o.log.String())
					same(m.advance(t, o.alloc, at))
				}
				advance(1)
				for seed, rows := range []int{1, 7, 8, 9, 63, 64, 65, 1000, 3, 5000} {
					rec := everyType(o.alloc, uint64(seed), rows)
					require.NoError(t, o.Process(context.Background(), rec, o), o.log.String())
					same(m.process(t, o.alloc, rec))
					rec.Release()
					if seed%2 == 1 {
						advance(arrow.Timestamp(seed) << 32)
						advance(arrow.Timestamp(seed)<<32 + 1)
					}
					if seed == 4 {
						var state bytes.Buffer
						require.NoError(t, o.Snapshot(&state))
						o = open(t, everything, module, engines[(k+1)%len(engines)], nil)
						require.NoError(t, o.Restore(&state))
					}
				}
			}
		})
	}
}

// An author's mistakes end in a message that says what they are.
func TestEmitMistakes(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			module := relay(t, lang)
			limit := memoryOf(lang)
			for mode, says := range map[string]string{
				"input": "input column", "output": "output column", "row": "no such row", "fail": "no, not today",
				"forget": "output column quality has no value in a row, and is not nullable", "order": "is older than the one before it, of the same tag",
				"twice": "the dictionary has a tag twice", "flood": "out of memory",
				"late_input": "an input column is read in advance, where there is none", "late_fail": "no, not tonight",
			} {
				o, err := tryOpen(t, everything, module, engines[0], map[string]any{"mode": mode}, limit)
				require.NoError(t, err)
				rec := everyType(o.alloc, 1, 30)
				err = o.Process(context.Background(), rec, o)
				rec.Release()
				if err == nil {
					err = o.Advance(context.Background(), 1<<40, o)
				}
				require.Error(t, err, mode)
				require.Contains(t, o.log.String(), says, "%s: %v", mode, err)
			}
			o, err := tryOpen(t, everything, module, engines[0], nil, func(c *wasm.Config) { c.MaxOutputRows = 100 })
			require.NoError(t, err)
			rec := everyType(o.alloc, 1, 1000)
			defer rec.Release()
			require.ErrorContains(t, o.Process(context.Background(), rec, o), "the limit is 100 (max_output_rows)")
		})
	}
}

// A map operator whose manifest says emit is found out before it makes a row.
func TestKindsDisagree(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			from := mirror(t, lang)
			manifest, err := os.ReadFile(filepath.Join(filepath.Dir(from), "manifest.json"))
			require.NoError(t, err)
			code, err := os.ReadFile(from)
			require.NoError(t, err)
			m, err := wasm.ParseManifest(bytes.Replace(manifest, []byte(`"kind": "map"`), []byte(`"kind": "emit"`), 1))
			require.NoError(t, err)
			code, err = wasm.Pack(code, m)
			require.NoError(t, err)
			p, err := wasm.OpenProbe(code, wasm.ProbeOptions{Engine: engines[0]})
			if lang != "go" {
				require.ErrorContains(t, err, "the module does not export the function penstock_advance")
				return
			}
			require.NoError(t, err)
			_, err = p.Advance(1)
			require.ErrorContains(t, err, "the module calls penstock.Map, but its manifest says emit")
			require.NoError(t, p.Close())
		})
	}
}

// memoryOf is a limit that is enough for testdata's operators.
func memoryOf(lang string) func(*wasm.Config) {
	return func(c *wasm.Config) {
		if c.Memory = 8 << 20; lang == "go" {
			c.Memory = 32 << 20
		}
	}
}

// Memory does not grow with the number of batches, whatever an author's code
// leaves behind: AssemblyScript and Go collect it.
func TestMemoryStays(t *testing.T) {
	for _, lang := range sdk.Languages {
		for kind, module := range map[string]func(*testing.T, string) string{wasm.KindMap: mirror, wasm.KindEmit: relay} {
			t.Run(lang+"/"+kind, func(t *testing.T) {
				o, err := tryOpen(t, everything, module(t, lang), engines[0], nil, memoryOf(lang))
				require.NoError(t, err)
				rec := everyType(o.alloc, 1, 10_000)
				defer rec.Release()
				for i := range 100 {
					require.NoError(t, o.Process(context.Background(), rec, o), o.log.String())
					require.NoError(t, o.Advance(context.Background(), arrow.Timestamp(i), o), o.log.String())
					for _, r := range o.recs {
						r.Release()
					}
					o.recs = o.recs[:0]
				}
			})
		}
	}
}
