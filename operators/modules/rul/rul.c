/* rul: how long until a health indicator reaches its limit.
 *
 * Robust trend: the slope is the median of the slopes between all pairs of
 * points (Theil 1950; Sen 1968, Estimates of the Regression Coefficient Based on
 * Kendall's Tau), which up to 29% of wild points do not move. The points are
 * the means of time bins, bins of them in a window, so that the work is bounded
 * whatever the sampling rate. Its interval is Sen's: with n points and
 * N = n (n-1) / 2 slopes, the slopes of rank M = floor((N - C) / 2) from either
 * end, C = z sqrt(n (n-1) (2n+5) / 18). A line of slope b has the level
 * median(x_i - b t_i) now, and reaches the limit after (limit - level) / b.
 *
 * The remaining life is given only where the whole interval of slopes leads to
 * the limit; its bounds are those of the lines with the interval's slopes. The
 * interval takes the points as independent: load cycles longer than a bin make
 * it too narrow. */
#include "../common/math.h"
#include "../common/rows.h"
#include "select.h"

#define MAX_BINS 128
#define UNCERTAIN 0x40000000u
#define TOO_FAR 1e10 /* seconds, 317 years: no statement about a machine */

enum { AUTO, RISING, FALLING };

static double limit, confidence_z, horizon;
static int64_t bin_ns, interval_ns;
static int32_t bins, min_points, direction, time_shift;

struct bin {
  int64_t number;   /* time / bin_ns, rounded down */
  int64_t time_sum; /* of (t - begin of the bin) >> time_shift */
  double value_sum;
  uint32_t count, uncertain;
};

struct state {
  int64_t last, due;          /* newest row taken; when the next output is due, ns */
  int64_t bin_begin, bin_end; /* of the newest bin, ns */
  int32_t used, side;         /* used: a row was taken; side: RISING or FALLING, once known */
  int64_t place;              /* of the newest bin */
  struct bin bin[];
};

enum { TIME, TAG, VALUE, SLOPE, RUL, RUL_LOW, RUL_HIGH, SCORE, FLAG, QUALITY, COLUMNS };
static const struct column columns[] = {{"time", "tsn:UTC", 0}, {"tag", "i", 0},     {"value", "g", 0},   {"slope", "g", 0}, {"rul", "g", 1},
                                        {"rul_low", "g", 1},    {"rul_high", "g", 1}, {"score", "g", 0}, {"flag", "b", 0},  {"quality", "I", 0}};

PENSTOCK_EXPORT(penstock_open)
int32_t penstock_open(const void *params, uint32_t len) {
  const double *p = params;
  if (len != 9 * 8) return fail("open got ", len, " bytes of parameters, want 72");
  if (!(p[2] >= 1e-3 && p[2] <= 1e9)) return fail("window is not from 1ms to 1e9 s", 0, 0);
  if (!(p[3] >= 8 && p[3] <= MAX_BINS)) return fail("bins is not from 8 to 128", 0, 0);
  if (!(p[4] >= 1e-3 && p[4] <= 1e9)) return fail("interval is not from 1ms to 1e9 s", 0, 0);
  if (!(p[5] >= 4 && p[5] <= p[3])) return fail("min_points is not from 4 to bins", 0, 0);
  if (!(p[6] >= 0.5 && p[6] <= 0.999)) return fail("confidence is not from 0.5 to 0.999", 0, 0);
  limit = p[0];
  direction = (int32_t)p[1];
  bins = (int32_t)p[3];
  bin_ns = (int64_t)(p[2] * 1e9) / bins;
  interval_ns = (int64_t)(p[4] * 1e9);
  min_points = (int32_t)p[5];
  confidence_z = normal_quantile(0.5 + 0.5 * p[6]);
  horizon = p[7];
  read_uncertain(p[8]);
  for (time_shift = 0; bin_ns >> time_shift >> 34;) time_shift++;
  state_form = (uint64_t)bin_ns * 256 + (uint64_t)bins;
  state_size = sizeof(struct state) + (uint32_t)bins * sizeof(struct bin);
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) {
  static struct ArrowSchema names;
  if (bind_rows(in, out, columns, COLUMNS)) return 1;
  describe(&names, "u", "", 0);
  out_schema[TAG].dictionary = &names;
  return 0;
}

static int state_restored(void *state) {
  const struct state *s = state;
  return s->place >= 0 && s->place < bins && s->side >= AUTO && s->side <= FALLING;
}

static int64_t floor_div(int64_t a, int64_t b) { return a / b - (a % b < 0); }

/* next_due is the first multiple of the interval after t. */
static int64_t next_due(int64_t t) { return (int64_t)((uint64_t)(floor_div(t, interval_ns) + 1) * (uint64_t)interval_ns); }

/* open_bin makes the bin of time t the newest. */
static struct bin *open_bin(struct state *s, int64_t t) {
  int64_t number = floor_div(t, bin_ns);
  int64_t place = number % bins;
  s->place = place < 0 ? place + bins : place;
  s->bin_begin = number * bin_ns;
  s->bin_end = minus(s->bin_begin, -bin_ns);
  s->bin[s->place] = (struct bin){.number = number};
  return &s->bin[s->place];
}

