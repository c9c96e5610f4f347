/* penstock.h: what a Penstock operator in C is compiled against. ABI version 1.
 *
 * The boundary is the Arrow C Data Interface laid out in the guest's linear
 * memory (wasm32: pointers are 4 bytes, int64 fields 8-byte aligned). One call
 * carries one whole batch with all its tags.
 *
 * Ownership. What the host passes in is borrowed for the call and lives in
 * memory that the host got from penstock_alloc. What the guest hands out
 * stays the guest's and must keep its place until the next call into the
 * module; the host copies it out at once. release callbacks are never called.
 *
 * Status: 0 is success; any other value makes the host read
 * penstock_last_error and treat the call by the operator's on_error policy.
 * A trap, or a result that makes no sense (a pointer out of bounds, a length or
 * null_count that does not fit, text that is not UTF-8), costs the module its
 * state: the host goes on with a fresh instance, opened and bound again.
 *
 * Every input buffer begins at a multiple of 64 bytes, and memory up to the
 * next such multiple may be read. A null validity pointer means no nulls.
 *
 * On Wasmer 2.0 a v128.load that feeds v128.and/or/xor/andnot or an i8x16
 * operation directly becomes one instruction that traps (as an access out of
 * bounds) unless the address is a multiple of 16, whatever the load's
 * alignment hint says. Loads that feed other lane types are not affected.
 */
#ifndef PENSTOCK_H
#define PENSTOCK_H
#include <stddef.h>
#include <stdint.h>

#define PENSTOCK_ABI_VERSION 1

#ifndef ARROW_C_DATA_INTERFACE
#define ARROW_C_DATA_INTERFACE
#define ARROW_FLAG_DICTIONARY_ORDERED 1
#define ARROW_FLAG_NULLABLE 2
#define ARROW_FLAG_MAP_KEYS_SORTED 4
struct ArrowSchema {
  const char *format, *name, *metadata;
  int64_t flags, n_children;
  struct ArrowSchema **children, *dictionary;
  void (*release)(struct ArrowSchema *);
  void *private_data;
};
struct ArrowArray {
  int64_t length, null_count, offset, n_buffers, n_children;
  const void **buffers;
  struct ArrowArray **children, *dictionary;
  void (*release)(struct ArrowArray *);
  void *private_data;
};
#endif

/* A piece of guest memory, handed out. */
typedef struct { uint32_t ptr, len; } penstock_buf;

/* Exports of a module:
 *
 * int32  penstock_abi_version(void)                 PENSTOCK_ABI_VERSION
 * ptr    penstock_alloc(uint32 size, uint32 align)  0 when out of memory. The host
 *                                                   calls it for its arena and frees
 *                                                   nothing but by penstock_free.
 * void   penstock_free(ptr, uint32 size, uint32 align)
 * int32  penstock_open(const void *params, uint32 len)
 *          params: one 8-byte slot for each parameter of the manifest, in its
 *          order: a float64 (numbers; durations in seconds; booleans 0 or 1;
 *          an enum's position) or, for a string, a penstock_buf.
 * int32  penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out)
 *          in and out are structs ("+s"). in has the columns that the manifest
 *          lists as input, in its order. A "map" operator (see the manifest)
 *          describes the columns it adds, an "emit" operator its whole output.
 * int32  penstock_process(const struct ArrowArray *in, struct ArrowArray *out)
 *          in is grouped by tag, each tag's rows contiguous and in time order.
 *          Dictionary columns: int32 indices; the dictionary of one batch holds
 *          just its tags, so the index is the number of the run.
 *          A "map" operator returns exactly in->length rows; an "emit" operator
 *          any number, also 0: it may then leave out as it is, all zero. Its tag
 *          column, if it has one, is a dictionary in the same form: grouped, the
 *          index is the number of the run.
 * int32  penstock_advance(int64 watermark_ns, struct ArrowArray *out)
 *          "emit" operators only.
 * int32  penstock_snapshot(penstock_buf *out)
 * int32  penstock_restore(const void *p, uint32 len)
 * int32  penstock_last_error(penstock_buf *out)     UTF-8, no terminating zero
 * Optional: void _initialize(void), called once before anything else.
 *
 * Imports offered in module "penstock":
 * void   log(int32 level, const char *p, uint32 len)        0 debug .. 3 error
 * void   metric(const char *name, uint32 len, double value)
 */
#define PENSTOCK_EXPORT(name) __attribute__((export_name(#name), visibility("default")))
#define PENSTOCK_IMPORT(name) __attribute__((import_module("penstock"), import_name(#name)))

#endif
