/* rows.h: a batch as kernels see it, and the arrays that they give back.
 *
 * Every kernel takes the columns time, tag, value and quality. A row is usable
 * when its value is there and finite (below 1e150 in size: squares must not
 * overflow) and its quality is Good or, unless uncertain is "skip", Uncertain. */
#ifndef PENSTOCK_ROWS_H
#define PENSTOCK_ROWS_H
#include "tags.h"

struct run {
  struct tag *tag;
  void *state; /* the tag's */
  int32_t begin, end;
};

struct rows {
  int32_t count, runs;
  const int64_t *time;
  const double *value;
  const uint32_t *quality;
  const struct run *run;
  uint64_t *usable; /* a bit per row; the kernel may clear bits and hand it out as its validity */
  int all_usable;
};

static uint32_t quality_limit = 0x80000000u; /* a row with this quality or above is unusable */
static int64_t late_rows, late_told; /* rows older than the newest of their tag, so far */
static struct buffer runs_buffer, usable_buffer;

#ifdef __wasm__
PENSTOCK_IMPORT(metric) void penstock_metric(const char *name, uint32_t len, double value);
static void report_late(void) {
  if (late_rows == late_told) return;
  late_told = late_rows;
  penstock_metric("late_rows", 9, (double)late_rows);
}
#else
static void report_late(void) { late_told = late_rows; }
#endif

/* minus is a - b, which wraps around for times that are centuries apart. */
static inline int64_t minus(int64_t a, int64_t b) { return (int64_t)((uint64_t)a - (uint64_t)b); }

static inline int bit(const uint64_t *bits, int32_t i) { return bits[i >> 6] >> (i & 63) & 1; }
static inline void set_bit(uint64_t *bits, int32_t i) { bits[i >> 6] |= (uint64_t)1 << (i & 63); }
static inline void clear_bit(uint64_t *bits, int32_t i) { bits[i >> 6] &= ~((uint64_t)1 << (i & 63)); }

/* all_set says whether the bits [begin, end) are all set; begin < end. */
static inline int all_set(const uint64_t *bits, int32_t begin, int32_t end) {
  int32_t first = begin >> 6, last = (end - 1) >> 6;
  uint64_t head = ~(uint64_t)0 << (begin & 63), tail = ~(uint64_t)0 >> (63 - ((end - 1) & 63));
  if (first == last) return (~bits[first] & head & tail) == 0;
  if (~bits[first] & head || ~bits[last] & tail) return 0;
  for (int32_t i = first + 1; i < last; i++)
    if (~bits[i]) return 0;
  return 1;
}

/* read_uncertain takes the parameter uncertain: 0 use, 1 skip. */
static void read_uncertain(double p) { quality_limit = p != 0 ? 0x40000000u : 0x80000000u; }

#define VALUE_LIMIT 1e150

COLD static uint64_t usable_word(const double *x, const uint32_t *q, int32_t n) {
  uint64_t w = 0;
  for (int32_t i = 0; i < n; i++) {
    w |= (uint64_t)((q[i] < quality_limit) & (__builtin_fabs(x[i]) < VALUE_LIMIT)) << i;
  }
  return w;
}

/* mark_usable fills usable and returns 1 when every row is. It looks at 64 rows
 * at once and at single ones only where something is wrong. */
NOINLINE static int mark_usable(uint64_t *usable, const double *x, const uint32_t *q, const uint8_t *valid, int64_t valid_at, int32_t n) {
  int32_t q1 = (int32_t)(quality_limit - 1);
  v4i good = {q1, q1, q1, q1};
  uint64_t all = ~(uint64_t)0;
  for (int32_t i = 0; i < n; i += 64, x += 64, q += 64) {
    uint64_t w;
    if (n - i >= 64) {
      v4i worst = good;
      v2d a = both(0), b = a, c = a, d = a;
      for (int j = 0; j < 64; j += 8) {
        worst = maxu4(maxu4(load4(q + j), worst), load4(q + j + 4));
        a += square2(load2(x + j));
        b += square2(load2(x + j + 2));
        c += square2(load2(x + j + 4));
        d += square2(load2(x + j + 6));
      }
      v2d sum = (a + b) + (c + d); /* not small when one value is large, infinite or not a number */
      w = bits4(worst == good) == 15 && sum[0] + sum[1] < VALUE_LIMIT * VALUE_LIMIT / 2 ? ~(uint64_t)0 : usable_word(x, q, 64);
    } else {
      w = usable_word(x, q, n - i);
    }
    if (valid)
      for (int32_t j = 0, m = n - i < 64 ? n - i : 64; j < m; j++) {
        int64_t at = valid_at + i + j;
        if (!(valid[at >> 3] >> (at & 7) & 1)) w &= ~((uint64_t)1 << j);
      }
    usable[i >> 6] = w;
    all &= n - i >= 64 ? w : w | ~(uint64_t)0 << (n - i);
  }
  return all == ~(uint64_t)0;
}

