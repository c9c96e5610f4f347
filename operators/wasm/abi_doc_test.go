//go:build cgo && (wasmtime || (linux && amd64) || (darwin && (amd64 || arm64)) || custom_wasmer_runtime)

package wasm

import (
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	"github.com/apache/arrow/go/v17/arrow/memory"
	"github.com/stretchr/testify/require"

	"github.com/penstock/penstock/pipeline"
)

// fromABI returns the last block of ABI.md in a language.
func fromABI(t *testing.T, lang string) string {
	t.Helper()
	text, err := os.ReadFile("../ABI.md")
	require.NoError(t, err)
	blocks := regexp.MustCompile("(?s)\n```"+lang+"\n(.*?)\n```\n").FindAllStringSubmatch(string(text), -1)
	require.NotEmpty(t, blocks)
	return blocks[len(blocks)-1][1]
}

// packed puts a module in text format and its manifest together, in a file.
func packed(t *testing.T, text, manifest string) string {
	t.Helper()
	m, err := ParseManifest([]byte(manifest))
	require.NoError(t, err)
	code, err := Pack(wat(t, text), m)
	require.NoError(t, err)
	file := t.TempDir() + "/" + m.Name + ".wasm"
	require.NoError(t, os.WriteFile(file, code, 0o644))
	return file
}

// The module that ABI.md ends with runs as the page says.
func TestModuleOfABI(t *testing.T) {
	text, manifest := fromABI(t, "wat"), fromABI(t, "json")
	file := packed(t, text, manifest)
	forEngines(t, func(t *testing.T, engine string) {
		for _, metered := range []string{MeteredNever, MeteredAlways} {
			open := func() *fixture {
				return start(t, pipeline.Readings, "excess", engine, func(c *Config) {
					params("limit", 2.5)(c)
					c.Module, c.Metered = file, metered
				})
			}
			f := open()
			rec := aboutValues(1, 2.5, nil, -4)
			defer rec.Release()
			big := readings(5000) // more than its memory: it grows
			defer big.Release()
			require.NoError(t, f.process(rec))
			require.NoError(t, f.process(big))
			require.Len(t, f.out.recs, 2, f.log)
			require.Equal(t, "[-1.5 0 (null) -6.5]", fmt.Sprint(f.out.recs[0].Column(6)))
			require.Equal(t, "[1 2 3 4]", fmt.Sprint(f.out.recs[0].Column(7)))
			require.EqualValues(t, 5004, f.out.recs[1].Column(7).(*array.Int64).Value(4999))
			require.EqualValues(t, 4996.5, f.out.recs[1].Column(6).(*array.Float64).Value(4999))

			var state strings.Builder
			require.NoError(t, f.Snapshot(&state))
			again := open()
			require.NoError(t, again.Restore(strings.NewReader(state.String())))
			require.NoError(t, again.process(rec))
			require.Equal(t, "[5005 5006 5007 5008]", fmt.Sprint(again.out.recs[0].Column(7)))
		}

		// Its last_error: the manifest has one parameter too few.
		short := packed(t, text, strings.Replace(manifest, `"params": [{"name": "limit", "type": "float", "default": 10, "doc": "What is taken off."}],`, "", 1))
		_, err := tryStart(t, pipeline.Readings, "excess", engine, func(c *Config) { c.Module = short })
		require.ErrorContains(t, err, "penstock_open returned 1: it needs one parameter and one column of float64")
	})
}

// aboutValues is readings of one tag; nil is a null.
func aboutValues(values ...any) arrow.Record {
	b := array.NewRecordBuilder(memory.DefaultAllocator, pipeline.Readings)
	defer b.Release()
	for i, v := range values {
		b.Field(0).(*array.TimestampBuilder).Append(arrow.Timestamp(i))
		_ = b.Field(1).(*array.BinaryDictionaryBuilder).AppendString("a")
		switch v := v.(type) {
		case nil:
			b.Field(2).AppendNull()
		case float64:
			b.Field(2).(*array.Float64Builder).Append(v)
		case int:
			b.Field(2).(*array.Float64Builder).Append(float64(v))
		}
		b.Field(3).AppendNull()
		b.Field(4).(*array.Uint32Builder).Append(0)
		b.Field(5).AppendNull()
	}
	return b.NewRecord()
}

