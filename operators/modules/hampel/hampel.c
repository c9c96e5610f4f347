/* hampel: rolling median and MAD of each tag, and how far a reading lies from
 * them (Hampel 1974, The Influence Curve; Davies and Gather 1993). For spikes.
 *
 * The window is the last readings before the row, so the score is there at once.
 *   scale = max(1.4826 MAD, min_scale, min_scale_rel |median|)
 *   score = (x - median) / scale, flagged where |score| is above threshold
 *
 * A state keeps its window twice: in order of arrival, and sorted, with +inf
 * where there is nothing yet. Both steps below look at every place of the
 * sorted window, two at a time, and never branch on the data: half of such
 * branches would be foreseen wrongly.
 * - Replacing one value by another moves the values between them one place, and
 *   min and max of neighbours do that. Down is up with all signs changed.
 * - The k readings nearest to the median m stand side by side, so the k-th
 *   smallest deviation is the least, over all starts i, of
 *   max(m - a[i], a[i+k-1] - m). */
#include "../common/rows.h"

#define MAX_WINDOW 255
#define INF __builtin_inf()

static int32_t window, padded, warmup; /* padded: window to a multiple of 4 */
static double threshold, min_scale, min_rel;

struct state {
  int64_t last; /* time of the newest row taken, ns */
  int32_t count, oldest;
  double median, mad;
  /* window values in order of arrival, oldest at place oldest; then, 16-byte
   * aligned, two of -inf, the sorted window, and +inf up to the end */
  double values[];
};

/* From the end of the values in order of arrival to the sorted window. Both go by one pointer, to that end,
 * here called a: in loops, Cranelift spills what is kept beyond some ten pointers. */
#define GAP 3

enum { MEDIAN, SCALE, SCORE, FLAG, COLUMNS };
static const struct column columns[] = {{"median", "g", 1}, {"scale", "g", 1}, {"score", "g", 1}, {"flag", "b", 1}};