/* Where the search for runs is: row p begins run number k, whose tag is perhaps *guess. */
struct cursor {
  const int32_t *p, *stop, *name_at;
  const char *bytes;
  struct run *run;
  struct tag **guess;
  int32_t k, length; /* length: of the run before */
};

/* known_runs takes runs as long as each is as long as the one before and of the
 * tag that last came after it. It calls nothing: around calls, Cranelift spills. */
NOINLINE static void known_runs(struct cursor *c, const int32_t *index) {
  const int32_t *p = c->p, *stop = c->stop, *name_at = c->name_at;
  const char *bytes = c->bytes;
  struct run *run = c->run;
  struct tag **guess = c->guess;
  int32_t k = c->k;
  intptr_t length = c->length;
  for (; p < stop; k++, run++, name_at++) {
    const int32_t *end = p + length;
    if (end > stop || *p != k || end[-1] != k) break;
    struct tag *t = *guess;
    const char *a = t->name, *b = bytes + name_at[0];
    uint32_t len = (uint32_t)(name_at[1] - name_at[0]);
    if (t->len != len || len < 8) break;
    if (UNLIKELY(len < 16)) {
      if ((load64(a) ^ load64(b)) | (load64(a + len - 8) ^ load64(b + len - 8))) break;
    } else {
      v4i diff = load4(a) - load4(b); /* the last 16 bytes may overlap those before */
      for (uint32_t i = 16; i + 16 < len; i += 16) diff |= load4(a + i) - load4(b + i);
      diff |= load4(a + len - 16) - load4(b + len - 16);
      if (bits4(diff == 0) != 15) break;
    }
    guess = &t->after;
    run->tag = t;
    run->state = t->state;
    run->begin = (int32_t)(p - index);
    run->end = (int32_t)(end - index);
    p = end;
  }
  c->p = p;
  c->name_at = name_at;
  c->run = run;
  c->guess = guess;
  c->k = k;
}

/* any_run takes one run, of whatever length and tag, or lengthens the one before,
 * and returns the status of the call. */
COLD static int any_run(struct cursor *c, const int32_t *index) {
  const int32_t *p = c->p;
  int32_t k = *p++;
  v4i same = {k, k, k, k};
  while (p + 4 <= c->stop && bits4(load4(p) == same) == 15) p += 4;
  while (p < c->stop && *p == k) p++;
  int32_t begin = (int32_t)(c->p - index), end = (int32_t)(p - index);
  c->p = p;
  if (c->k && k == c->k - 1) {
    c->run[-1].end = end;
    c->length = end - c->run[-1].begin;
    return 0;
  }
  if (k != c->k) return fail("row ", begin, " has a tag that does not follow the one before");
  struct tag *t = *c->guess;
  const char *name = c->bytes + c->name_at[0];
  uint32_t len = (uint32_t)(c->name_at[1] - c->name_at[0]);
  if (!same_name(t, name, len)) t = tag_find(name, len);
  if (!t) return fail_memory(tag_count);
  *c->guess = t;
  c->guess = &t->after;
  *c->run++ = (struct run){t, t->state, begin, end};
  c->length = end - begin;
  c->k++;
  c->name_at++;
  return 0;
}

/* rows_read makes r of a batch: finds the runs and their tags and marks the
 * usable rows. No state has changed when it fails. */
NOINLINE static int rows_read(struct rows *r, const struct ArrowArray *in) {
  if (in->n_children != 4 || in->length < 0 || in->length > INT32_MAX - 64) return fail("the batch has ", in->n_children, " columns, want time, tag, value, quality");
  const struct ArrowArray *time = in->children[0], *tag = in->children[1], *value = in->children[2], *quality = in->children[3];
  const struct ArrowArray *names = tag->dictionary;
  int32_t n = (int32_t)in->length;
  *r = (struct rows){.count = n};
  if (!n) return 0;
  r->time = (const int64_t *)time->buffers[1] + time->offset + in->offset;
  r->value = (const double *)value->buffers[1] + value->offset + in->offset;
  r->quality = (const uint32_t *)quality->buffers[1] + quality->offset + in->offset;
  const int32_t *index = (const int32_t *)tag->buffers[1] + tag->offset + in->offset;
  if (names->length < 1 || names->length > n) return fail("the dictionary of ", n, " rows has more names than rows, or none");
  r->runs = (int32_t)names->length;
  if (!reserve(&usable_buffer, ((size_t)n + 63) / 64 * 8) || !reserve(&runs_buffer, (size_t)r->runs * sizeof(struct run))) return fail_memory(tag_count);
  r->run = runs_buffer.p;
  r->usable = usable_buffer.p;
  struct cursor c = {.p = index, .stop = index + n, .name_at = (const int32_t *)names->buffers[1] + names->offset, .bytes = names->buffers[2],
                     .run = runs_buffer.p, .guess = &tag_first, .length = 1};
  if (index[n - 1] != r->runs - 1) return fail("the dictionary has ", names->length, " names, and not each has rows");
  for (;;) {
    known_runs(&c, index);
    if (c.p == c.stop) break;
    if (any_run(&c, index)) return 1;
  }
  const uint8_t *valid = value->null_count ? value->buffers[0] : 0;
  r->all_usable = mark_usable(r->usable, r->value, r->quality, valid, value->offset + in->offset, n);
  return 0;
}