// lastOfRun is an emit module with a column of every type, written from ABI.md
// alone: of each run it gives the last row's time, value and quality, the
// number of rows, a text and whether the run is an even one; advance gives one
// row for the tag "all". Up to 64 runs.
//
// Memory: 16 texts; 1024 eight ArrowSchema (the last is the dictionary's); 1536
// eight ArrowArray, the same; 2048 and 2080 the pointers to them; 2112 three
// buffer pointers each; 2304 the batch's buffer; 4096 on, 512 bytes each: the
// columns' values, offsets and bytes.
const lastOfRun = `(module
  (memory (export "memory") 1)
  (data (i32.const 16) "+s\00tsn:UTC\00i\00g\00I\00l\00u\00b\00time\00tag\00value\00quality\00rows\00note\00even\00")
  (data (i32.const 128) "all")
  (global $heap (mut i32) (i32.const 16384))
  (global $rows (mut i64) (i64.const 0))
  (func (export "penstock_abi_version") (result i32) (i32.const 1))
  (func (export "penstock_alloc") (param $size i32) (param $align i32) (result i32)
    (local $at i32)
    (local.set $at (i32.and (i32.add (global.get $heap) (i32.const 63)) (i32.const -64)))
    (global.set $heap (i32.add (local.get $at) (local.get $size)))
    (if (i32.gt_u (global.get $heap) (i32.const 65536)) (then (return (i32.const 0))))
    (local.get $at))
  (func (export "penstock_free") (param i32 i32 i32) (global.set $heap (local.get 0)))
  (func (export "penstock_open") (param i32 i32) (result i32) (local.get 1))
  (func $schema (param $i i32) (param $format i32) (param $name i32) (param $flags i64)
    (local $s i32)
    (local.set $s (i32.add (i32.const 1024) (i32.mul (local.get $i) (i32.const 48))))
    (i32.store (local.get $s) (local.get $format))
    (i32.store offset=4 (local.get $s) (local.get $name))
    (i64.store offset=16 (local.get $s) (local.get $flags))
    (i32.store (i32.add (i32.const 2048) (i32.shl (local.get $i) (i32.const 2))) (local.get $s)))
  (func (export "penstock_bind") (param $in i32) (param $out i32) (result i32)
    (call $schema (i32.const 0) (i32.const 19) (i32.const 39) (i64.const 0))
    (call $schema (i32.const 1) (i32.const 27) (i32.const 44) (i64.const 0))
    (call $schema (i32.const 2) (i32.const 29) (i32.const 48) (i64.const 2))
    (call $schema (i32.const 3) (i32.const 31) (i32.const 54) (i64.const 0))
    (call $schema (i32.const 4) (i32.const 33) (i32.const 62) (i64.const 0))
    (call $schema (i32.const 5) (i32.const 35) (i32.const 67) (i64.const 0))
    (call $schema (i32.const 6) (i32.const 37) (i32.const 72) (i64.const 0))
    (call $schema (i32.const 7) (i32.const 35) (i32.const 0) (i64.const 0))
    (i32.store (i32.add (i32.const 1024) (i32.add (i32.const 48) (i32.const 36))) (i32.const 1360))
    (i32.store (local.get $out) (i32.const 16))
    (i64.store offset=24 (local.get $out) (i64.const 7))
    (i32.store offset=32 (local.get $out) (i32.const 2048))
    (i32.const 0))
  ;; column sets the i-th ArrowArray: its values lie at 4096 + 512 i, and a string's bytes at 8192.
  (func $column (param $i i32) (param $length i64) (param $buffers i64)
    (local $a i32) (local $b i32)
    (local.set $a (i32.add (i32.const 1536) (i32.shl (local.get $i) (i32.const 6))))
    (local.set $b (i32.add (i32.const 2112) (i32.mul (local.get $i) (i32.const 12))))
    (i64.store (local.get $a) (local.get $length))
    (i64.store offset=8 (local.get $a) (i64.const -1))
    (i64.store offset=24 (local.get $a) (local.get $buffers))
    (i32.store offset=40 (local.get $a) (local.get $b))
    (i32.store offset=4 (local.get $b) (i32.add (i32.const 4096) (i32.shl (local.get $i) (i32.const 9))))
    (i32.store offset=8 (local.get $b) (i32.const 8192))
    (i32.store (i32.add (i32.const 2080) (i32.shl (local.get $i) (i32.const 2))) (local.get $a)))
  (func $record (param $out i32) (param $runs i64) (param $dictionary i32)
    (local $i i32)
    (loop $next
      (call $column (local.get $i) (local.get $runs) (select (i64.const 3) (i64.const 2) (i32.eq (local.get $i) (i32.const 5))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (i32.const 7))))
    (i32.store (i32.const 1648) (local.get $dictionary))         ;; 1536 + 64 + 48
    (i32.store (i32.const 2136) (i32.const 5632))                ;; the validity of column 2: bytes that no other uses
    (i64.store (local.get $out) (local.get $runs))
    (i64.store offset=24 (local.get $out) (i64.const 1))
    (i64.store offset=32 (local.get $out) (i64.const 7))
    (i32.store offset=40 (local.get $out) (i32.const 2304))
    (i32.store offset=44 (local.get $out) (i32.const 2080)))
  (func $buffer (param $in i32) (param $column i32) (param $i i32) (result i32)
    (i32.load (i32.add (i32.load offset=40 (i32.load (i32.add (i32.load offset=44 (local.get $in)) (i32.shl (local.get $column) (i32.const 2)))))
                       (i32.shl (local.get $i) (i32.const 2)))))
  (func (export "penstock_process") (param $in i32) (param $out i32) (result i32)
    (local $n i32) (local $i i32) (local $run i32) (local $runs i32) (local $8 i32) (local $4 i32) (local $valid i32)
    (local.set $n (i32.wrap_i64 (i64.load (local.get $in))))
    (if (i32.eqz (local.get $n)) (then (return (i32.const 0))))
    (memory.fill (i32.const 4096) (i32.const 0) (i32.const 4608))
    (global.set $rows (i64.add (global.get $rows) (i64.extend_i32_u (local.get $n))))
    (local.set $valid (call $buffer (local.get $in) (i32.const 2) (i32.const 0)))
    (loop $next
      (local.set $run (i32.load (i32.add (call $buffer (local.get $in) (i32.const 1) (i32.const 1)) (i32.shl (local.get $i) (i32.const 2)))))
      (local.set $8 (i32.shl (local.get $run) (i32.const 3)))
      (local.set $4 (i32.shl (local.get $run) (i32.const 2)))
      (i64.store (i32.add (i32.const 4096) (local.get $8)) (i64.load (i32.add (call $buffer (local.get $in) (i32.const 0) (i32.const 1)) (i32.shl (local.get $i) (i32.const 3)))))
      (i32.store (i32.add (i32.const 4608) (local.get $4)) (local.get $run))
      (f64.store (i32.add (i32.const 5120) (local.get $8)) (f64.load (i32.add (call $buffer (local.get $in) (i32.const 2) (i32.const 1)) (i32.shl (local.get $i) (i32.const 3)))))
      (i32.store (i32.add (i32.const 5888) (local.get $4)) (i32.load (i32.add (call $buffer (local.get $in) (i32.const 3) (i32.const 1)) (i32.shl (local.get $i) (i32.const 2)))))
      (i64.store (i32.add (i32.const 6144) (local.get $8)) (i64.add (i64.const 1) (i64.load (i32.add (i32.const 6144) (local.get $8)))))
      ;; the validity bit of the run is that of its last row
      (call $bit (i32.const 5632) (local.get $run)
        (if (result i32) (local.get $valid)
          (then (i32.and (i32.const 1) (i32.shr_u (i32.load8_u (i32.add (local.get $valid) (i32.shr_u (local.get $i) (i32.const 3)))) (i32.and (local.get $i) (i32.const 7)))))
          (else (i32.const 1))))
      (call $bit (i32.const 7168) (local.get $run) (i32.and (i32.const 1) (i32.xor (local.get $run) (i32.const 1))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (local.set $runs (i32.add (local.get $run) (i32.const 1)))
    (call $notes (local.get $runs))
    (call $record (local.get $out) (i64.extend_i32_u (local.get $runs))
      (i32.load offset=48 (i32.load offset=4 (i32.load offset=44 (local.get $in)))))
    (i32.store (i32.const 2152) (i32.const 5888))                 ;; quality's values: column 3's second pointer
    (i32.const 0))
  (func $bit (param $at i32) (param $i i32) (param $v i32)
    (local.set $at (i32.add (local.get $at) (i32.shr_u (local.get $i) (i32.const 3))))
    (i32.store8 (local.get $at) (i32.or
      (i32.and (i32.load8_u (local.get $at)) (i32.xor (i32.const 255) (i32.shl (i32.const 1) (i32.and (local.get $i) (i32.const 7)))))
      (i32.shl (local.get $v) (i32.and (local.get $i) (i32.const 7))))))
  ;; notes: run i has i mod 3 times "ü".
  (func $notes (param $runs i32)
    (local $i i32) (local $at i32) (local $k i32)
    (block $done (loop $next
      (i32.store (i32.add (i32.const 6656) (i32.shl (local.get $i) (i32.const 2))) (local.get $at))
      (br_if $done (i32.eq (local.get $i) (local.get $runs)))
      (local.set $k (i32.rem_u (local.get $i) (i32.const 3)))
      (block $full (loop $more
        (br_if $full (i32.eqz (local.get $k)))
        (i32.store16 (i32.add (i32.const 8192) (local.get $at)) (i32.const 0xbcc3))
        (local.set $at (i32.add (local.get $at) (i32.const 2)))
        (local.set $k (i32.sub (local.get $k) (i32.const 1)))
        (br $more)))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br $next))))
  (func (export "penstock_advance") (param $watermark i64) (param $out i32) (result i32)
    (if (i64.eqz (global.get $rows)) (then (return (i32.const 0))))
    (memory.fill (i32.const 4096) (i32.const 0) (i32.const 4608))
    (i64.store (i32.const 4096) (local.get $watermark))
    (i64.store (i32.const 6144) (global.get $rows))
    (call $notes (i32.const 1))
    (call $record (local.get $out) (i64.const 1) (i32.const 1984))
    (i32.store (i32.const 2152) (i32.const 5888))
    ;; the dictionary: "all", its offsets at 7680
    (call $column (i32.const 7) (i64.const 1) (i64.const 3))
    (i32.store (i32.const 7684) (i32.const 3))
    (i32.store (i32.const 2204) (i32.const 128))                  ;; 2112 + 7 * 12 + 8
    (i32.const 0))
  (func (export "penstock_snapshot") (param $out i32) (result i32)
    (i64.store (i32.const 2312) (global.get $rows))
    (i64.store (local.get $out) (i64.const 0x0000000800000908))   ;; 8 bytes at 2312
    (i32.const 0))
  (func (export "penstock_restore") (param i32 i32) (result i32)
    (global.set $rows (i64.load (local.get 0)))
    (i32.ne (local.get 1) (i32.const 8)))
  (func (export "penstock_last_error") (param i32) (result i32) (i32.const 0)))`

