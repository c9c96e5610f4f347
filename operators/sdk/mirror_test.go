package sdk_test

import (
	"bytes"
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/operators/sdk"
	"github.com/penstock/penstock/operators/wasm"
	"github.com/penstock/penstock/pipeline"
)

// mirror builds testdata's map operator, which uses all of the SDK.
func mirror(t *testing.T, lang string) string {
	t.Helper()
	return made(t, lang, wasm.KindMap, "mirror")
}

var everything = arrow.NewSchema([]arrow.Field{
	{Name: "time", Type: pipeline.TimeType},
	{Name: "tag", Type: pipeline.TagType},
	{Name: "value", Type: arrow.PrimitiveTypes.Float64, Nullable: true},
	{Name: "text", Type: arrow.BinaryTypes.String, Nullable: true},
	{Name: "quality", Type: arrow.PrimitiveTypes.Uint32},
	{Name: "flag", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
	{Name: "count", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
}, nil)

func everyType(alloc memory.Allocator, seed uint64, rows int) arrow.Record {
	r := rand.New(rand.NewPCG(seed, 9))
	b := array.NewRecordBuilder(alloc, everything)
	defer b.Release()
	null := func(i int) bool {
		if r.IntN(4) == 0 {
			b.Field(i).AppendNull()
			return true
		}
		return false
	}
	tag := 0
	for i := range rows {
		if r.IntN(5) == 0 {
			tag++
		}
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(int64(seed)<<32 + int64(i)))
		_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprintf("%s/%d", strings.Repeat("ü", tag%9), tag))
		if !null(2) {
			b.Field(2).(*array.Float64Builder).Append(r.NormFloat64())
		}
		if !null(3) {
			b.Field(3).(*array.StringBuilder).Append(strings.Repeat("水", r.IntN(5)))
		}
		b.Field(4).(*array.Uint32Builder).Append(r.Uint32())
		if !null(5) {
			b.Field(5).(*array.BooleanBuilder).Append(r.IntN(2) == 0)
		}
		if !null(6) {
			b.Field(6).(*array.Int64Builder).Append(r.Int64())
		}
	}
	return b.NewRecord()
}

// A column and a parameter of every type, and a state with an array.
func TestEveryType(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			module := mirror(t, lang)
			for _, engine := range engines {
				o := open(t, everything, module, engine, map[string]any{"n": 4, "wait": "1500ms"})
				last := map[string][]float64{}
				for seed, rows := range []int{1, 7, 8, 9, 63, 64, 65, 1000, 3, 5000} {
					rec := everyType(o.alloc, uint64(seed), rows)
					defer rec.Release()
					require.NoError(t, o.Process(context.Background(), rec, o))
					mirrored(t, rec, o.recs[len(o.recs)-1], last)
				}
			}
		})
	}
}

func mirrored(t *testing.T, in, out arrow.Record, last map[string][]float64) {
	t.Helper()
	require.EqualValues(t, 18, out.NumCols())
	same := func(i, o int) {
		require.True(t, array.Equal(in.Column(i), out.Column(7+o)), in.ColumnName(i))
	}
	same(2, 1)
	same(5, 4)
	same(6, 6)
	same(3, 9)
	runs, err := pipeline.Runs(nil, in, 1)
	require.NoError(t, err)
	text, size := in.Column(3).(*array.String), out.Column(9).(*array.Int64)
	for _, run := range runs {
		for i := run.Start; i < run.End; i++ {
			at := in.Column(0).(*array.Timestamp).Value(i)
			require.Equal(t, at+1, out.Column(7).(*array.Timestamp).Value(i))
			require.Equal(t, text.IsNull(i), size.IsNull(i))
			if !text.IsNull(i) {
				require.EqualValues(t, len(text.Value(i))+1000*len(run.Tag), size.Value(i))
			}
			quality := in.Column(4).(*array.Uint32).Value(i)
			if (i-run.Start)%2 != 0 {
				quality = 0
			}
			require.Equal(t, quality, out.Column(10).(*array.Uint32).Value(i))
			require.True(t, out.Column(12).(*array.Boolean).Value(i))
			require.EqualValues(t, 4+10+150+6*10000+0xc3, out.Column(14).(*array.Float64).Value(i))
			label := ""
			if (i-run.Start)%2 == 0 {
				label = run.Tag
			}
			require.Equal(t, label, out.Column(17).(*array.String).Value(i))
			before := 0.0
			if seen := last[run.Tag]; len(seen) >= 3 {
				before = seen[len(seen)-3]
			}
			require.Equal(t, before, out.Column(15).(*array.Float64).Value(i))
			last[run.Tag] = append(last[run.Tag], float64(at))
		}
	}
}

