package filter

import (
	"context"
	"fmt"
	"math"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/internal/optest"
	"github.com/penstock/penstock/pipeline"
)

var rows = []optest.Row{
	0: {Tag: "plant/pump1/temperature", T: 1, V: 70},
	1: {Tag: "plant/pump1/temperature", T: 2, V: 90, Q: pipeline.Uncertain},
	2: {Tag: "plant/pump1/temperature", T: 3, Null: true, Q: pipeline.BadSensor},
	3: {Tag: "plant/pump2/vibration_x", T: 1, V: -4},
	4: {Tag: "plant/pump2/vibration_x", T: 2, V: math.NaN()},
	5: {Tag: "plant/pump2/vibration_x", T: 3, V: 2.5, Q: pipeline.Bad},
	6: {Tag: "plant/pump2/mode", T: 4, Null: true, Text: "Auto"},
	7: {Tag: "plant/pump2/mode", T: 5, Null: true, Text: "manual"},
}

func open(t testing.TB, env pipeline.Env, cfg Config) *Operator {
	p := pipeline.NewProblems()
	cfg.Validate(p)
	require.Empty(t, p.All())
	op, err := New(cfg, env)
	require.NoError(t, err)
	out, err := op.Open(context.Background(), pipeline.Readings)
	require.NoError(t, err)
	require.True(t, out.Equal(pipeline.Readings))
	return op
}

func TestExpressions(t *testing.T) {
	all := []int{0, 1, 2, 3, 4, 5, 6, 7}
	for _, c := range []struct {
		expr string
		want []int
	}{
		{"value > 80", []int{1}},
		{"80 < value", []int{1}},
		{"value >= 70", []int{0, 1}},
		{"value <= -4", []int{3}},
		{"value == 2.5", []int{5}},
		{"value != 2.5", []int{0, 1, 3, 4}}, // NaN != x, null does not pass
		{"value == value", []int{0, 1, 3, 5}},
		{"not (value > 80)", []int{0, 3, 4, 5}},
		{"2 < value < 80", []int{0, 5}},
		{"value != nil", []int{0, 1, 3, 4, 5}},
		{"nil == value", []int{2, 6, 7}},
		{"(value ?? 100) > 80", []int{1, 2, 6, 7}},
		{"abs(value) == 4", []int{3}},
		{"max(value, 0, 1) == 1", []int{3}},
		{"min(value, 1) == 1", []int{0, 1, 5}},
		{"floor(value) == 2 or ceil(value) == 70", []int{0, 5}},
		{"round(sqrt(value) * 100) == 158", []int{5}},
		{"value * 2 + 1 == 6 || value / 10 == 7", []int{0, 5}},
		{"value - 1 == 1.5", []int{5}},
		{"-value == 4", []int{3}},
		{"value ** 2 == 16", []int{3}},
		{"value % 4 == 2.5", []int{5}},
		{"value + value == value * 2", []int{0, 1, 3, 5}},
		{"value in [70, 90, 1+1.5]", []int{0, 1, 5}},
		{"value not in [70, 90]", []int{3, 4, 5}},
		{"good(quality)", []int{0, 3, 4, 6, 7}},
		{"bad(quality)", []int{2, 5}},
		{"uncertain(quality)", []int{1}},
		{"quality == 0x40000000", []int{1}},
		{"good(quality) and value > 60", []int{0}},
		{"tag == 'plant/pump2/mode'", []int{6, 7}},
		{"tag in ['plant/pump2/mode', 'x']", []int{6, 7}},
		{"tag matches 'pump[2-9]/vib'", []int{3, 4, 5}},
		{"tag contains 'pump1'", []int{0, 1, 2}},
		{"tag not contains 'pump1'", []int{3, 4, 5, 6, 7}},
		{"tag startsWith 'plant/pump2'", []int{3, 4, 5, 6, 7}},
		{"tag endsWith 'mode'", []int{6, 7}},
		{"asset == 'plant/pump1'", []int{0, 1, 2}},
		{"measurement in ['mode', 'temperature'] and asset endsWith '2'", []int{6, 7}},
		{"upper(measurement) == 'MODE'", []int{6, 7}},
		{"measurement == 'mode' ? lower(text) == 'auto' : value > 0", []int{0, 1, 5, 6}},
		{"text == 'Auto'", []int{6}},
		{"text != nil", []int{6, 7}},
		{"value > (tag endsWith 'temperature' ? 80 : 0)", []int{1, 5}},
		{"(value > 80) == good(quality)", []int{5}},
		{"time > date('1970-01-01T00:00:03Z')", []int{6, 7}},
		{"time - date('1970-01-01') < duration('2s')", []int{0, 3}},
		{"received + duration('1s') > time", all},
		{"true", all},
		{"false or 1 + 1 == 2", all},
		{"1 > 2", nil},
		// Three-valued logic: null and false is false, null or true is true.
		{"not (value > 0 and tag endsWith 'x')", []int{0, 1, 2, 3, 4, 6, 7}},
		{"value > 0 or tag endsWith 'mode'", []int{0, 1, 5, 6, 7}},
		{"(value > 0) == nil", []int{2, 6, 7}},
	} {
		t.Run(c.expr, func(t *testing.T) {
			env := optest.Env(t)
			op := open(t, env, Config{Expr: c.expr, Rejected: true})
			in := optest.Readings(env.Alloc, rows)
			defer in.Release()
			for _, rec := range []arrow.Record{in, sliced(env.Alloc)} {
				out := &optest.Collector{T: t}
				// Twice: scratch memory and the tags it remembers are reused.
				require.NoError(t, op.Process(context.Background(), rec, &optest.Collector{T: t}))
				require.NoError(t, op.Process(context.Background(), rec, out))
				require.Equal(t, expected(t, c.want, true), out.Rows[""])
				require.Equal(t, expected(t, c.want, false), out.Rows[PortRejected])
				if rec != in {
					rec.Release()
				}
			}
		})
	}
}