static double point_t[MAX_BINS + 2], point_x[MAX_BINS + 2], residual[MAX_BINS + 2];
static double slopes[MAX_BINS * (MAX_BINS - 1) / 2 + 2], inner[MAX_BINS * (MAX_BINS - 1) / 2 + 2];

/* level is that of the line of slope b through the points, now. */
static double level(double b, int32_t n) {
  v2d slope = both(b);
  for (int32_t i = 0; i < n; i += 2) store2(residual + i, load2(point_x + i) - slope * load2(point_t + i));
  return median(residual, n);
}

static int32_t all_slopes(int32_t n) {
  double *s = slopes;
  for (int32_t i = 0; i < n - 1; i++) {
    v2d t = both(point_t[i]), x = both(point_x[i]);
    const double *pt = point_t + i + 1, *px = point_x + i + 1;
    int32_t m = n - 1 - i, j = 0;
    for (; j < m; j += 2) store2(s + j, (load2(px + j) - x) / (load2(pt + j) - t));
    s += m;
  }
  return n * (n - 1) / 2;
}

/* The output of one call. */
static struct buffer name_at_buffer, name_buffer, valid_rul_buffer, valid_high_buffer;
static int32_t made, made_names;

/* to_limit is how many seconds the line of slope b needs to the limit; 0 when it is past it. */
static double to_limit(double b, int32_t n) {
  double left = (limit - level(b, n)) / b;
  return left > 0 ? left : 0;
}

/* gather makes points of the bins, oldest first, and returns how many. */
static int32_t gather(const struct state *s, uint32_t *uncertain) {
  int64_t newest = s->bin[s->place].number;
  int32_t n = 0;
  *uncertain = 0;
  for (int32_t i = 1; i <= bins; i++) {
    int32_t at = (int32_t)s->place + i;
    const struct bin *b = &s->bin[at >= bins ? at - bins : at];
    if (!b->count || b->number <= newest - bins) continue;
    double scale = 1.0 / b->count;
    point_t[n] = ((double)minus(b->number * bin_ns, s->last) + (double)b->time_sum * (double)((int64_t)1 << time_shift) * scale) * 1e-9;
    point_x[n++] = b->value_sum * scale;
    *uncertain |= b->uncertain;
  }
  point_t[n] = point_x[n] = 0;
  return n;
}

/* estimate appends an output row of the tag with dictionary index name, if it has points enough. */
static void estimate(struct state *s, int32_t name) {
  uint32_t uncertain;
  int32_t n = gather(s, &uncertain), o = made;
  if (n < min_points) return;

  /* The three slopes that are asked for have ranks in the middle of all. */
  int32_t count = all_slopes(n), below;
  double spread = confidence_z * __builtin_sqrt(n * (n - 1.0) * (2.0 * n + 5) / 18), rul = -1, low = 0, high = 0;
  int32_t rank = (int32_t)((count - spread) * 0.5), first = rank >= 1 ? rank - 1 : (count - 1) / 2;
  int32_t kept = narrow(slopes, count, first, count - 1 - first, inner, &below);
  int32_t centre = count / 2 - below;
  double slope = nth(inner, 0, kept, centre);
  if (count % 2 == 0) slope = 0.5 * (slope + most_of(inner, centre));
  double now = level(slope, n);
  if (!s->side) s->side = direction != AUTO ? direction : now + slope * point_t[0] < limit ? RISING : FALLING;
  int rising = s->side == RISING;

  if (rising ? now >= limit : now <= limit) {
    rul = 0;
  } else if (rank >= 1) {
    double smallest = nth(inner, 0, centre, first - below), largest = nth(inner, centre, kept, count - 1 - first - below);
    if (rising ? smallest > 0 : largest < 0) {
      rul = to_limit(slope, n);
      low = to_limit(rising ? largest : smallest, n);
      high = to_limit(rising ? smallest : largest, n);
      if (low > rul) low = rul;
      if (high < rul) high = rul;
    }
  }
  int known = rul >= 0 && rul < TOO_FAR, bounded = known && high < TOO_FAR;
  ((int64_t *)column_buffers[TIME].p)[o] = s->last;
  ((int32_t *)column_buffers[TAG].p)[o] = name;
  ((double *)column_buffers[VALUE].p)[o] = now;
  ((double *)column_buffers[SLOPE].p)[o] = slope * 3600;
  ((double *)column_buffers[RUL].p)[o] = known ? rul : 0;
  ((double *)column_buffers[RUL_LOW].p)[o] = known ? low : 0;
  ((double *)column_buffers[RUL_HIGH].p)[o] = bounded ? high : 0;
  ((double *)column_buffers[SCORE].p)[o] = known ? horizon / (horizon + rul) : 0;
  ((uint32_t *)column_buffers[QUALITY].p)[o] = uncertain ? UNCERTAIN : 0;
  if (known && rul < horizon) set_bit(column_buffers[FLAG].p, o);
  if (known) set_bit(valid_rul_buffer.p, o);
  if (bounded) set_bit(valid_high_buffer.p, o);
  made++;
}

