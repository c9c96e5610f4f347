//go:build cgo && wasmtime && component

// Package component takes batches across the boundary of a WebAssembly
// component, for ../../RATIONALE.md. `make bench-component` measures it, and
// tells where the C headers are: wasmtime-go brings Wasmtime's library but wraps
// none of its components.
package component

/*
#include <stdlib.h>
#include <string.h>
#include <wasmtime.h>

typedef wasmtime_component_val_t val;

enum { LISTS, BYTES, BETWEEN_LISTS, BETWEEN_BYTES, FUNCS, COLUMNS = 9 };

typedef struct {
  wasmtime_context_t *context;
  wasmtime_component_func_t funcs[FUNCS];
  val args[COLUMNS];
  size_t room[COLUMNS];
} guest;

static char *text(wasmtime_error_t *e) {
  if (!e) return NULL;
  wasm_name_t m;
  wasmtime_error_message(e, &m);
  return strndup(m.data, m.size);
}

// open_ makes a guest that lives as long as the process.
static char *open_(const char *wat, size_t n, guest *g) {
  wasm_engine_t *engine = wasm_engine_new();
  wasm_byte_vec_t wasm;
  wasmtime_component_t *c;
  wasmtime_component_instance_t instance;
  wasmtime_error_t *e;
  if ((e = wasmtime_wat2wasm(wat, n, &wasm))) return text(e);
  if ((e = wasmtime_component_new(engine, (uint8_t *)wasm.data, wasm.size, &c))) return text(e);
  g->context = wasmtime_store_context(wasmtime_store_new(engine, NULL, NULL));
  if ((e = wasmtime_component_linker_instantiate(wasmtime_component_linker_new(engine), g->context, c, &instance))) return text(e);
  const char *names[] = {"lists", "bytes", "between-lists", "between-bytes"};
  for (int i = 0; i < FUNCS; i++)
    wasmtime_component_instance_get_func(&instance, g->context, wasmtime_component_get_export_index(c, NULL, names[i], strlen(names[i])), &g->funcs[i]);
  return NULL;
}

static val *list(guest *g, int i, size_t n) {
  if (n > g->room[i]) g->args[i].of.list.data = realloc(g->args[i].of.list.data, (g->room[i] = n) * sizeof(val));
  g->args[i].kind = WASMTIME_COMPONENT_LIST;
  g->args[i].of.list.size = n;
  return g->args[i].of.list.data;
}

#define FILL(i, n, what, field, from)                                                      \
  do {                                                                                     \
    val *v = list(g, i, n);                                                                \
    for (size_t k = 0; k < (n); k++) v[k] = (val){WASMTIME_COMPONENT_##what, {.field = (from)[k]}}; \
  } while (0)

static char *lists(guest *g, size_t rows, const int64_t *time, const int32_t *tag, size_t tags, const int32_t *tag_offsets, char *tag_bytes,
                   const double *value, const int32_t *text_offsets, const uint8_t *text_valid, const uint32_t *quality, const int64_t *received,
                   double *out) {
  FILL(0, rows, S64, s64, time);
  FILL(1, rows, S32, s32, tag);
  val *v = list(g, 2, tags);
  for (size_t k = 0; k < tags; k++)
    v[k] = (val){WASMTIME_COMPONENT_STRING, {.string = {tag_offsets[k + 1] - tag_offsets[k], tag_bytes + tag_offsets[k]}}};
  FILL(3, rows, F64, f64, value);
  FILL(4, rows + 1, S32, s32, text_offsets);
  list(g, 5, 0); // no text at all
  FILL(6, (rows + 7) / 8, U8, u8, text_valid);
  FILL(7, rows, U32, u32, quality);
  FILL(8, rows, S64, s64, received);
  val r = {0};
  wasmtime_error_t *e = wasmtime_component_func_call(&g->funcs[LISTS], g->context, g->args, COLUMNS, &r, 1);
  if (e) return text(e);
  for (size_t k = 0; k < rows; k++) out[k] = r.of.list.data[k].of.f64;
  wasmtime_component_val_delete(&r);
  return NULL;
}

static char *bytes(guest *g, const uint8_t *message, size_t n, size_t rows, uint8_t *out) {
  FILL(0, n, U8, u8, message);
  val args[2] = {g->args[0], {WASMTIME_COMPONENT_U32, {.u32 = rows}}}, r = {0};
  wasmtime_error_t *e = wasmtime_component_func_call(&g->funcs[BYTES], g->context, args, 2, &r, 1);
  if (e) return text(e);
  for (size_t k = 0; k < 8 * rows; k++) out[k] = r.of.list.data[k].of.u8;
  wasmtime_component_val_delete(&r);
  return NULL;
}

// between has the driver hand over rows, in a message of n bytes or, with n 0, as lists.
static char *between(guest *g, size_t n, size_t rows, uint32_t *out) {
  val args[2] = {{WASMTIME_COMPONENT_U32, {.u32 = n}}, {WASMTIME_COMPONENT_U32, {.u32 = rows}}}, r = {0};
  int lists = !n;
  wasmtime_error_t *e = wasmtime_component_func_call(&g->funcs[lists ? BETWEEN_LISTS : BETWEEN_BYTES], g->context, args + lists, 2 - lists, &r, 1);
  *out = r.of.u32;
  return text(e);
}
*/
import "C"