// sliced returns the same rows as a slice of a larger record: offsets are not 0.
func sliced(alloc memory.Allocator) arrow.Record {
	more := append([]optest.Row{{Tag: "plant/pump1/temperature", T: 0, V: 1}, {Tag: "plant/pump1/temperature", T: 0, Null: true, Text: "x"}}, rows...)
	rec := optest.Readings(alloc, more)
	defer rec.Release()
	return rec.NewSlice(2, rec.NumRows())
}

func expected(t *testing.T, want []int, in bool) []string {
	rec := optest.Readings(memory.DefaultAllocator, rows)
	c := &optest.Collector{T: t}
	require.NoError(t, c.Emit("", rec))
	var out []string
	k := 0
	for i, r := range c.Rows[""] {
		hit := k < len(want) && want[k] == i
		if hit {
			k++
		}
		if hit == in {
			out = append(out, r)
		}
	}
	return out
}

func TestBadExpressions(t *testing.T) {
	for expr, want := range map[string]string{
		"":                             "is empty",
		"value >":                      "column 7: unexpected token EOF",
		"value > 'a'":                  "column 7: a number cannot be compared with a string",
		"value":                        "column 1: this is a number, want a boolean",
		"tag and value > 3":            "column 1: this is a string, want a boolean",
		"value > 3 and foo(value) > 2": "column 15: function foo with 1 arguments is not supported",
		"time > now()":                 "column 8: now() is not supported",
		"tag matches '('":              "column 13: error parsing regexp",
		"tag matches asset":            "column 13: the right side of matches must be a constant string",
		"value in 1..3":                "column 11: the right side of in must be a list",
		"value in ['a']":               "column 11: this cannot be in a list that is compared with a number",
		"[1,2][0] == 1":                "[1, 2][0] is not supported",
		"value.foo == 1":               "is not supported",
		"let x = 1; value > x":         "is not supported",
		"any([1], # > 0)":              "function any with 2 arguments is not supported",
		"good(3)":                      "column 1: good takes a quality column",
		"good(value)":                  `"value" is not a quality column`,
		"time > date('soon')":          `column 13: "soon" is not a time`,
		"time + time > time":           "column 6: time + time is not supported",
		"true < false":                 "booleans have no order",
		"value < nil":                  "nil has no order",
		"true ? 1 : 'a'":               "this is a string, want a number",
		"value > 1 and\n tag":          "line 2, column 2: this is a string, want a boolean",
	} {
		p := pipeline.NewProblems()
		(&Config{Expr: expr}).Validate(p)
		require.Len(t, p.All(), 1, expr)
		require.Equal(t, "expr", p.All()[0].Path)
		require.Contains(t, p.All()[0].Message, want, expr)
		require.NotEmpty(t, p.All()[0].Hint)
	}
	// What only Open can know.
	env := optest.Env(t)
	op, err := New(Config{Expr: "valeu > 3"}, env)
	require.NoError(t, err)
	_, err = op.Open(context.Background(), pipeline.Readings)
	require.ErrorContains(t, err, `column 1: unknown column "valeu"`)
	require.ErrorContains(t, err, "time, tag, value")
	for _, ok := range []string{"score > 3", "flag", "x + y > 2", "mode in ['a']", "s matches 'x'", "a == b", "x != nil", "bad(q)", "tag contains 'x' ? foo : 3 < 4"} {
		p := pipeline.NewProblems()
		(&Config{Expr: ok}).Validate(p)
		require.Empty(t, p.All(), ok)
	}
}

