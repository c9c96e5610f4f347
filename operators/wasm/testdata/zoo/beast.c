/* beast: gives back what it is given, row by row, and does one hostile thing
 * from a certain batch on, as its parameter says. Compiled once; the host's
 * tests give it another default mode where a module of its own is needed. */
#define OWN_EXPORTS
#include "../guest.h"

#define WASI_IMPORT(name) __attribute__((import_module("wasi_snapshot_preview1"), import_name(#name)))
PENSTOCK_IMPORT(log) void host_log(int32_t level, const char *p, uint32_t len);
PENSTOCK_IMPORT(metric) void host_metric(const char *name, uint32_t len, double value);
WASI_IMPORT(fd_write) int32_t fd_write(int32_t fd, const void *iovs, uint32_t n, uint32_t *written);
WASI_IMPORT(random_get) int32_t random_get(void *p, uint32_t len);
WASI_IMPORT(clock_time_get) int32_t clock_time_get(int32_t id, int64_t precision, void *p);
WASI_IMPORT(poll_oneoff) int32_t poll_oneoff(const void *in, void *out, uint32_t n, void *events);
WASI_IMPORT(proc_exit) void proc_exit(int32_t code);

/* In the order of the manifest. */
enum mode {
  WELL,
  /* takes too much */
  LOOP_OPEN, LOOP_BIND, LOOP_PROCESS, LOOP_ADVANCE, LOOP_SNAPSHOT, LOOP_RESTORE, LOOP_ERROR, LOOP_ALLOC,
  RECURSION, GROW_ONCE, GROW_FOREVER, KEEP_ALL,
  /* lies about arrays */
  POINTER, CHILDREN, BUFFERS, BUFFER_COUNT, CHILD_FEW, CHILD_MANY, CHILD_HUGE, SELF, LENGTH_NEGATIVE, LENGTH_HUGE, LENGTH_CHILD, LENGTH_SHORT,
  OFFSET_NEGATIVE, OFFSET_OVERFLOW, OFFSET_WRAP, NULLS_FEW, NULLS_MANY, NULLS_UNKNOWN, NULLS_NEGATIVE, VALIDITY_SHORT,
  TEXT_DECREASES, TEXT_NEGATIVE, TEXT_BEYOND, TEXT_UTF8, TEXT_SPLIT, DICT_RANGE, DICT_NEGATIVE, DICT_MISSING, DICT_TWICE,
  OVERLAP, MISALIGNED, OUTPUT_HUGE, STATE_HUGE, STATE_POINTER, ERROR_POINTER, ALLOC_POINTER, SCHEMA_MILLION,
  /* calls the host */
  LOG_POINTER, METRIC_POINTER, METRIC_FLOOD, WRITE_POINTER, RANDOM_POINTER, CLOCK_POINTER, POLL_POINTER, EXIT, LOG_FLOOD, RANDOM_FLOOD
};

static enum mode mode;
static int64_t from, calls;
static volatile int sink;
static const char *const outside = (const char *)0xfffffff0;

PENSTOCK_EXPORT(spin) void spin(void) { for (;;) sink++; }

static __attribute__((noinline)) int recurse(int64_t left) {
  sink++;
  return left ? recurse(left - 1) + sink : 0;
}

PENSTOCK_EXPORT(penstock_open) int32_t open_(const double *p, uint32_t len) {
  mode = (enum mode)p[0], from = (int64_t)p[1];
  if (mode == LOOP_OPEN) spin();
  return 0;
}

PENSTOCK_EXPORT(penstock_alloc) uint32_t beast_alloc(uint32_t size, uint32_t align) {
  if (mode == LOOP_ALLOC && calls >= from && size > 4096) spin();
  if (mode == ALLOC_POINTER && calls >= from && size > 4096) return 0xffffffc0;
  return bump(size, align);
}
PENSTOCK_EXPORT(penstock_last_error) int32_t beast_error(penstock_buf *out) {
  if (mode == LOOP_ERROR) spin();
  *out = (penstock_buf){(uint32_t)outside, 1000};
  return 0;
}

PENSTOCK_EXPORT(penstock_bind) int32_t bind_(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static struct ArrowSchema s[6], text;
  static struct ArrowSchema *children[6] = {&s[0], &s[1], &s[2], &s[3], &s[4], &s[5]};
  if (mode == LOOP_BIND) spin();
  schema_leaf(&s[0], "tsn:UTC", "time", 0);
  schema_leaf(&s[1], "i", "tag", 0);
  schema_leaf(&text, "u", "", 0);
  s[1].dictionary = &text;
  schema_leaf(&s[2], "g", "value", 1);
  schema_leaf(&s[3], "u", "text", 1);
  schema_leaf(&s[4], "b", "flag", 1);
  schema_leaf(&s[5], "l", "count", 0);
  schema_leaf(out, "+s", "", 0);
  out->n_children = 6;
  out->children = children;
  if (mode == SCHEMA_MILLION) {
    enum { SIX = sizeof children };
    char *many = (char *)bump(2 * SIX << 18, 8);
    if (!many) return 1;
    __builtin_memcpy(many, children, SIX);
    for (uint32_t n = SIX; n < SIX << 18; n *= 2) __builtin_memcpy(many + n, many, n);
    out->n_children = 1000000;
    out->children = (struct ArrowSchema **)many;
  }
  return 0;
}