// An author's mistakes end in a message that says what they are.
func TestMistakes(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			module := mirror(t, lang)
			for mode, says := range map[string]string{
				"input": "input column", "output": "output column", "row": "row", "fail": "no, not today", "add": "a row is added by a map operator",
			} {
				o := open(t, everything, module, engines[0], map[string]any{"mode": mode})
				rec := everyType(o.alloc, 1, 10)
				err := o.Process(context.Background(), rec, o)
				rec.Release()
				require.Error(t, err)
				require.Contains(t, o.log.String(), says, "%s: %v", mode, err)
			}
		})
	}
}

// What a manifest and a source do not agree on is found when the module starts.
func TestManifestAndSourceDisagree(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			dir := filepath.Dir(mirror(t, lang))
			had, err := os.ReadFile(filepath.Join(dir, "manifest.json"))
			require.NoError(t, err)
			t.Cleanup(func() { require.NoError(t, os.WriteFile(filepath.Join(dir, "manifest.json"), had, 0o644)) })
			for _, c := range []struct{ old, new, says string }{
				{`{"name": "on", "type": "bool", "default": true, "doc": "."},`, ``, "the parameters in the source are not as many as in the manifest"},
				{`    {"name": "time", "type": "timestamp"},`, ``, "the input columns in the source are not as many as in the manifest"},
				{`{"name": "count", "type": "int64", "nullable": true}`, `{"name": "received", "type": "timestamp"}`, "input column count has another name, type or place in the manifest"},
				{`"name": "params", "type": "float64"`, `"name": "parameters", "type": "float64"`, `the manifest has "parameters"`},
			} {
				text := strings.Replace(string(had), c.old, c.new, 1)
				require.NotEqual(t, string(had), text)
				require.NoError(t, os.WriteFile(filepath.Join(dir, "manifest.json"), []byte(text), 0o644))
				in := arrow.NewSchema(append(everything.Fields(), arrow.Field{Name: "received", Type: pipeline.TimeType}), nil)
				module := filepath.Join(t.TempDir(), "example.wasm")
				repack(t, filepath.Join(dir, "example.wasm"), module, []byte(text))
				_, err := tryOpen(t, in, module, engines[0], nil)
				require.ErrorContains(t, err, c.says)
			}
		})
	}
}

// A damaged snapshot is refused in words, wherever it is cut.
func TestDamagedSnapshot(t *testing.T) {
	for _, lang := range sdk.Languages {
		t.Run(lang, func(t *testing.T) {
			module := example(t, lang, wasm.KindMap)
			o := open(t, pipeline.Readings, module, engines[0], nil)
			o.play(t, stream(3, 2)[1:])
			var b bytes.Buffer
			require.NoError(t, o.Snapshot(&b))
			state := b.Bytes()
			guest := guestState(t, state)
			fresh := open(t, pipeline.Readings, module, engines[0], nil)
			refused := func(guest []byte, says string) {
				require.ErrorContains(t, fresh.Restore(bytes.NewReader(resized(t, state, guest))), says)
			}
			for _, cut := range []int{0, 15, 16, 23, 30} {
				refused(guest[:cut], "the snapshot")
			}
			changed := func(change func([]byte)) []byte {
				s := bytes.Clone(guest)
				change(s)
				return s
			}
			refused(changed(func(s []byte) { s[0] = 'x' }), "not one of a module's states")
			refused(changed(func(s []byte) { s[8]++ }), "states have another size")
			refused(changed(func(s []byte) { s[20] = 0x7f }), "in the middle of a tag")
			// These are found when some tags are there already, so the next restore is refused.
			for _, c := range []struct {
				guest []byte
				says  string
			}{
				{guest[:len(guest)-1], "in the middle of a tag"},
				{changed(func(s []byte) { s[12]-- }), "bytes left over"},
				{changed(func(s []byte) { copy(s[16+40:], s[16:16+40]) }), "has a tag twice"},
			} {
				refused(c.guest, c.says)
				refused(guest, "has tags already")
				fresh = open(t, pipeline.Readings, module, engines[0], nil)
			}
		})
	}
}