PENSTOCK_EXPORT(penstock_open)
int32_t penstock_open(const void *params, uint32_t len) {
  const double *p = params;
  if (len != 6 * 8) return fail("open got ", len, " bytes of parameters, want 48");
  if (!(p[0] >= 3 && p[0] <= MAX_WINDOW) || !((int32_t)p[0] & 1)) return fail("window is not an odd number from 3 to 255", 0, 0);
  if (!(p[1] >= 1)) return fail("warmup is below 1", 0, 0);
  window = (int32_t)p[0];
  padded = (window + 3) & ~3;
  warmup = p[1] < window ? (int32_t)p[1] : window;
  threshold = p[2];
  min_scale = p[3];
  min_rel = p[4];
  read_uncertain(p[5]);
  if (!(min_scale > 0)) return fail("min_scale is not above 0", 0, 0);
  state_form = (uint64_t)window;
  state_size = sizeof(struct state) + (uint32_t)(window + GAP + padded + 4) * 8;
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static int state_restored(void *state) {
  const struct state *s = state;
  return s->count >= 0 && s->count <= window && s->oldest >= 0 && s->oldest < window;
}

/* replace puts *x in the place of *old, the oldest value: at first among the values in order of arrival, then in the
 * sorted window. There a place between the two takes the value of its neighbour, above it where *x is not below *old. */
static inline void replace(double *a, double *old, const double *x) {
  v2d o = load_both(old), v = load_both(x);
  *old = v[0];
  v2l sign = (v2l)(v < o);
  OPAQUE(sign); /* or clang makes a choice of the next line */
  sign &= INT64_MIN;
  const double *t = a - (bits2(sign) & 2); /* the neighbour of place j is t[GAP + 1 + j] */
  OPAQUE_POINTER(t);
  o = flip(o, sign);
  v = flip(v, sign);
  v2d t0 = flip(load2(t + GAP + 1), sign);
  const double *end = a + window;
  do { /* loads a neighbour before its place is stored to */
    v2d a0 = flip(load2(a + GAP), sign), a1 = flip(load2(a + GAP + 2), sign);
    v2d t1 = flip(load2(t + GAP + 3), sign), t2 = flip(load2(t + GAP + 5), sign);
    store2(a + GAP, flip(max2(a0, with_bits(min2(v, t0), (v2l)(a0 < o))), sign));
    store2(a + GAP + 2, flip(max2(a1, with_bits(min2(v, t1), (v2l)(a1 < o))), sign));
    t0 = t2;
    a += 4;
    t += 4;
  } while (a < end);
}

/* deviation is the k-th smallest distance to mid in the sorted window with n values, with b = a + k - 1. It reads up to
 * five places beyond those, where there is +inf. */
static inline double deviation(const double *a, const double *b, int32_t n, v2d mid) {
#define FARTHEST(j) max2(mid - load2(a + GAP + j), load2(b + GAP + j) - mid)
  v2d d = both(INF);
  const double *end = a + n;
  do {
    d = min2(min2(FARTHEST(0), min2(FARTHEST(2), FARTHEST(4))), d);
    a += 6;
    b += 6;
  } while (b < end);
#undef FARTHEST
  return least(d);
}

/* take lets *x into the window. */
static inline void take(struct state *s, const double *x) {
  replace(s->values + window, s->values + s->oldest, x);
  s->oldest = s->oldest + 1 == window ? 0 : s->oldest + 1;
}

/* take_full is for a full window. */
static inline void take_full(struct state *s, const double *x) {
  const double *a = s->values + window, *mid = a + window / 2;
  take(s, x);
  s->median = mid[GAP];
  s->mad = deviation(a, mid, window, load_both(mid + GAP));
}

/* take_first is for one that is not full. */
NOINLINE static void take_first(struct state *s, const double *x) {
  const double *a = s->values + window;
  if (!s->count)
    for (int32_t i = 0; i < window + 2 + padded + 4; i++) s->values[i < window ? i : i + 1] = i == window || i == window + 1 ? -INF : INF;
  take(s, x);
  int32_t n = ++s->count;
  s->median = 0.5 * (a[GAP + (n - 1) / 2] + a[GAP + n / 2]);
  v2d mid = both(s->median);
  s->mad = 0.5 * (deviation(a, a + (n - 1) / 2, n, mid) + deviation(a, a + n / 2, n, mid));
}

struct output {
  double *median, *mad; /* before the row; rate_rows makes scale of mad */
};

/* rate_rows turns mad into scale, and fills score and flag. */
NOINLINE static void rate_rows(const double *x, const double *median, double *scale, double *score, uint64_t *flag, int32_t n) {
  v2d factor = both(1.4826), low = both(min_scale), rel = both(min_rel), far = both(threshold);
  for (; n > 0; n -= 64, flag++) {
    uint64_t far_out = 0;
    int32_t j = 0, m = n < 64 ? n : 64;
#define RATE(i, bits)                                                                                     \
  v2d mid##i = load2(median + i), d##i = load2(x + i) - mid##i;                                           \
  v2d w##i = max2(max2(low, rel * abs2(mid##i)), factor * load2(scale + i));                              \
  store2(scale + i, w##i);                                                                                \
  store2(score + i, d##i / w##i);                                                                         \
  unsigned bits = bits2((v2l)(abs2(d##i) > far * w##i));
    for (; j + 4 <= m; j += 4, x += 4, median += 4, scale += 4, score += 4) {
      RATE(0, first)
      RATE(2, second)
      far_out |= (uint64_t)(first | second << 2) << j;
    }
#undef RATE
    for (; j < m; j++, x++, median++, scale++, score++) {
      double mid = *median, w = 1.4826 * *scale, floor = min_rel * __builtin_fabs(mid);
      if (floor < min_scale) floor = min_scale;
      if (w < floor) w = floor;
      *scale = w;
      *score = (*x - mid) / w;
      far_out |= (uint64_t)(__builtin_fabs(*x - mid) > threshold * w) << j;
    }
    *flag = far_out;
  }
}

/* one does all that may happen with a row; steady does what mostly happens. */
NOINLINE static void one(struct state *s, const struct rows *r, int32_t i, const struct output *out) {
  int64_t t = r->time[i];
  out->median[i] = out->mad[i] = 0;
  if (!bit(r->usable, i)) return;
  if (s->count && t < s->last) {
    late_rows++;
    clear_bit(r->usable, i);
    return;
  }
  if (s->count >= warmup) {
    out->median[i] = s->median;
    out->mad[i] = s->mad;
  } else {
    clear_bit(r->usable, i);
  }
  if (s->count && t == s->last) return;
  s->last = t;
  if (s->count == window) {
    take_full(s, &r->value[i]);
  } else {
    take_first(s, &r->value[i]);
  }
}

/* rising returns where the times from t to end stop coming after one another, the first after last. */
static inline const int64_t *rising(const int64_t *t, const int64_t *end, int64_t last) {
  while (end - t >= 4 && t[0] > last && t[1] > t[0] && t[2] > t[1] && t[3] > t[2]) {
    last = t[3];
    t += 4;
  }
  while (t < end && *t > last) last = *t++;
  return t;
}

/* steady takes rows from i on while they are usable and newer than the last, with
 * a full window, and returns the first that is not. */
NOINLINE static int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, const struct output *out) {
  const int64_t *time = r->time + i, *until = rising(time, r->time + end, s->last);
  const double *x = r->value + i, *stop = x + (until - time);
  if (x == stop) return i;
  s->last = until[-1];
  double *a = s->values + window, *oldest = s->values + s->oldest;
  const double *mid = a + window / 2;
  double *medians = out->median + i, *mads = out->mad + i;
  v2d median = load_both(&s->median);
  double mad = s->mad;
  for (; x < stop; x++, medians++, mads++) {
    *medians = median[0];
    *mads = mad;
    replace(a, oldest, x);
    if (++oldest == a) oldest = s->values;
    median = load_both(mid + GAP);
    mad = deviation(a, mid, window, median);
  }
  s->oldest = (int32_t)(oldest - s->values);
  s->median = median[0];
  s->mad = mad;
  return (int32_t)(x - r->value);
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  struct output o = {column_buffers[MEDIAN].p, column_buffers[SCALE].p};
  double *score = column_buffers[SCORE].p;
  uint64_t *flag = column_buffers[FLAG].p;
  for (int32_t u = 0; u < r.runs; u++) {
    const struct run *run = &r.run[u];
    struct state *s = run->state;
    int usable = run_usable(&r, run);
    for (int32_t i = run->begin; i < run->end;) {
      if (usable && s->count == window) {
        i = steady(s, &r, i, run->end, &o);
        if (i == run->end) break;
      }
      one(s, &r, i++, &o);
    }
  }
  rate_rows(r.value, o.median, o.mad, score, flag, r.count);
  zero_nulls(o.mad, r.usable, r.count);
  zero_nulls(score, r.usable, r.count);
  for (int32_t i = 0; i < r.count; i += 64) flag[i >> 6] &= r.usable[i >> 6];
  return put_rows(out, COLUMNS, r.count, r.usable);
}