/* one does all that may happen with a row; steady does what mostly happens. */
NOINLINE static void one(struct state *s, struct rows *r, int32_t i, int32_t name) {
  int64_t t = r->time[i];
  if (!bit(r->usable, i)) return;
  if (s->used && t <= s->last) {
    late_rows += t < s->last;
    return;
  }
  struct bin *b = &s->bin[s->place];
  if (!s->used) s->due = next_due(t);
  if (!s->used || t >= s->bin_end) b = open_bin(s, t);
  s->used = 1;
  s->last = t;
  b->count++;
  b->time_sum += minus(t, s->bin_begin) >> time_shift;
  b->value_sum += r->value[i];
  b->uncertain |= r->quality[i] & UNCERTAIN;
  if (t >= s->due) {
    estimate(s, name);
    s->due = next_due(t);
  }
}

/* steady takes rows from i on while they are usable, newer than the last, of the
 * newest bin and with no output due, and returns the first that is not. */
static int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end) {
  struct bin *b = &s->bin[s->place];
  const int64_t *time = r->time;
  const double *value = r->value;
  const uint32_t *quality = r->quality;
  int64_t last = s->last, begin = s->bin_begin, stop = s->bin_end < s->due ? s->bin_end : s->due, time_sum = b->time_sum;
  double value_sum = b->value_sum;
  uint32_t any = 0;
  int32_t first = i, shift = time_shift;
  for (; i < end; i++) {
    int64_t t = time[i];
    if (t <= last || t >= stop) break;
    last = t;
    time_sum += minus(t, begin) >> shift;
    value_sum += value[i];
    any |= quality[i];
  }
  s->last = last;
  b->time_sum = time_sum;
  b->value_sum = value_sum;
  b->count += (uint32_t)(i - first);
  b->uncertain |= any & UNCERTAIN;
  return i;
}

static int begin_output(int32_t rows, int32_t runs) {
  size_t bits = ((size_t)rows + 63) / 64 * 8;
  made = made_names = 0;
  if (!reserve_columns(columns, COLUMNS, rows) || !reserve(&valid_rul_buffer, bits + 8) || !reserve(&valid_high_buffer, bits + 8)) return 0;
  if (!reserve(&name_at_buffer, ((size_t)runs + 1) * 4)) return 0;
  zero_bytes(column_buffers[FLAG].p, bits);
  zero_bytes(valid_rul_buffer.p, bits);
  zero_bytes(valid_high_buffer.p, bits);
  *(int32_t *)name_at_buffer.p = 0;
  return 1;
}

/* add_name puts the tag of a run that made output into the dictionary. */
static void add_name(const struct tag *t) {
  int32_t *at = (int32_t *)name_at_buffer.p + made_names++;
  copy_bytes((char *)name_buffer.p + at[0], t->name, t->len);
  at[1] = at[0] + (int32_t)t->len;
}

static int put_output(struct ArrowArray *out) {
  static struct ArrowArray names;
  static const void *names_buffers[3];
  int64_t no_rul = count_clear(valid_rul_buffer.p, made), no_high = count_clear(valid_high_buffer.p, made);
  for (int i = 0; i < COLUMNS; i++) put_column(i, made, 0, 0);
  put_column(RUL, made, valid_rul_buffer.p, no_rul);
  put_column(RUL_LOW, made, valid_rul_buffer.p, no_rul);
  put_column(RUL_HIGH, made, valid_high_buffer.p, no_high);
  names = empty_array;
  names.length = made_names;
  names.n_buffers = 3;
  names.buffers = names_buffers;
  names_buffers[1] = name_at_buffer.p;
  names_buffers[2] = name_buffer.p;
  out_array[TAG].dictionary = &names;
  put_struct(out, COLUMNS, made);
  return 0;
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  size_t bytes = 1;
  for (int32_t u = 0; u < r.runs; u++) bytes += r.run[u].tag->len;
  if (!begin_output(r.count, r.runs) || !reserve(&name_buffer, bytes)) return fail_memory(tag_count);
  for (int32_t u = 0; u < r.runs; u++) {
    const struct run *run = &r.run[u];
    struct state *s = run->state;
    int fast = run_usable(&r, run);
    int32_t before = made;
    for (int32_t i = run->begin; i < run->end;) {
      if (fast && s->used) {
        i = steady(s, &r, i, run->end);
        if (i == run->end) break;
      }
      one(s, &r, i++, made_names);
    }
    if (made > before) add_name(run->tag);
  }
  report_late();
  return put_output(out);
}

/* Time alone makes no output: a tag without new rows has nothing new to say. */
PENSTOCK_EXPORT(penstock_advance)
int32_t penstock_advance(int64_t watermark_ns, struct ArrowArray *out) {
  (void)watermark_ns;
  if (!begin_output(0, 0) || !reserve(&name_buffer, 1)) return fail_memory(tag_count);
  return put_output(out);
}
