/* cusum: two-sided tabular CUSUM of each tag (Page 1954, Continuous Inspection
 * Schemes), for drifts and lasting shifts that are small against the noise.
 *
 * With z = (x - target) / sigma, limited to [-clip, clip]:
 *   high = max(0, high + z - k),  low = max(0, low - z - k)
 * both limited to cap; score = max(high, low), flagged above h. The clip keeps
 * one spike from raising an alarm (as in Lucas and Crosier 1982, Robust CUSUM);
 * the cap bounds how long it takes to come back after a long fault. target and
 * sigma are given, or are the mean and standard deviation of the warm-up.
 *
 * Both sums are the two lanes of one vector. With reset_on_alarm, rows go one by
 * one. */
#include "../common/rows.h"

static double warmup, k, h, clip, cap, given_target, given_sigma, min_sigma, min_rel;
static int reset_on_alarm;
static v2d low2, high2, twice_k2, cap2; /* as loops load them: -clip - k, clip - k, -2 k, cap */

struct state {
  int64_t last;          /* time of the newest row taken, ns */
  int64_t count;         /* rows taken during warm-up */
  int64_t ready;         /* warm-up is over */
  double mean, squares;  /* of the warm-up; then target and sigma */
  double origin[2], inverse[2]; /* as vectors: target + k sigma and 1/sigma, twice */
  double sums[2];               /* high and low */
};

enum { HIGH, LOW, SCORE, FLAG, COLUMNS };
static const struct column columns[] = {{"high", "g", 1}, {"low", "g", 1}, {"score", "g", 1}, {"flag", "b", 1}};

PENSTOCK_EXPORT(penstock_open)
int32_t penstock_open(const void *params, uint32_t len) {
  const double *p = params;
  if (len != 11 * 8) return fail("open got ", len, " bytes of parameters, want 88");
  k = p[0];
  h = p[1];
  warmup = p[2];
  clip = p[3];
  cap = p[4];
  reset_on_alarm = p[5] != 0;
  given_target = p[6];
  given_sigma = p[7];
  min_sigma = p[8];
  min_rel = p[9];
  read_uncertain(p[10]);
  state_size = sizeof(struct state);
  low2 = both(-clip - k);
  high2 = both(clip - k);
  twice_k2 = both(-2 * k);
  cap2 = both(cap);
  if (!(warmup >= 2)) return fail("warmup is below 2", 0, 0);
  if (!(min_sigma > 0)) return fail("min_sigma is not above 0", 0, 0);
  if (!(clip > k)) return fail("clip is not above k: no shift could ever be seen", 0, 0);
  if (!(cap > h)) return fail("cap is not above h: no alarm could ever be raised", 0, 0);
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static void set_target(struct state *s, double target, double sigma) {
  double least = min_rel * __builtin_fabs(target);
  if (least < min_sigma) least = min_sigma;
  if (sigma < least) sigma = least;
  s->mean = target;
  s->squares = sigma;
  store2(s->origin, both(target + k * sigma));
  store2(s->inverse, both(1 / sigma));
  s->ready = 1;
}

static int state_restored(void *state) {
  struct state *s = state;
  if (s->ready) set_target(s, s->mean, s->squares); /* k may be another now */
  return s->count >= 0 && s->squares >= 0 && s->sums[0] >= 0 && s->sums[1] >= 0;
}

/* raise2 is what two readings add to high, z - k; they add -2 k - raise2 to low. add_sums adds to both sums,
 * add_free without the cap. */
static inline v2d raise2(v2d x, v2d origin, v2d inverse) { return min2(high2, max2(low2, (x - origin) * inverse)); }
static inline v2d add_free(v2d v, v2d add) { return max2((v2d){0, 0}, v + add); }
static inline v2d add_sums(v2d v, v2d add) { return min2(cap2, add_free(v, add)); }

struct output {
  double *high, *low;
};

/* one does all that may happen with a row; steady does what mostly happens. */
NOINLINE static void one(struct state *s, const struct rows *r, int32_t i, const struct output *out) {
  int64_t t = r->time[i];
  int seen = s->count > 0 || s->ready;
  out->high[i] = out->low[i] = 0;
  if (!bit(r->usable, i)) return;
  if (seen && t < s->last) {
    late_rows++;
    clear_bit(r->usable, i);
    return;
  }
  int again = seen && t == s->last;
  double x = r->value[i];
  if (!seen && given_sigma > 0) set_target(s, given_target, given_sigma);
  s->last = t;
  if (!s->ready) {
    clear_bit(r->usable, i);
    if (again) return;
    double d = x - s->mean;
    s->count++;
    s->mean += d / (double)s->count;
    s->squares += d * (x - s->mean);
    if ((double)s->count >= warmup) set_target(s, s->mean, __builtin_sqrt(s->squares / (double)(s->count - 1)));
    return;
  }
  if (!again) {
    v2d up = raise2(both(x), load2(s->origin), load2(s->inverse));
    store2(s->sums, add_sums(load2(s->sums), lows(up, twice_k2 - up)));
  }
  out->high[i] = s->sums[0];
  out->low[i] = s->sums[1];
  if (reset_on_alarm && (s->sums[0] > h || s->sums[1] > h)) store2(s->sums, both(0));
}

/* rising returns the end of the rows from i on whose times rise from last on. */
static inline int32_t rising(const int64_t *time, int32_t i, int32_t end, int64_t last) {
  const int64_t *t = time + i, *stop = time + end;
  if (*t <= last) return i;
  if (stop - t > 4) { /* four steps at once; the last four may overlap those before */
    v2l rises = {-1, -1}; /* the sign bits */
    for (t++; t + 4 < stop; t += 4) rises &= (loadl(t - 1) - loadl(t)) & (loadl(t + 1) - loadl(t + 2));
    t = stop - 4;
    rises &= (loadl(t - 1) - loadl(t)) & (loadl(t + 1) - loadl(t + 2));
    if (LIKELY(bits2(rises) == 3)) return end;
  }
  for (i++; i < end && time[i] > time[i - 1];) i++;
  return i;
}

/* capped makes the sums of rows again, with the cap, and returns the last. */
COLD static v2d capped(const struct state *s, const struct rows *r, int32_t i, int32_t end, const struct output *out) {
  v2d v = load2(s->sums);
  for (; i < end; i++) {
    v2d up = raise2(both(r->value[i]), load2(s->origin), load2(s->inverse));
    v = add_sums(v, lows(up, twice_k2 - up));
    out->high[i] = v[0];
    out->low[i] = v[1];
  }
  return v;
}

/* steady takes rows from i on while they are usable and newer than the last, and
 * returns the first that is not. It knows no reset_on_alarm, and takes the cap,
 * which is seldom reached, out of the chain from row to row. */
static inline __attribute__((always_inline)) int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, const struct output *out) {
  int32_t stop = rising(r->time, i, end, s->last), n = stop - i;
  if (!n) return i;
  const double *x = r->value + i;
  double *high = out->high + i, *low = out->low + i;
  RELOAD();
  v2d origin = load2(s->origin), inverse = load2(s->inverse), v = load2(s->sums), top = {0, 0};
#define PAIR(j)                                                            \
  {                                                                        \
    v2d up = raise2(load2(x + j), origin, inverse), down = twice_k2 - up;  \
    v2d first = add_free(v, lows(up, down));                               \
    v = add_free(first, highs(up, down));                                  \
    top = max2(max2(first, v), top);                                       \
    store2(high + j, lows(first, v));                                      \
    store2(low + j, highs(first, v));                                      \
  }
  for (; n >= 4; n -= 4, x += 4, high += 4, low += 4) {
    PAIR(0) PAIR(2)
  }
#undef PAIR
  for (; n > 0; n--, x++, high++, low++) {
    RELOAD();
    v2d up = raise2(load1(x), load2(s->origin), load2(s->inverse));
    v = add_free(v, lows(up, twice_k2 - up));
    top = max2(v, top);
    *high = v[0];
    *low = v[1];
  }
  if (UNLIKELY(bits2((v2l)(top > cap2)))) v = capped(s, r, i, stop, out);
  store2(s->sums, v);
  s->last = r->time[stop - 1];
  return stop;
}

