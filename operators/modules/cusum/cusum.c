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

static double warmup, k, h, clip, cap, given_target, given_sigma, min_sigma, min_rel;
static int reset_on_alarm;

struct state {
  int64_t last;          /* time of the newest row taken, ns */
  int64_t count;         /* rows taken during warm-up */
  double mean, squares;  /* of the warm-up; then target and 1/sigma */
  double high, low;
  int64_t ready;         /* warm-up is over */
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
  return s->count >= 0 && s->squares >= 0 && s->high >= 0 && s->low >= 0;
}

static void set_target(struct state *s, double target, double sigma) {
  double least = min_rel * __builtin_fabs(target);
  if (least < min_sigma) least = min_sigma;
  s->mean = target;
  s->squares = 1 / (sigma < least ? least : sigma);
  s->ready = 1;
}

/* sums returns the next high and low. */
static inline v2d sums(v2d s, double z, v2d slack, v2d limit, v2d top) {
  v2d v = (v2d)((v2l)min2(max2(both(z), -limit), limit) ^ (v2l){0, INT64_MIN});
  return min2(max2(both(0), s + (v - slack)), top);
}

/* one does all that may happen with a row; steady does what mostly happens. */
NOINLINE static void one(struct state *s, const struct rows *r, int32_t i, double *high, double *low, uint64_t *flag) {
  int64_t t = r->time[i];
  int seen = s->count > 0 || s->ready;
  high[i] = low[i] = 0;
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
  v2d v = {s->high, s->low};
  if (!again) v = sums(v, (x - s->mean) * s->squares, both(k), both(clip), both(cap));
  high[i] = s->high = v[0];
  low[i] = s->low = v[1];
  if (v[0] > h || v[1] > h) {
    set_bit(flag, i);
    if (reset_on_alarm) s->high = s->low = 0;
  }
}

/* steady takes rows from i on while they are usable, newer than the last and
 * not flagged, and returns the first that is not. */
static int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, double *high, double *low) {
  const int64_t *time = r->time;
  const double *value = r->value;
  int64_t last = s->last;
  double target = s->mean, inverse = s->squares;
  v2d v = {s->high, s->low}, slack = both(k), limit = both(clip), top = both(cap), alarm = both(h);
  for (; i < end; i++) {
    int64_t t = time[i];
    v2d next = sums(v, (value[i] - target) * inverse, slack, limit, top);
    if (UNLIKELY(t <= last) || UNLIKELY(bits2((v2l)(next > alarm)))) break;
    last = t;
    v = next;
    high[i] = v[0];
    low[i] = v[1];
  }
  s->last = last;
  s->high = v[0];
  s->low = v[1];
  return i;
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  double *high = column_buffers[HIGH].p, *low = column_buffers[LOW].p, *score = column_buffers[SCORE].p;
  uint64_t *flag = column_buffers[FLAG].p;
  zero_bytes(flag, ((size_t)r.count + 63) / 64 * 8);
  for (int32_t u = 0; u < r.runs; u++) {
    const struct run *run = &r.run[u];
    struct state *s = run->state;
    int fast = run_usable(&r, run);
    for (int32_t i = run->begin; i < run->end;) {
      if (fast && s->ready) {
        i = steady(s, &r, i, run->end, high, low);
        if (i == run->end) break;
      }
      one(s, &r, i++, high, low, flag);
    }
  }
  for (int32_t i = 0; i < r.count; i += 2) store2(score + i, max2(load2(high + i), load2(low + i)));
  return put_rows(out, COLUMNS, r.count, r.usable);
}