func TestAllPassIsZeroCopy(t *testing.T) {
	env := optest.Env(t)
	op := open(t, env, Config{Expr: "time > date('1970-01-01')"})
	in := optest.Readings(env.Alloc, rows)
	defer in.Release()
	var got arrow.Record
	require.NoError(t, op.Process(context.Background(), in, emitFunc(func(_ string, rec arrow.Record) { got = rec })))
	require.True(t, got == in)
}

type emitFunc func(string, arrow.Record)

func (f emitFunc) Emit(port string, rec arrow.Record) error { f(port, rec); return nil }

// A filter takes the output of any operator: other column types, no tag.
func TestOtherSchemas(t *testing.T) {
	env := optest.Env(t)
	s := arrow.NewSchema([]arrow.Field{
		{Name: "n", Type: arrow.PrimitiveTypes.Int64, Nullable: true},
		{Name: "flag", Type: arrow.FixedWidthTypes.Boolean, Nullable: true},
		{Name: "name", Type: pipeline.TagType},
		{Name: "list", Type: arrow.ListOf(arrow.PrimitiveTypes.Float32)},
		{Name: "small", Type: arrow.PrimitiveTypes.Int16},
	}, nil)
	b := array.NewRecordBuilder(env.Alloc, s)
	defer b.Release()
	for i := range 6 {
		if i == 2 {
			b.Field(0).AppendNull()
		} else {
			b.Field(0).(*array.Int64Builder).Append(int64(i))
		}
		if i == 3 {
			b.Field(1).AppendNull()
		} else {
			b.Field(1).(*array.BooleanBuilder).Append(i%2 == 0)
		}
		require.NoError(t, b.Field(2).(*array.BinaryDictionaryBuilder).AppendString(fmt.Sprint("n", i%3)))
		b.Field(3).(*array.ListBuilder).Append(true)
		b.Field(3).(*array.ListBuilder).ValueBuilder().(*array.Float32Builder).Append(float32(i))
		b.Field(4).(*array.Int16Builder).Append(int16(-i))
	}
	rec := b.NewRecord()
	defer rec.Release()
	for expr, want := range map[string]string{
		"flag":                        "0 2 4",
		"flag == false":               "1 5",
		"flag != nil and n >= 4":      "4 5",
		"name == 'n2'":                "2 5",
		"n == nil":                    "2",
		"small < -3 or flag == nil":   "3 4 5",
		"name contains 'n' and n < 2": "0 1",
	} {
		op, err := New(Config{Expr: expr}, env)
		require.NoError(t, err)
		_, err = op.Open(context.Background(), s)
		require.NoError(t, err)
		var got []string
		require.NoError(t, op.Process(context.Background(), rec, emitFunc(func(_ string, r arrow.Record) {
			for i := range int(r.NumRows()) {
				got = append(got, strings.TrimPrefix(r.Column(4).ValueStr(i), "-"))
			}
		})))
		require.Equal(t, want, strings.Join(got, " "), expr)
	}
	op, err := New(Config{Expr: "list == 1"}, env)
	require.NoError(t, err)
	_, err = op.Open(context.Background(), s)
	require.ErrorContains(t, err, `column "list" is list`)
}

func FuzzExpr(f *testing.F) {
	f.Add("good(quality) and value > 80 ? tag matches 'a.*' : (value ?? 1) in [1, 2]")
	f.Add("time - date('1970-01-01') < duration('2s')")
	f.Add("not (1 <= value <= 9) or text != nil")
	rec := optest.Readings(memory.DefaultAllocator, rows)
	f.Fuzz(func(t *testing.T, expr string) {
		prog, err := compile(expr, pipeline.Readings, pipeline.NewTags(nil), false)
		if err != nil {
			return
		}
		v, rerr := prog.run(rec)
		require.NoError(t, rerr)
		v = expand(&prog.last, v, &prog.b, levelRow)
		require.Len(t, v.b, len(rows))
	})
}

func BenchmarkFilter(b *testing.B) {
	for _, expr := range []string{
		"value > 70",
		"good(quality) and value > 70",
		"tag matches 'pump.*/temperature' and value > 70",
		"asset endsWith 'pump7'",
		"true",
	} {
		b.Run(expr, func(b *testing.B) {
			env := pipeline.Env{Name: "f", Alloc: memory.DefaultAllocator}
			op := open(b, env, Config{Expr: expr})
			rec := optest.Bench(env.Alloc, 8192, 64, 1000)
			b.ReportAllocs()
			for b.Loop() {
				if err := op.Process(context.Background(), rec, optest.Discard{}); err != nil {
					b.Fatal(err)
				}
			}
			optest.PerRow(b, 8192)
		})
	}
}