import (
	_ "embed"
	"errors"
	"fmt"
	"unsafe"

	"github.com/apache/arrow/go/v17/arrow"
	"github.com/apache/arrow/go/v17/arrow/array"
	_ "github.com/bytecodealliance/wasmtime-go/v44" // the library
)

//go:embed component.wat
var wat string

// Guest is an instance of the component.
type Guest struct{ c *C.guest }

// Open returns a guest that lives as long as the process.
func Open() (Guest, error) {
	g := Guest{(*C.guest)(C.calloc(1, C.sizeof_guest))}
	return g, failure(C.open_((*C.char)(unsafe.Pointer(unsafe.StringData(wat))), C.size_t(len(wat)), g.c))
}

// Lists hands the six columns of readings over, each as its buffers, and copies
// the column that comes back to out.
func (g Guest) Lists(rec arrow.Record, out []byte) error {
	buffer := func(d arrow.ArrayData, i int) unsafe.Pointer {
		return unsafe.Pointer(unsafe.SliceData(d.Buffers()[i].Bytes()))
	}
	data := func(i int) arrow.ArrayData { return rec.Column(i).Data() }
	tags := rec.Column(1).(*array.Dictionary).Dictionary()
	return failure(C.lists(g.c, C.size_t(rec.NumRows()), (*C.int64_t)(buffer(data(0), 1)),
		(*C.int32_t)(buffer(data(1), 1)), C.size_t(tags.Len()), (*C.int32_t)(buffer(tags.Data(), 1)), (*C.char)(buffer(tags.Data(), 2)),
		(*C.double)(buffer(data(2), 1)), (*C.int32_t)(buffer(data(3), 1)), (*C.uint8_t)(buffer(data(3), 0)),
		(*C.uint32_t)(buffer(data(4), 1)), (*C.int64_t)(buffer(data(5), 1)), (*C.double)(unsafe.Pointer(unsafe.SliceData(out)))))
}

// Bytes hands a message over and copies what comes back, 8 bytes for each row,
// to out.
func (g Guest) Bytes(message, out []byte) error {
	return failure(C.bytes(g.c, (*C.uint8_t)(unsafe.SliceData(message)), C.size_t(len(message)), C.size_t(len(out)/8), (*C.uint8_t)(unsafe.SliceData(out))))
}

// Between has another component hand rows over, which it has: in a message of n
// bytes or, with n 0, as lists.
func (g Guest) Between(n, rows int) error {
	var got C.uint32_t
	if err := failure(C.between(g.c, C.size_t(n), C.size_t(rows), &got)); err != nil {
		return err
	}
	if n > 0 {
		rows *= 8
	}
	if int(got) != rows {
		return fmt.Errorf("a list of %d came back, not of %d", got, rows)
	}
	return nil
}

func failure(text *C.char) error {
	if text == nil {
		return nil
	}
	return errors.New(C.GoString(text))
}
