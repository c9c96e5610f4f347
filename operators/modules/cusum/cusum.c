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
 * Both sums are the two lanes of one vector. The cap, which few tags reach, is left
 * out of the chain from row to row; where one does, its rows are done again. */
#include "../common/rows.h"

#define BLOCK 64 /* rows of a tag that are special together */

static double warmup, k, h, clip, cap, given_target, given_sigma, min_sigma, min_rel;
static int reset_on_alarm;
static v2d low2, high2, twice_k2, cap2, limit2; /* as loops load them: -clip - k, clip - k, -2 k, cap, h */

struct state {
  int64_t last;          /* time of the newest row taken, ns */
  int64_t count;         /* rows taken during warm-up */
  int32_t ready, unused; /* ready: warm-up is over */
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
  limit2 = both(h);
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
  double *high, *low, *score;
  uint64_t *flag;
};

/* put_row writes the outputs of row i with the sums v. */
static inline void put_row(const struct output *out, int32_t i, v2d v) {
  double score = most(v);
  out->high[i] = v[HIGH];
  out->low[i] = v[LOW];
  out->score[i] = score;
  if (score > h) set_bit(out->flag, i);
}

/* one does all that may happen with a row; steady_runs does what mostly happens. */
NOINLINE static void one(struct state *s, const struct rows *r, int32_t i, const struct output *out) {
  int64_t t = r->time[i];
  int seen = s->count > 0 || s->ready;
  out->high[i] = out->low[i] = out->score[i] = 0;
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
  put_row(out, i, load2(s->sums));
  if (reset_on_alarm && most(load2(s->sums)) > h) store2(s->sums, both(0));
}

/* rising returns how many of the n rows at t come after one another, the first after last. */
static inline int32_t rising(const int64_t *t, int32_t n, int64_t last) {
  if (*t <= last) return 0;
  const int64_t *first = t, *stop = t + n;
  if (n > 4) { /* four steps at once; the last four may overlap those before */
    const int64_t *last4 = stop - 5;
    v2l rises = {-1, -1}; /* the sign bits */
    for (; t < last4; t += 4) rises &= (loadl(t) - loadl(t + 1)) & (loadl(t + 2) - loadl(t + 3));
    rises &= (loadl(last4) - loadl(last4 + 1)) & (loadl(last4 + 2) - loadl(last4 + 3));
    if (LIKELY(bits2(rises) == 3)) return n;
  }
  for (t = first + 1; t < stop && *t > t[-1];) t++;
  return (int32_t)(t - first);
}

/* steady_runs takes rows from row *row of run u on, while they are usable and in
 * order, and their tag ready. Before a block of rows that goes above the cap it stops,
 * and returns its run, and in *row its first row. It calls nothing: around calls,
 * Cranelift spills. */
NOINLINE static const struct run *steady_runs(const struct rows *r, const struct run *u, int32_t *row, const struct output *out) {
  int32_t i = *row;
  for (const struct run *end = r->run + r->runs; u < end; i = u->end, u++) {
    struct state *s = u->state;
    int32_t left = u->end - i;
    if (UNLIKELY(!s->ready || !run_usable(r, u) || rising(r->time + i, left, s->last) < left)) break;
    const double *x = r->value + i;
    double *high = out->high + i, *low = out->low + i, *score = out->score + i;
    while (left > 0) {
      RELOAD();
      v2d origin = load2(s->origin), inverse = load2(s->inverse), v = load2(s->sums), top = {0, 0};
      int32_t size = left < BLOCK ? left : BLOCK, n = size;
      left -= size;
#define PAIR(j)                                                            \
  {                                                                        \
    v2d up = raise2(load2(x + j), origin, inverse), down = twice_k2 - up;  \
    v2d first = add_free(v, lows(up, down));                               \
    v = add_free(first, highs(up, down));                                  \
    v2d rows_high = lows(first, v), rows_low = highs(first, v);            \
    store2(high + j, rows_high);                                           \
    store2(low + j, rows_low);                                             \
    v2d far = max2(rows_high, rows_low);                                   \
    store2(score + j, far);                                                \
    top = max2(far, top);                                                  \
  }
      for (; n >= 4; n -= 4, x += 4, high += 4, low += 4, score += 4) {
        PAIR(0) PAIR(2)
      }
#undef PAIR
      for (; n > 0; n--, x++, high++, low++, score++) {
        RELOAD();
        v2d up = raise2(load1(x), load2(s->origin), load2(s->inverse));
        v = add_free(v, lows(up, twice_k2 - up));
        *high = v[HIGH];
        *low = v[LOW];
        *score = most(v);
        top = max2(v, top);
      }
      if (UNLIKELY(bits2((v2l)(top > limit2)))) {
        if (bits2((v2l)(top > cap2))) goto capped;
        for (const double *p = score - size; p < score; p++)
          if (*p > h) set_bit(out->flag, (int32_t)(p - out->score));
      }
      store2(s->sums, v);
    }
    s->last = r->time[u->end - 1];
    continue;
  capped:
    left = (u->end - left - 1 - i) & ~(BLOCK - 1); /* rows taken: whole blocks */
    if (left) s->last = r->time[i + left - 1];
    i += left;
    break;
  }
  *row = i;
  return u;
}

/* special takes the rows of a run from i to end, whatever they are. */
NOINLINE static void special(const struct rows *r, const struct run *run, int32_t i, int32_t end, const struct output *out) {
  struct state *s = run->state;
  int usable = run_usable(r, run) && !reset_on_alarm;
  while (i < end) {
    int32_t n = usable && s->ready ? rising(r->time + i, end - i, s->last) : 0;
    if (!n) {
      one(s, r, i++, out);
      continue;
    }
    v2d v = load2(s->sums);
    for (int32_t stop = i + n; i < stop; i++) {
      v2d up = raise2(both(r->value[i]), load2(s->origin), load2(s->inverse));
      v = add_sums(v, lows(up, twice_k2 - up));
      put_row(out, i, v);
    }
    store2(s->sums, v);
    s->last = r->time[i - 1];
  }
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  struct output o = {column_buffers[HIGH].p, column_buffers[LOW].p, column_buffers[SCORE].p, column_buffers[FLAG].p};
  zero_bytes(o.flag, ((size_t)r.count + 63) / 64 * 8);
  const struct run *u = r.run, *end = u + r.runs;
  for (int32_t i = 0; u < end;) {
    if (!reset_on_alarm && (u = steady_runs(&r, u, &i, &o)) == end) break;
    int32_t until = u->end - i < BLOCK ? u->end : i + BLOCK;
    special(&r, u, i, until, &o);
    i = until;
    if (i == u->end) u++;
  }
  return put_rows(out, COLUMNS, r.count, r.usable);
}
