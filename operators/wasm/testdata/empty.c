/* empty: takes all six columns of a reading and hands one back untouched. What
 * is left is the cost of the boundary. */
#include "guest.h"

PENSTOCK_EXPORT(penstock_open) int32_t open_(const void *params, uint32_t len) { return 0; }

PENSTOCK_EXPORT(penstock_bind) int32_t bind_(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static struct ArrowSchema s;
  static struct ArrowSchema *c[1] = {&s};
  schema_leaf(&s, "g", "same", 1);
  schema_leaf(out, "+s", "", 0);
  out->n_children = 1;
  out->children = c;
  return 0;
}

PENSTOCK_EXPORT(penstock_process) int32_t process_(const struct ArrowArray *in, struct ArrowArray *out) {
  array_record(out, in->length, in->children + 2, 1);
  return 0;
}

PENSTOCK_EXPORT(penstock_snapshot) int32_t snapshot_(penstock_buf *out) { *out = (penstock_buf){0, 0}; return 0; }
PENSTOCK_EXPORT(penstock_restore) int32_t restore_(const void *p, uint32_t len) { return 0; }