/* steady_runs takes whole runs from u on as long as nothing is special. It
 * returns the first run with rows left, and in *row the first of these. */
NOINLINE static int32_t steady_runs(const struct rows *r, int32_t u, int32_t *row, const struct output *out) {
  for (; u < r->runs; u++) {
    const struct run *run = &r->run[u];
    struct state *s = run->state;
    int32_t i = run->begin, end = run->end;
    if (s->ready && run_usable(r, run)) i = steady(s, r, i, end, out);
    if (UNLIKELY(i < end)) {
      *row = i;
      break;
    }
  }
  return u;
}

/* special takes the rows of a run from i on. */
NOINLINE static void special(const struct rows *r, const struct run *run, int32_t i, const struct output *out) {
  struct state *s = run->state;
  int usable = run_usable(r, run) && !reset_on_alarm;
  while (i < run->end) {
    one(s, r, i++, out);
    if (usable && s->ready && i < run->end) i = steady(s, r, i, run->end, out);
  }
}

/* rate_rows fills score and flag. */
NOINLINE static void rate_rows(const double *high, const double *low, double *score, uint64_t *flag, int32_t n) {
  v2d far = both(h);
  for (; n > 0; n -= 64, flag++) {
    uint64_t far_out = 0;
    for (int32_t j = 0; j < 64 && j < n; j += 8, high += 8, low += 8, score += 8) { /* up to seven rows too many */
      v2d s0 = max2(load2(high), load2(low)), s1 = max2(load2(high + 2), load2(low + 2));
      v2d s2 = max2(load2(high + 4), load2(low + 4)), s3 = max2(load2(high + 6), load2(low + 6));
      store2(score, s0);
      store2(score + 2, s1);
      store2(score + 4, s2);
      store2(score + 6, s3);
      unsigned bits = bits2((v2l)(s0 > far)) | bits2((v2l)(s1 > far)) << 2 | bits2((v2l)(s2 > far)) << 4 | bits2((v2l)(s3 > far)) << 6;
      far_out |= (uint64_t)bits << j;
    }
    *flag = n < 64 ? far_out & (((uint64_t)1 << n) - 1) : far_out;
  }
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  struct output o = {column_buffers[HIGH].p, column_buffers[LOW].p};
  uint64_t *flag = column_buffers[FLAG].p;
  for (int32_t u = 0, row;; u++) {
    if (!reset_on_alarm) u = steady_runs(&r, u, &row, &o);
    else if (u < r.runs) row = r.run[u].begin;
    if (u == r.runs) break;
    special(&r, &r.run[u], row, &o);
  }
  rate_rows(o.high, o.low, column_buffers[SCORE].p, flag, r.count);
  return put_rows(out, COLUMNS, r.count, r.usable);
}
