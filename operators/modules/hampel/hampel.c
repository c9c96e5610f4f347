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

static int32_t window, warmup;
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
  warmup = p[1] < window ? (int32_t)p[1] : window;
  threshold = p[2];
  min_scale = p[3];
  min_rel = p[4];
  read_uncertain(p[5]);
  if (!(min_scale > 0)) return fail("min_scale is not above 0", 0, 0);
  state_form = (uint64_t)window;
  state_size = sizeof(struct state) + (uint32_t)(window + 1 + 2 + ((window + 7) & ~3)) * 8;
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static double *sorted_window(struct state *s) { return s->values + window + 1 + 2; }

static int state_restored(void *state) {
  const struct state *s = state;
  return s->count >= 0 && s->count <= window && s->oldest >= 0 && s->oldest < window;
}

/* replace puts x into a, sorted, instead of old, which is in it. */
static void replace(double *a, double old, double x) {
  v2d o = both(old), v = both(x);
  if (x >= old) {
    for (double *end = a + window; a < end; a += 4) {
      v2d a0 = load2(a), a1 = load2(a + 2);
      v2d b0 = load2(a + 1), b1 = load2(a + 3);
      store2(a, where2((v2l)(a0 < o), a0, max2(a0, min2(v, b0))));
      store2(a + 2, where2((v2l)(a1 < o), a1, max2(a1, min2(v, b1))));
    }
  } else {
    double *begin = a;
    for (a += (window - 1) & ~3; a >= begin; a -= 4) {
      v2d a0 = load2(a), a1 = load2(a + 2);
      v2d b0 = load2(a - 1), b1 = load2(a + 1);
      store2(a, where2((v2l)(o < a0), a0, min2(a0, max2(v, b0))));
      store2(a + 2, where2((v2l)(o < a1), a1, min2(a1, max2(v, b1))));
    }
  }
}

/* deviation is the k-th smallest distance to m in the sorted window a with n values. */
static double deviation(const double *a, int32_t n, int32_t k, double m) {
  v2d mid = both(m), least0 = both(INF), least1 = least0;
  const double *b = a + k - 1, *end = a + n - k;
  for (; a <= end; a += 4, b += 4) {
    least0 = min2(max2(mid - load2(a), load2(b) - mid), least0);
    least1 = min2(max2(mid - load2(a + 2), load2(b + 2) - mid), least1);
  }
  least0 = min2(least0, least1);
  return least0[1] < least0[0] ? least0[1] : least0[0];
}

static void take(struct state *s, double x) {
  double *a = sorted_window(s);
  if (!s->count)
    for (int32_t i = 0; i < window + 2 + ((window + 7) & ~3); i++) s->values[i < window ? i : i + 1] = i == window || i == window + 1 ? -INF : INF;
  replace(a, s->values[s->oldest], x);
  s->values[s->oldest] = x;
  s->oldest = s->oldest + 1 == window ? 0 : s->oldest + 1;
  if (LIKELY(s->count == window)) {
    s->median = a[window / 2];
    s->mad = deviation(a, window, window / 2 + 1, s->median);
    return;
  }
  int32_t n = ++s->count;
  s->median = 0.5 * (a[(n - 1) / 2] + a[n / 2]);
  s->mad = 0.5 * (deviation(a, n, (n + 1) / 2, s->median) + deviation(a, n, n / 2 + 1, s->median));
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  double *median = column_buffers[MEDIAN].p, *scale = column_buffers[SCALE].p, *score = column_buffers[SCORE].p;
  uint64_t *flag = column_buffers[FLAG].p;
  zero_bytes(flag, ((size_t)r.count + 63) / 64 * 8);
  for (int32_t u = 0; u < r.runs; u++) {
    const struct run *run = &r.run[u];
    struct state *s = run->state;
    for (int32_t i = run->begin; i < run->end; i++) {
      int64_t t = r.time[i];
      median[i] = scale[i] = score[i] = 0;
      if (!bit(r.usable, i)) continue;
      if (UNLIKELY(s->count && t < s->last)) {
        late_rows++;
        clear_bit(r.usable, i);
        continue;
      }
      double x = r.value[i];
      if (LIKELY(s->count >= warmup)) {
        double m = s->median, d = x - m, w = 1.4826 * s->mad, least = min_rel * __builtin_fabs(m);
        if (least < min_scale) least = min_scale;
        if (w < least) w = least;
        median[i] = m;
        scale[i] = w;
        score[i] = d / w;
        if (__builtin_fabs(d) > threshold * w) set_bit(flag, i);
      } else {
        clear_bit(r.usable, i);
      }
      if (UNLIKELY(s->count && t == s->last)) continue;
      s->last = t;
      take(s, x);
    }
  }
  return put_rows(out, COLUMNS, r.count, r.usable);
}
