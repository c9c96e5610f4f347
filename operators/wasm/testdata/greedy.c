/* greedy: takes more than its share, in the call that its parameters name: of
 * time, stack or memory. Each batch gives one row, the number of batches so
 * far, or rows as many as asked for. */
#include "guest.h"

enum where { NOWHERE, OPEN, BIND, PROCESS, ADVANCE, SNAPSHOT, RESTORE };
enum what { LOOP, RECURSION, DEPTH, FILL, COPY, GROW, TRAP, SPIN };

static enum where where;
static enum what what;
static int64_t size, rows, from, calls;
static volatile int sink;

/* Uses nothing of the stack in memory, which would end first. */
static __attribute__((noinline)) int recurse(int64_t left) {
  sink++;
  return left ? recurse(left - 1) + sink : 0;
}

static void at(enum where here) {
  if (here != where || calls < from) return;
  uint8_t *low = &__heap_base + (1 << 20);
  switch (what) {
  case LOOP: for (;;) sink++;
  case RECURSION: sink = recurse(INT64_MAX); break;
  case DEPTH: sink = recurse(size); break;
  case FILL: for (;;) __builtin_memset(low, 1, size);
  case COPY: for (;;) __builtin_memcpy(low, low + size, size);
  case GROW: for (;;) __builtin_wasm_memory_grow(0, 1);
  case TRAP: __builtin_trap();
  case SPIN: for (int64_t i = 0; i < size; i++) sink = sink * 3 + 1;
  }
}

PENSTOCK_EXPORT(penstock_open) int32_t open_(const void *params, uint32_t len) {
  const double *p = params;
  where = (enum where)p[0], what = (enum what)p[1];
  size = (int64_t)p[2], rows = (int64_t)p[3], from = (int64_t)p[4];
  if (what == FILL || what == COPY) __builtin_wasm_memory_grow(0, 17 + (2 * size >> 16));
  at(OPEN);
  return 0;
}

PENSTOCK_EXPORT(penstock_bind) int32_t bind_(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static struct ArrowSchema s;
  static struct ArrowSchema *c[1] = {&s};
  schema_leaf(&s, "l", "n", 0);
  schema_leaf(out, "+s", "", 0);
  out->n_children = 1;
  out->children = c;
  at(BIND);
  return 0;
}

static int32_t give(struct ArrowArray *out) {
  static struct ArrowArray a;
  static struct ArrowArray *c[1] = {&a};
  static const void *buffers[2];
  uint32_t mark = heap;
  int64_t *n = (int64_t *)bump((uint32_t)(8 * rows), 8);
  heap = mark;
  if (!n) return 1;
  for (int64_t i = 0; i < rows; i++) n[i] = calls;
  array_leaf(&a, rows, buffers, 2, n);
  array_record(out, rows, c, 1);
  return 0;
}

PENSTOCK_EXPORT(penstock_process) int32_t process_(const struct ArrowArray *in, struct ArrowArray *out) {
  at(PROCESS);
  calls++;
  return give(out);
}

PENSTOCK_EXPORT(penstock_advance) int32_t advance_(int64_t watermark, struct ArrowArray *out) {
  at(ADVANCE);
  return 0;
}

PENSTOCK_EXPORT(penstock_snapshot) int32_t snapshot_(penstock_buf *out) {
  at(SNAPSHOT);
  *out = (penstock_buf){(uint32_t)&calls, sizeof calls};
  return 0;
}

PENSTOCK_EXPORT(penstock_restore) int32_t restore_(const void *p, uint32_t len) {
  at(RESTORE);
  if (len != sizeof calls) return 1;
  __builtin_memcpy(&calls, p, sizeof calls);
  return 0;
}
