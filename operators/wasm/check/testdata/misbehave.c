/* misbehave: counts the rows that it has seen; compiled once per mode, each of
 * which breaks one rule. The test says which check finds it. */
#include "../../testdata/guest.h"

enum { WELL, CALLS, KEEPS, FORGETS, EMPTY, LEAKS, RANGE };

static int64_t state[2]; /* rows seen, and the most rows of a batch */
static int64_t calls;

PENSTOCK_EXPORT(penstock_open) int32_t open_(const double *params, uint32_t len) {
  if (MODE == RANGE && params[0] == 100) __builtin_trap();
  return 0;
}

PENSTOCK_EXPORT(penstock_bind) int32_t bind_(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static struct ArrowSchema s;
  static struct ArrowSchema *c[1] = {&s};
  schema_leaf(&s, "l", "seen", 0);
  schema_leaf(out, "+s", "", 0);
  out->n_children = 1;
  out->children = c;
  return 0;
}

PENSTOCK_EXPORT(penstock_process) int32_t process_(const struct ArrowArray *in, struct ArrowArray *out) {
  static struct ArrowArray col;
  static struct ArrowArray *children[1] = {&col};
  static const void *buffers[2];
  static int64_t *seen, room;
  int64_t n = in->length;
  if (MODE == EMPTY && n == 0) __builtin_trap();
  if (MODE == LEAKS || n > room) {
    seen = (int64_t *)bump((uint32_t)n * 8, 8);
    room = n;
    if (!seen) return 1;
  }
  calls++;
  if (n > state[1]) state[1] = n;
  for (int64_t i = 0; i < n; i++) seen[i] = ++state[0] + 1000000 * state[1] + (MODE == CALLS ? calls << 40 : 0);
  array_leaf(&col, n, buffers, 2, seen);
  array_record(out, n, children, 1);
  return 0;
}

PENSTOCK_EXPORT(penstock_snapshot) int32_t snapshot_(penstock_buf *out) {
  *out = (penstock_buf){(uint32_t)state, MODE == FORGETS ? 8 : 16};
  return 0;
}

PENSTOCK_EXPORT(penstock_restore) int32_t restore_(const void *p, uint32_t len) {
  int64_t most = state[1];
  state[1] = 0;
  __builtin_memcpy(state, p, len);
  if (MODE == KEEPS && most > state[1]) state[1] = most;
  return 0;
}
