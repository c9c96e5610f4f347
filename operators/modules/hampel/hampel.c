/* hampel: rolling median and MAD of each tag, and how far a reading lies from
 * them (Hampel 1974, The Influence Curve; Davies and Gather 1993). For spikes.
 *
 * The window is the last readings before the row, so the score is there at once.
 *   scale = max(1.4826 MAD, min_scale, min_scale_rel |median|)
 *   score = (x - median) / scale, flagged where |score| is above threshold
 *
 * A state keeps its window twice: in order of arrival, and sorted, with +inf
 * where there is nothing yet. Both steps below look at every place of the
 * sorted window without a branch, two at a time:
 * - Replacing one value by another moves the values between them one place, and
 *   min and max of neighbours do that.
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
  state_size = sizeof(struct state) + (uint32_t)(window + 1 + 2 + padded + 4) * 8;
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static double *sorted_window(struct state *s) { return s->values + window + 1 + 2; }

static int state_restored(void *state) {
  const struct state *s = state;
  return s->count >= 0 && s->count <= window && s->oldest >= 0 && s->oldest < window;
}

/* replace puts *x into a, sorted, instead of *old, which is in it. */
static inline void replace(double *a, const double *old, const double *x) {
  v2d o = load_both(old), v = load_both(x);
  if (!bits2((v2l)(v < o))) {
#define UP(j)                                                                \
  {                                                                          \
    v2d a0 = load2(a + j);                                                   \
    store2(a + j, where2((v2l)(a0 < o), a0, max2(a0, min2(v, load2(a + j + 1))))); \
  }
    for (const double *end = a + padded; a < end; a += 4) {
      UP(0) UP(2)
    }
  } else {
#define DOWN(j)                                                              \
  {                                                                          \
    v2d a0 = load2(a + j);                                                   \
    store2(a + j, where2((v2l)(o < a0), a0, min2(a0, max2(v, load2(a + j - 1))))); \
  }
    const double *begin = a;
    for (a += padded - 4; a >= begin; a -= 4) {
      DOWN(2) DOWN(0)
    }
  }
}

/* deviation is the k-th smallest distance to mid in the sorted window a with n values. */
static inline double deviation(const double *a, int32_t n, int32_t k, v2d mid) {
  v2d least0 = both(INF), least1 = least0;
  const double *b = a + k - 1, *end = a + n - k;
  for (; a <= end; a += 4, b += 4) {
    least0 = min2(max2(mid - load2(a), load2(b) - mid), least0);
    least1 = min2(max2(mid - load2(a + 2), load2(b + 2) - mid), least1);
  }
  return least(min2(least0, least1));
}

/* take lets *x into the window. */
static inline void take(struct state *s, const double *x) {
  double *a = sorted_window(s), *oldest = s->values + s->oldest;
  replace(a, oldest, x);
  *oldest = *x;
  s->oldest = s->oldest + 1 == window ? 0 : s->oldest + 1;
}

/* take_full is for a full window. */
static inline void take_full(struct state *s, const double *x) {
  const double *a = sorted_window(s);
  take(s, x);
  s->median = a[window / 2];
  s->mad = deviation(a, window, window / 2 + 1, load_both(a + window / 2));
}

/* take_first is for one that is not full. */
NOINLINE static void take_first(struct state *s, const double *x) {
  const double *a = sorted_window(s);
  if (!s->count)
    for (int32_t i = 0; i < window + 2 + padded + 4; i++) s->values[i < window ? i : i + 1] = i == window || i == window + 1 ? -INF : INF;
  take(s, x);
  int32_t n = ++s->count;
  s->median = 0.5 * (a[(n - 1) / 2] + a[n / 2]);
  v2d mid = both(s->median);
  s->mad = 0.5 * (deviation(a, n, (n + 1) / 2, mid) + deviation(a, n, n / 2 + 1, mid));
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
    for (; j + 2 <= m; j += 2, x += 2, median += 2, scale += 2, score += 2) {
      v2d mid = load2(median), d = load2(x) - mid, w = max2(max2(low, rel * abs2(mid)), factor * load2(scale));
      store2(scale, w);
      store2(score, d / w);
      far_out |= (uint64_t)bits2((v2l)(abs2(d) > far * w)) << j;
    }
    if (j < m) {
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

/* steady takes rows from i on while they are usable and newer than the last, with
 * a full window, and returns the first that is not. */
NOINLINE static int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, const struct output *out) {
  const int64_t *time = r->time;
  const double *value = r->value;
  for (; i < end; i++) {
    int64_t t = time[i];
    if (UNLIKELY(t <= s->last)) break;
    s->last = t;
    out->median[i] = s->median;
    out->mad[i] = s->mad;
    take_full(s, &value[i]);
  }
  return i;
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
