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
 * Both sums are the two lanes of one vector. */
#include "../common/rows.h"

#define BLOCK 32 /* rows that steady takes at once */

static double warmup, k, h, clip, cap, given_target, given_sigma, min_sigma, min_rel;
static int reset_on_alarm;
static v2d clip_low, clip_high, slack, alarm; /* as loops load them */

struct state {
  int64_t last;          /* time of the newest row taken, ns */
  int64_t count;         /* rows taken during warm-up */
  int64_t ready;         /* warm-up is over */
  double mean, squares;  /* of the warm-up */
  /* Lane 0 is for high, lane 1 for low. */
  double target[2], inverse[2]; /* target twice; 1/sigma and -1/sigma */
  double sums[2];
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
  clip_low = both(-clip);
  clip_high = both(clip);
  slack = both(k);
  alarm = both(h);
  if (!(warmup >= 2)) return fail("warmup is below 2", 0, 0);
  if (!(min_sigma > 0)) return fail("min_sigma is not above 0", 0, 0);
  if (!(clip > k)) return fail("clip is not above k: no shift could ever be seen", 0, 0);
  if (!(cap > h)) return fail("cap is not above h: no alarm could ever be raised", 0, 0);
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static int state_restored(void *state) {
  const struct state *s = state;
  return s->count >= 0 && s->squares >= 0 && s->sums[0] >= 0 && s->sums[1] >= 0;
}

static void set_target(struct state *s, double target, double sigma) {
  double least = min_rel * __builtin_fabs(target);
  if (least < min_sigma) least = min_sigma;
  double inverse = 1 / (sigma < least ? least : sigma);
  store2(s->target, both(target));
  store2(s->inverse, (v2d){inverse, -inverse});
  s->ready = 1;
}

/* addend is what the reading x adds to the sums. */
static inline v2d addend(v2d x, v2d target, v2d inverse) { return min2(clip_high, max2(clip_low, (x - target) * inverse)) - slack; }

struct output {
  double *high, *low;
  uint64_t *flag;
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
    v2d v = load2(s->sums) + addend(both(x), load2(s->target), load2(s->inverse));
    store2(s->sums, min2(both(cap), max2(both(0), v)));
  }
  out->high[i] = s->sums[0];
  out->low[i] = s->sums[1];
  if (s->sums[0] > h || s->sums[1] > h) {
    set_bit(out->flag, i);
    if (reset_on_alarm) store2(s->sums, both(0));
  }
}

/* rising returns the end of the rows from i on whose times rise from last on. */
static inline int32_t rising(const int64_t *time, int32_t i, int32_t end, int64_t last) {
  if (time[i] <= last) return i;
  for (i++; i + 4 <= end; i += 4) {
    const int64_t *t = time + i;
    if (bits2(((loadl(t) - loadl(t - 1)) - 1) | ((loadl(t + 2) - loadl(t + 1)) - 1))) break;
  }
  while (i < end && time[i] > time[i - 1]) i++;
  return i;
}

/* block adds n rows as if none were to be flagged. It returns whether one is.
 * It needs no cap, which is above where rows are flagged. */
static inline int block(struct state *s, const double *x, double *high, double *low, int32_t n) {
  v2d target = load2(s->target), inverse = load2(s->inverse), zero = {0, 0}, v = load2(s->sums), most = zero;
#define ROW(j)                                                       \
  v = max2(zero, v + addend(load_both(x + j), target, inverse));     \
  most = max2(v, most);                                              \
  high[j] = v[0];                                                    \
  low[j] = v[1];
  for (; n >= 4; n -= 4, x += 4, high += 4, low += 4) {
    ROW(0) ROW(1) ROW(2) ROW(3)
  }
  for (; n > 0; n--, x++, high++, low++) {
    ROW(0)
  }
#undef ROW
  store2(s->sums, v);
  return bits2((v2l)(most > alarm)) != 0;
}

/* steady takes rows from i on while they are usable and newer than the last, and
 * returns the first that is not, or is flagged. It takes blocks of rows: a block
 * with a flagged row is taken back, and its rows are left to one. */
static inline int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, const struct output *out) {
  int32_t first = i, stop = rising(r->time, i, end, s->last);
  while (i < stop) {
    int32_t n = stop - i < BLOCK ? stop - i : BLOCK;
    v2d before = load2(s->sums);
    if (UNLIKELY(block(s, r->value + i, out->high + i, out->low + i, n))) {
      store2(s->sums, before);
      break;
    }
    i += n;
  }
  if (i > first) s->last = r->time[i - 1];
  return i;
}

/* steady_runs takes whole runs from u on as long as nothing is special. It
 * returns the first run with rows left, and in *row the first of these. */
NOINLINE static int32_t steady_runs(const struct rows *r, int32_t u, int32_t *row, const struct output *out) {
  for (; u < r->runs; u++) {
    const struct run *run = &r->run[u];
    struct state *s = run->state;
    *row = run->begin;
    if (!s->ready || !run_usable(r, run)) break;
    int32_t i = steady(s, r, run->begin, run->end, out);
    *row = i;
    if (i < run->end) break;
  }
  return u;
}

/* special takes the rows of a run from i on. */
NOINLINE static void special(const struct rows *r, const struct run *run, int32_t i, const struct output *out) {
  struct state *s = run->state;
  int usable = run_usable(r, run);
  while (i < run->end) {
    int32_t until = i + BLOCK < run->end ? i + BLOCK : run->end;
    while (i < until) one(s, r, i++, out);
    if (usable && s->ready && i < run->end) i = steady(s, r, i, run->end, out);
  }
}

/* larger fills score for n rows, up to seven places beyond them. */
NOINLINE static void larger(const double *high, const double *low, double *score, int32_t n) {
  for (; n > 0; n -= 8, high += 8, low += 8, score += 8) {
    store2(score, max2(load2(high), load2(low)));
    store2(score + 2, max2(load2(high + 2), load2(low + 2)));
    store2(score + 4, max2(load2(high + 4), load2(low + 4)));
    store2(score + 6, max2(load2(high + 6), load2(low + 6)));
  }
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  struct output o = {column_buffers[HIGH].p, column_buffers[LOW].p, column_buffers[FLAG].p};
  double *score = column_buffers[SCORE].p;
  zero_bytes(o.flag, ((size_t)r.count + 63) / 64 * 8);
  for (int32_t u = 0, row;; u++) {
    u = steady_runs(&r, u, &row, &o);
    if (u == r.runs) break;
    special(&r, &r.run[u], row, &o);
  }
  larger(o.high, o.low, score, r.count);
  return put_rows(out, COLUMNS, r.count, r.usable);
}
