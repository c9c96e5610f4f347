/* probe: hands its input back as output, and, as its parameter says, breaks
 * each rule of the ABI in turn. Its state is the number of calls. */
#include "guest.h"

PENSTOCK_IMPORT(log) void host_log(int32_t level, const char *p, uint32_t len);
PENSTOCK_IMPORT(metric) void host_metric(const char *name, uint32_t len, double value);

enum mode {
  IDENTITY, UNREACHABLE, OUT_OF_BOUNDS, STACK, STATUS, LENGTH, NEGATIVE_OFFSET, HUGE_OFFSET, BUFFER, BUFFERS, CHILDREN,
  CHILD_COUNT, NULL_COUNT, NOT_NULLABLE, DECREASING, TEXT_END, NOT_UTF8, NANS, GROW, SPEAK, LOG_BOUNDS, OFFSET, DIVIDE,
  OUT_UNTOUCHED, TWICE
};

static enum mode mode;
static uint32_t label_len;
static char label[64];
static double scale;
static int64_t calls;

PENSTOCK_EXPORT(penstock_open) int32_t open_(const void *params, uint32_t len) {
  const double *num = params;
  const penstock_buf *buf = params;
  if (len != 24) return 1;
  mode = (enum mode)num[0];
  scale = num[1];
  label_len = buf[2].len;
  if (label_len > sizeof label) return 2;
  __builtin_memcpy(label, (const void *)buf[2].ptr, label_len);
  return 0;
}