const lastOfRunManifest = `{"name": "last", "version": "0.1.0", "abi": 1, "kind": "emit", "doc": "The last row of each run.",
 "input": [{"name": "time", "type": "timestamp"}, {"name": "tag", "type": "tag"}, {"name": "value", "type": "float64", "nullable": true}, {"name": "quality", "type": "uint32"}],
 "output": [{"name": "time", "type": "timestamp"}, {"name": "tag", "type": "tag"}, {"name": "value", "type": "float64", "nullable": true}, {"name": "quality", "type": "uint32"},
  {"name": "rows", "type": "int64"}, {"name": "note", "type": "string"}, {"name": "even", "type": "bool"}]}`

func TestEveryTypeFromABI(t *testing.T) {
	file := packed(t, lastOfRun, lastOfRunManifest)
	// An empty state's address counts too: here one that a language gives an empty slice.
	stray := packed(t, strings.Replace(lastOfRun, "0x0000000800000908", "0xaaaaaaaa", 1), lastOfRunManifest)
	forEngines(t, func(t *testing.T, engine string) {
		open := func() *fixture {
			return start(t, pipeline.Readings, "last", engine, func(c *Config) { c.Module = file })
		}
		f := open()
		rec := readings(300) // five runs, the last of 44 rows
		defer rec.Release()
		require.NoError(t, f.Advance(t.Context(), 1, f.out))
		require.NoError(t, f.process(rec))
		some := aboutValues(1, nil)
		defer some.Release()
		require.NoError(t, f.process(some))
		require.NoError(t, f.Advance(t.Context(), 7_000, f.out))
		require.Len(t, f.out.recs, 3, f.log)

		column := func(rec, col int) string { return fmt.Sprint(f.out.recs[rec].Column(col)) }
		require.Equal(t, "[63 127 191 255 299]", fmt.Sprint(f.out.recs[0].Column(0).(*array.Timestamp).TimestampValues()))
		tags := f.out.recs[0].Column(1).(*array.Dictionary)
		require.Equal(t, "plant1/hall2/pump4/vibration_x", tags.Dictionary().(*array.String).Value(tags.GetValueIndex(4)))
		require.Equal(t, "[63 127 191 255 299]", column(0, 2))
		require.Equal(t, "[0 0 0 0 0]", column(0, 3))
		require.Equal(t, "[64 64 64 64 44]", column(0, 4))
		require.Equal(t, `["" "ü" "üü" "" "ü"]`, column(0, 5))
		require.Equal(t, "[true false true false true]", column(0, 6))
		require.Equal(t, "[(null)]", column(1, 2))
		require.Equal(t, "[302]", column(2, 4))
		require.Equal(t, "all", f.out.recs[2].Column(1).(*array.Dictionary).Dictionary().(*array.String).Value(0))
		require.EqualValues(t, 7_000, f.out.recs[2].Column(0).(*array.Timestamp).Value(0))

		var state strings.Builder
		require.NoError(t, f.Snapshot(&state))
		again := open()
		require.NoError(t, again.Restore(strings.NewReader(state.String())))
		require.NoError(t, again.Advance(t.Context(), 8_000, again.out))
		require.Equal(t, "[302]", fmt.Sprint(again.out.recs[0].Column(4)))

		f = start(t, pipeline.Readings, "last", engine, func(c *Config) { c.Module = stray })
		require.NoError(t, f.Snapshot(&state))
		require.Contains(t, f.log.String(), "penstock_snapshot: nothing at 0xaaaaaaaa, which is past the memory's end")
	})
}