/* The last n bytes of memory. */
static char *last(uint32_t n) { return (char *)((uint32_t)(__builtin_wasm_memory_size(0) << 16) - n); }

PENSTOCK_EXPORT(penstock_process) int32_t process_(const struct ArrowArray *in, struct ArrowArray *out) {
  static struct ArrowArray a[6], dict;
  static struct ArrowArray *children[6] = {&a[0], &a[1], &a[2], &a[3], &a[4], &a[5]};
  static const void *buffers[6][3], *dict_buffers[3];
  static const char letters[] = "ab\xc3\xa4";
  int64_t n = in->length;
  if (n > 100000) return 1;
  uint32_t mark = heap;
  int32_t *index = (int32_t *)bump(4 * n, 8), *text = (int32_t *)bump(4 * (n + 1), 8), *tags = (int32_t *)bump(4 * (n + 2), 8);
  int64_t *count = (int64_t *)bump(8 * n, 8);
  uint8_t *valid = (uint8_t *)bump(n / 8 + 1, 8), *flags = (uint8_t *)bump(n / 8 + 1, 8);
  char *bytes = (char *)bump(4 * n, 8);
  if (!index || !text || !tags || !count || !valid || !flags || !bytes) return 2;
  heap = mark;

  const struct ArrowArray *const *c = (const struct ArrowArray *const *)in->children;
  const struct ArrowArray *d = c[1]->dictionary;
  const int32_t *runs = c[1]->buffers[1];
  for (int64_t i = 0; i < n; i++) {
    index[i] = runs[i];
    count[i] = calls;
    text[i] = 4 * i;
    __builtin_memcpy(bytes + 4 * i, letters, 4);
  }
  text[n] = 4 * n;
  for (int64_t i = 0; i <= d->length; i++) tags[i] = ((const int32_t *)d->buffers[1])[i];
  for (int64_t i = 0; i < n / 8 + 1; i++) valid[i] = 0xff, flags[i] = 0x55;
  array_leaf(&a[0], n, buffers[0], 2, c[0]->buffers[1]);
  array_leaf(&a[1], n, buffers[1], 2, index);
  array_leaf(&a[2], n, buffers[2], 2, c[2]->buffers[1]);
  buffers[2][0] = c[2]->buffers[0];
  a[2].null_count = c[2]->null_count;
  array_leaf(&a[3], n, buffers[3], 3, text);
  buffers[3][2] = bytes;
  array_leaf(&a[4], n, buffers[4], 2, flags);
  array_leaf(&a[5], n, buffers[5], 2, count);
  array_leaf(&dict, d->length, dict_buffers, 3, tags);
  dict_buffers[2] = d->buffers[2];
  a[1].dictionary = &dict;
  array_record(out, n, children, 6);
  if (calls++ < from) return 0;

  switch (mode) {
  case LOOP_PROCESS: spin();
  case LOOP_ERROR: case ERROR_POINTER: return 7;
  case RECURSION: sink = recurse(INT64_MAX); break;
  case GROW_ONCE:
    while (__builtin_wasm_memory_grow(0, 256) != (size_t)-1) {}
    while (__builtin_wasm_memory_grow(0, 1) != (size_t)-1) {}
    for (uint32_t p = 1 << 20; p < (uint32_t)last(8); p += 4096) *(volatile char *)p = 1;
    break;
  case GROW_FOREVER: for (;;) __builtin_wasm_memory_grow(0, 1);
  case KEEP_ALL: if (!bump(4 << 20, 8)) __builtin_trap(); break;

  case POINTER: buffers[2][1] = outside; break;
  case CHILDREN: out->children = (void *)outside; break;
  case BUFFERS: a[2].buffers = (void *)(outside + 12); break;
  case BUFFER_COUNT: a[2].n_buffers = INT64_MAX; break;
  case CHILD_FEW: out->n_children = 5; break;
  case CHILD_MANY: out->n_children = 7; break;
  case CHILD_HUGE: out->n_children = INT64_MIN; break;
  case SELF: children[2] = out; break;
  case LENGTH_NEGATIVE: out->length = -1; break;
  case LENGTH_HUGE: out->length = INT64_MAX; for (int i = 0; i < 6; i++) a[i].length = INT64_MAX; break;
  case LENGTH_CHILD: a[5].length = n + 1; break;
  case LENGTH_SHORT: a[2].length = n - 1; break;
  case OFFSET_NEGATIVE: a[2].offset = -1; break;
  case OFFSET_OVERFLOW: a[2].offset = INT32_MAX; break;
  case OFFSET_WRAP: a[2].offset = INT64_MAX; break;
  case NULLS_FEW: valid[0] = 0; a[2].null_count = 0; buffers[2][0] = valid; break;
  case NULLS_MANY: a[2].null_count = n; buffers[2][0] = valid; break;
  case NULLS_UNKNOWN: a[2].null_count = -1; buffers[2][0] = valid; break; /* no lie */
  case NULLS_NEGATIVE: a[2].null_count = -2; buffers[2][0] = valid; break;
  case VALIDITY_SHORT: a[2].null_count = -1; a[2].offset = 8; buffers[2][0] = last(1); break;
  case TEXT_DECREASES: text[n / 2] = 4 * n; text[n / 2 + 1] = 0; break;
  case TEXT_NEGATIVE: text[0] = INT32_MIN; break;
  case TEXT_BEYOND: text[n] = INT32_MAX; break;
  case TEXT_UTF8: bytes[0] = (char)0xff; break;
  case TEXT_SPLIT: text[1] = 3; break;
  case DICT_RANGE: index[n - 1] = 1 << 30; break;
  case DICT_NEGATIVE: index[0] = -1; break;
  case DICT_MISSING: a[1].dictionary = 0; break;
  case DICT_TWICE: /* every tag of no length */
    if (n < 2) { a[1].dictionary = 0; break; }
    for (int64_t i = 0; i < n; i++) index[i] = i;
    for (int64_t i = 0; i <= n; i++) tags[i] = 0;
    dict.length = n;
    break;
  case OVERLAP: buffers[5][1] = buffers[0][1]; buffers[3][1] = text; buffers[4][1] = text; break; /* no lie */
  case MISALIGNED: { /* no lie: only slow */
    char *odd = (char *)count + 1;
    for (int64_t i = 0; i < 8 * n - 8; i++) odd[i] = 0;
    if (n > 1) a[5].length = n, buffers[5][1] = last(8 * n + 3);
    break;
  }
  case OUTPUT_HUGE: { /* as much text as the limit allows */
    const uint32_t room = 60 << 20;
    char *big = last(0);
    if (__builtin_wasm_memory_grow(0, room >> 16) == (size_t)-1) return 4;
    __builtin_memset(big, 'x', room);
    buffers[3][2] = big;
    for (int64_t i = 0; i <= n; i++) text[i] = (int32_t)(room / n * i);
    break;
  }
  case LOG_POINTER: host_log(-1, outside, 1000); break;
  case METRIC_POINTER: host_metric(outside, 1000, 1); break;
  case METRIC_FLOOD:
    for (int i = 0; i < 1000; i++) {
      char name[3] = {'a' + i % 26, 'a' + i / 26 % 26, 'a' + i / 676};
      host_metric(name, 3, i);
    }
    break;
  case WRITE_POINTER: { penstock_buf v[2] = {{(uint32_t)bytes, 4}, {(uint32_t)outside, 0xffffffff}}; fd_write(1, v, 2, (uint32_t *)outside); break; }
  case RANDOM_POINTER: random_get((void *)outside, 0xffffffff); break;
  case CLOCK_POINTER: clock_time_get(0, 0, (void *)outside); break;
  case POLL_POINTER: poll_oneoff(outside, (void *)outside, 64, (void *)outside); break;
  case EXIT: proc_exit(3); break;
  case LOG_FLOOD: for (;;) host_log(3, bytes, 4);
  case RANDOM_FLOOD: for (;;) random_get((void *)(1 << 16), (uint32_t)last(1 << 16));
  default: break;
  }
  return 0;
}

PENSTOCK_EXPORT(penstock_advance) int32_t advance_(int64_t watermark, struct ArrowArray *out) {
  if (mode == LOOP_ADVANCE && calls >= from) spin();
  return 0;
}

PENSTOCK_EXPORT(penstock_snapshot) int32_t snapshot_(penstock_buf *out) {
  *out = (penstock_buf){(uint32_t)&calls, sizeof calls};
  if (calls < from) return 0;
  switch (mode) {
  case LOOP_SNAPSHOT: spin();
  case STATE_POINTER: *out = (penstock_buf){(uint32_t)outside, 1000}; break;
  case STATE_HUGE:
    while (__builtin_wasm_memory_grow(0, 16) != (size_t)-1) {}
    *out = (penstock_buf){0, (uint32_t)last(0)};
    break;
  default: break;
  }
  return 0;
}

PENSTOCK_EXPORT(penstock_restore) int32_t restore_(const void *p, uint32_t len) {
  if (mode == LOOP_RESTORE) spin();
  if (len < sizeof calls) return 1;
  __builtin_memcpy(&calls, p, sizeof calls);
  return 0;
}