static int streq(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

PENSTOCK_EXPORT(penstock_bind) int32_t bind_(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static const char *const format[] = {"tsn:UTC", "i", "g", "u", "I", "b", "l"};
  static const char *const name[] = {"time", "tag", "value", "text", "quality", "flag", "count"};
  static struct ArrowSchema s[8];
  static struct ArrowSchema *children[8] = {&s[0], &s[1], &s[2], &s[3], &s[4], &s[5], &s[6], &s[7]};
  if (!streq(in->format, "+s") || in->n_children != 7) return 1;
  for (int i = 0; i < 7; i++)
    if (!streq(in->children[i]->format, format[i]) || !streq(in->children[i]->name, name[i])) return 2;
  if (!in->children[1]->dictionary || !streq(in->children[1]->dictionary->format, "u")) return 3;
  schema_leaf(&s[0], "tsn:UTC", "time_out", 0);
  schema_leaf(&s[1], "I", "run", 0);
  schema_leaf(&s[2], "g", "value_out", 1);
  schema_leaf(&s[3], "u", "text_out", 1);
  schema_leaf(&s[4], "I", "quality_out", 0);
  schema_leaf(&s[5], "b", "flag_out", 1);
  schema_leaf(&s[6], "l", "count_out", 0);
  schema_leaf(&s[7], "u", "tag_text", 0);
  schema_leaf(out, "+s", "", 0);
  out->n_children = 8;
  out->children = children;
  return 0;
}

static int recurse(volatile int *p) {
  volatile int here[64] = {*p};
  return recurse(here) + here[1];
}

PENSTOCK_EXPORT(penstock_process) int32_t process_(const struct ArrowArray *in, struct ArrowArray *out) {
  static struct ArrowArray a[8];
  static struct ArrowArray *children[8];
  static const void *buffers[8][3];
  int64_t n = in->length;
  calls++;
  for (int i = 0; i < 7; i++) {
    const struct ArrowArray *c = in->children[i];
    if (c->length != n || c->offset != 0 || (uint32_t)c->buffers[1] % 64) return 3;
    if (!c->null_count != !c->buffers[0]) return 4;
    a[i] = *c;
    for (int k = 0; k < c->n_buffers; k++) buffers[i][k] = c->buffers[k];
    a[i].buffers = buffers[i];
    a[i].dictionary = 0;
    children[i] = &a[i];
  }

  /* The tag of each row, as text. */
  const int32_t *idx = in->children[1]->buffers[1];
  const struct ArrowArray *dict = in->children[1]->dictionary;
  const int32_t *doff = dict->buffers[1];
  const char *dtext = dict->buffers[2];
  uint32_t total = 0;
  int32_t run = -1;
  for (int64_t i = 0; i < n; i++) {
    if (idx[i] != run && idx[i] != ++run) return 5;
    total += doff[run + 1] - doff[run];
  }
  if (run + 1 != dict->length) return 6;
  uint32_t mark = heap;
  int32_t *off = (int32_t *)bump(4 * (n + 1), 8);
  char *text = (char *)bump(total + 1, 8);
  if (!off || !text) return 7;
  off[0] = 0;
  for (int64_t i = 0; i < n; i++) {
    int32_t len = doff[idx[i] + 1] - doff[idx[i]];
    __builtin_memcpy(text + off[i], dtext + doff[idx[i]], len);
    off[i + 1] = off[i] + len;
  }
  heap = mark;
  array_leaf(&a[7], n, buffers[7], 3, off);
  buffers[7][2] = text;
  children[7] = &a[7];
  array_record(out, n, children, 8);

  switch (mode) {
  case IDENTITY: break;
  case UNREACHABLE: __builtin_trap();
  case OUT_OF_BOUNDS: *(volatile char *)0xfffffff0 = 1; break;
  case STACK: return recurse((int *)&mode);
  case DIVIDE: { volatile int zero = 0, one = 1; return one / zero; }
  case STATUS: error_text = "the scale is wrong"; return 7;
  case LENGTH: out->length = n + 1; break;
  case NEGATIVE_OFFSET: a[2].offset = -1; break;
  case HUGE_OFFSET: a[2].offset = 0x7fffffff; break;
  case BUFFER: buffers[2][1] = (void *)0xfffffff8; break;
  case BUFFERS: a[2].buffers = (void *)0xfffffffc; break;
  case CHILDREN: out->children = (void *)0xfffffff0; break;
  case CHILD_COUNT: out->n_children = 1LL << 40; break;
  case NULL_COUNT: a[2].null_count = n; a[2].buffers[0] = "\x55\x55\x55\x55\x55\x55\x55\x55\x55\x55"; break;
  case NOT_NULLABLE: a[0].null_count = -1; a[0].buffers[0] = "\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"; break;
  case DECREASING: off[n] = -1; break;
  case TEXT_END: off[n] = 0x7ffffff0; break;
  case NOT_UTF8: text[0] = (char)0xff; break;
  case NANS: {
    uint64_t *v = (uint64_t *)buffers[2][1];
    for (int64_t i = 0; i < n; i++) v[i] = 0xfff8000000000000u + (uint64_t)i * 7919 + 1;
    break;
  }
  case GROW:
    while (__builtin_wasm_memory_grow(0, 16) != (size_t)-1) {}
    error_text = "no more memory";
    return 9;
  case SPEAK:
    host_log(1, label, label_len);
    host_metric("scale", 5, scale);
    break;
  case LOG_BOUNDS: host_log(1, (const char *)0xfffffff0, 100); break;
  case OFFSET: /* rows 1.. of the value, the first one again at the end */
    a[2].offset = 1;
    a[2].null_count = -1;
    break;
  case OUT_UNTOUCHED: *out = (struct ArrowArray){0}; break;
  case TWICE: for (int i = 0; i < 8; i++) children[i] = &a[7]; break;
  }
  return 0;
}

PENSTOCK_EXPORT(penstock_snapshot) int32_t snapshot_(penstock_buf *out) {
  *out = (penstock_buf){(uint32_t)&calls, sizeof calls};
  return 0;
}

PENSTOCK_EXPORT(penstock_restore) int32_t restore_(const void *p, uint32_t len) {
  if (len != sizeof calls) return 1;
  __builtin_memcpy(&calls, p, sizeof calls);
  return 0;
}
