/* tally: an emit module. One row per run with its number of rows; advance makes
 * one row per call with the rows so far. Its WASI clock and random numbers go
 * into the rows of advance, so that a test sees that they are deterministic. */
#include "guest.h"

#define WASI(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
WASI(clock_time_get) int32_t clock_time_get(int32_t id, int64_t precision, int64_t *out);
WASI(random_get) int32_t random_get(void *p, uint32_t len);
WASI(proc_exit) _Noreturn void proc_exit(int32_t code);
WASI(fd_write) int32_t fd_write(int32_t fd, const penstock_buf *iov, int32_t n, uint32_t *written);

static int64_t total;
static double exit_at, mix_tags, one_tag;
static struct ArrowArray cols[3], dict;
static struct ArrowArray *children[3] = {&cols[0], &cols[1], &cols[2]};
static const void *buffers[4][3];

PENSTOCK_EXPORT(_initialize) void initialize(void) { error_text = "initialized"; }

PENSTOCK_EXPORT(penstock_open) int32_t open_(const double *params, uint32_t len) {
  if (len != 24 || error_text[0] != 'i') return 1;
  exit_at = params[0];
  mix_tags = params[1];
  one_tag = params[2];
  return 0;
}

PENSTOCK_EXPORT(penstock_bind) int32_t bind_(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static struct ArrowSchema s[3], d;
  static struct ArrowSchema *c[3] = {&s[0], &s[1], &s[2]};
  schema_leaf(&s[0], "tsn:UTC", "time", 0);
  schema_leaf(&s[1], "i", "tag", 0);
  schema_leaf(&d, "u", "", 0);
  s[1].dictionary = &d;
  schema_leaf(&s[2], "l", "rows", 0);
  schema_leaf(out, "+s", "", 0);
  out->n_children = 3;
  out->children = c;
  return 0;
}

PENSTOCK_EXPORT(penstock_process) int32_t process_(const struct ArrowArray *in, struct ArrowArray *out) {
  static int64_t times[1024], counts[1024];
  static int32_t index[1024];
  const int64_t *t = in->children[0]->buffers[1];
  const int32_t *idx = in->children[1]->buffers[1];
  int64_t n = in->length;
  int32_t runs = (int32_t)in->children[1]->dictionary->length;
  if (runs > 1024) return 1;
  total += n;
  if (exit_at && total >= exit_at) proc_exit(3);
  for (int32_t r = 0; r < runs; r++) counts[r] = 0;
  for (int64_t i = 0; i < n; i++) {
    times[idx[i]] = t[i];
    counts[idx[i]]++;
    index[idx[i]] = mix_tags ? 0 : idx[i];
  }
  array_leaf(&cols[0], runs, buffers[0], 2, times);
  array_leaf(&cols[1], runs, buffers[1], 2, index);
  cols[1].dictionary = in->children[1]->dictionary;
  array_leaf(&cols[2], runs, buffers[2], 2, counts);
  array_record(out, runs, children, 3);
  return 0;
}

PENSTOCK_EXPORT(penstock_advance) int32_t advance_(int64_t watermark, struct ArrowArray *out) {
  static int64_t now[1], value[2];
  static int32_t index[2] = {0, 1}, offsets[3] = {0, 5, 8};
  static int64_t times[2];
  if (total == 0) return 0;
  clock_time_get(0, 0, now);
  random_get(value, 8);
  value[1] = total;
  times[0] = now[0];
  times[1] = watermark;
  static char text[] = "advanced\n";
  penstock_buf iov = {(uint32_t)text, 9};
  uint32_t written;
  fd_write(1, &iov, 1, &written);
  if (one_tag) { /* both rows are alpha's, the second one older */
    index[1] = 0;
    times[1] = watermark - 1;
  }
  array_leaf(&dict, one_tag ? 1 : 2, buffers[3], 3, offsets);
  buffers[3][2] = "alpharow";
  array_leaf(&cols[0], 2, buffers[0], 2, times);
  array_leaf(&cols[1], 2, buffers[1], 2, index);
  cols[1].dictionary = &dict;
  array_leaf(&cols[2], 2, buffers[2], 2, value);
  array_record(out, 2, children, 3);
  return 0;
}

PENSTOCK_EXPORT(penstock_snapshot) int32_t snapshot_(penstock_buf *out) {
  *out = (penstock_buf){(uint32_t)&total, sizeof total};
  return 0;
}

PENSTOCK_EXPORT(penstock_restore) int32_t restore_(const void *p, uint32_t len) {
  if (len != sizeof total) return 1;
  __builtin_memcpy(&total, p, sizeof total);
  return 0;
}
