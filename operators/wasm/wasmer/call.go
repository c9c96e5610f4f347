//go:build cgo && !wasmtime && ((linux && amd64) || (custom_wasmer_runtime && !darwin))

package wasmer

/*
#include <stdint.h>
#include <stdlib.h>

// Of wasm.h, the C API of WebAssembly, what a call needs. wasmer-go brings the
// library; weak, so that this package compiles by itself.
typedef struct { uint8_t kind; union { int32_t i32; int64_t i64; double f64; } of; } val;
typedef struct { size_t size; val *data; } vals;
typedef struct { size_t size; char *data; } bytes;
extern void *wasm_func_call(const void *func, const vals *args, vals *results) __attribute__((weak));
extern void wasm_trap_message(const void *trap, bytes *out) __attribute__((weak));
extern void wasm_trap_delete(void *trap) __attribute__((weak));
extern void wasm_byte_vec_delete(bytes *) __attribute__((weak));

enum { I32 = 0, MAX = 8 };

// call_ calls func with n slots, of the kinds given, and leaves what it returns,
// if it returns something, in slots[0].
static void *call_(const void *func, int n, const uint8_t *kinds, int results, uint64_t *slots) {
  val in[MAX], out[1];
  vals args = {n, in}, back = {results, out};
  for (int i = 0; i < n; i++) {
    in[i].kind = kinds[i];
    in[i].of.i64 = kinds[i] == I32 ? (int64_t)(uint32_t)slots[i] : (int64_t)slots[i]; // the bits, of a double too
  }
  void *trap = wasm_func_call(func, &args, &back);
  if (!trap && results) slots[0] = out[0].kind == I32 ? (uint32_t)out[0].of.i32 : (uint64_t)out[0].of.i64;
  return trap;
}

static bytes message_(void *trap) {
  bytes b = {0, NULL};
  wasm_trap_message(trap, &b);
  wasm_trap_delete(trap);
  return b;
}
*/
import "C"

import (
	"errors"
	"reflect"
	"runtime"
	"strings"
	"unsafe"

	"github.com/wasmerio/wasmer-go/wasmer"
)

// function calls through the C API itself: wasmer-go's own way makes six
// allocations for each call, and leaks the function's type for each function.
type function struct {
	instance *instance
	f        *wasmer.Function
	inner    unsafe.Pointer // of f
	sig      signature
	kinds    [maxParams]C.uint8_t
	slots    [maxParams]C.uint64_t
}

func newFunction(i *instance, f *wasmer.Function, sig signature) *function {
	inner := reflect.ValueOf(f).Elem().FieldByName("_inner").UnsafePointer() // of wasmer-go 1.0.4, the last one
	fn := &function{instance: i, f: f, inner: inner, sig: sig}
	for i, k := range sig.params {
		fn.kinds[i] = C.uint8_t(k)
	}
	return fn
}

func (f *function) Call(args ...uint64) (uint64, error) {
	if err := f.sig.check(args); err != nil {
		return 0, err
	}
	for i, a := range args {
		f.slots[i] = C.uint64_t(a)
	}
	trap := C.call_(f.inner, C.int(len(args)), &f.kinds[0], C.int(f.sig.results), &f.slots[0])
	runtime.KeepAlive(f)
	if trap != nil {
		b := C.message_(trap)
		text := C.GoStringN(b.data, C.int(b.size))
		C.wasm_byte_vec_delete(&b)
		return 0, errors.New(strings.TrimRight(text, "\x00"))
	}
	if f.sig.results == 0 {
		return 0, nil
	}
	return uint64(f.slots[0]), nil
}