static inline int run_usable(const struct rows *r, const struct run *u) { return r->all_usable || all_set(r->usable, u->begin, u->end); }

/* Output. A kernel has a list of columns; column_buffers[i] holds the data of column i. */
#define MAX_COLUMNS 12

struct column {
  const char *name, *format; /* "g" float64, "b" bool, "I" uint32, "tsn:UTC", "i" a tag */
  int nullable;
};

static const struct ArrowArray empty_array;
static struct ArrowSchema out_schema[MAX_COLUMNS], *out_schema_at[MAX_COLUMNS];
static struct ArrowArray out_array[MAX_COLUMNS], *out_array_at[MAX_COLUMNS];
static const void *out_buffers[MAX_COLUMNS][2], *out_no_buffer[1];
static struct buffer column_buffers[MAX_COLUMNS];

static int same_text(const char *a, const char *b) {
  while (*a && *a == *b) a++, b++;
  return *a == *b;
}

static void describe(struct ArrowSchema *s, const char *format, const char *name, int64_t flags) {
  zero_bytes(s, sizeof *s);
  s->format = format;
  s->name = name;
  s->flags = flags;
}

/* bind_rows checks the input's columns and describes the output's. */
static int bind_rows(const struct ArrowSchema *in, struct ArrowSchema *out, const struct column *cols, int n) {
  static const char *const want[] = {"tsn:UTC", "i", "g", "I"};
  if (!same_text(in->format, "+s") || in->n_children != 4) return fail("the input has ", in->n_children, " columns, want time, tag, value, quality");
  for (int i = 0; i < 4; i++)
    if (!same_text(in->children[i]->format, want[i])) return fail("input column ", i, " has another type than timestamp, tag, float64, uint32");
  const struct ArrowSchema *names = in->children[1]->dictionary;
  if (!names || !same_text(names->format, "u")) return fail("the tag column is not a dictionary of strings", 0, 0);
  describe(out, "+s", "", 0);
  out->n_children = n;
  out->children = out_schema_at;
  for (int i = 0; i < n; i++) {
    describe(&out_schema[i], cols[i].format, cols[i].name, cols[i].nullable ? ARROW_FLAG_NULLABLE : 0);
    out_schema_at[i] = &out_schema[i];
  }
  return 0;
}

/* reserve_columns makes room for rows of every column, and 64 bytes more. */
static int reserve_columns(const struct column *cols, int n, int32_t rows) {
  for (int i = 0; i < n; i++) {
    char f = cols[i].format[0];
    size_t bytes = f == 'b' ? ((size_t)rows + 63) / 64 * 8 : (size_t)rows * (f == 'I' || f == 'i' ? 4 : 8);
    if (!reserve(&column_buffers[i], bytes + 64)) return 0;
  }
  return 1;
}

static int64_t count_clear(const uint64_t *bits, int32_t n) {
  int64_t set = 0;
  for (int32_t i = 0; i < n; i += 64) set += __builtin_popcountll(n - i >= 64 ? bits[i >> 6] : bits[i >> 6] & (((uint64_t)1 << (n - i)) - 1));
  return n - set;
}

/* put_column describes column i, of which nulls rows are not set in valid. */
static void put_column(int i, int32_t rows, const uint64_t *valid, int64_t nulls) {
  struct ArrowArray *a = &out_array[i];
  *a = empty_array;
  a->length = rows;
  a->null_count = nulls;
  a->n_buffers = 2;
  a->buffers = out_buffers[i];
  out_buffers[i][0] = nulls ? valid : 0;
  out_buffers[i][1] = column_buffers[i].p;
  out_array_at[i] = a;
}

static void put_struct(struct ArrowArray *out, int n, int32_t rows) {
  *out = empty_array;
  out->length = rows;
  out->n_buffers = 1;
  out->buffers = out_no_buffer;
  out->n_children = n;
  out->children = out_array_at;
}

/* put_rows is the output of a map kernel, whose columns are all null where valid is not set. */
static int put_rows(struct ArrowArray *out, int n, int32_t rows, const uint64_t *valid) {
  int64_t nulls = count_clear(valid, rows);
  for (int i = 0; i < n; i++) put_column(i, rows, valid, nulls);
  put_struct(out, n, rows);
  report_late();
  return 0;
}

/* zero_nulls writes 0 below the nulls of a column of doubles: outputs do not
 * depend on what a buffer held before. */
static void zero_nulls(double *x, const uint64_t *valid, int32_t n) {
  for (int32_t i = 0; i < n; i += 64) {
    uint64_t null = ~valid[i >> 6];
    if (n - i < 64) null &= ((uint64_t)1 << (n - i)) - 1;
    for (; null; null &= null - 1) x[i + __builtin_ctzll(null)] = 0;
  }
}

#endif
