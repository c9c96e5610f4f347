/* ewma: exponentially weighted mean and variance of each tag, and how far a
 * reading lies from them.
 *
 * With g = 1 - exp(-dt ln 2 / half_life) and d = x - mean:
 *   mean += g d,  var = (1 - g) (var + g d^2)
 * (Finch 2009, Incremental calculation of weighted mean and variance, 9). dt is
 * the time since the tag's last reading, so sampling may be irregular; it counts
 * as at most one half-life: after a gap, one reading never weighs more than half.
 * At the start g is at least 1/n, which makes mean and var those of a plain
 * sample until the exponential weights have settled.
 *
 * A row is compared with the state before it. The loop over a run only keeps
 * mean and var; roots and divisions follow for the whole batch, two at a time. */
#include "../common/math.h"
#include "../common/rows.h"

static double half_life, warmup, threshold2, min_std2, min_rel2, freeze_ns;

struct state {
  int64_t last;       /* time of the newest row taken, ns */
  int64_t dt;         /* that gain and keep are for, ns */
  double gain, keep;  /* g and 1 - g */
  double mean, var;
  int64_t count;      /* rows learnt from or, frozen, not learnt from */
  int64_t since;      /* when the rows began to be flagged, if flagged */
  int32_t settled;    /* warm-up is over and g at least 1/count */
  int32_t flagged;
};

enum { MEAN, STD, SCORE, FLAG, COLUMNS };
static const struct column columns[] = {{"mean", "g", 1}, {"std", "g", 1}, {"score", "g", 1}, {"flag", "b", 1}};

PENSTOCK_EXPORT(penstock_open)
int32_t penstock_open(const void *params, uint32_t len) {
  const double *p = params;
  if (len != 7 * 8) return fail("open got ", len, " bytes of parameters, want 56");
  half_life = p[0] * 1e9;
  warmup = p[1];
  threshold2 = p[2] * p[2];
  min_std2 = p[3] * p[3];
  min_rel2 = p[4] * p[4];
  freeze_ns = p[5] * 1e9;
  read_uncertain(p[6]);
  state_size = sizeof(struct state);
  if (!(half_life > 0)) return fail("half_life is not above 0", 0, 0);
  if (!(warmup >= 1)) return fail("warmup is below 1", 0, 0);
  if (!(min_std2 > 0)) return fail("min_std is not above 0", 0, 0);
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static void set_gain(struct state *s, int64_t dt) {
  double part = (double)dt / half_life;
  s->dt = dt;
  s->gain = one_minus_exp((part >= 0 && part < 1 ? part : 1) * 0.6931471805599453);
  s->keep = 1 - s->gain;
}

static int state_restored(void *state) {
  struct state *s = state;
  if (s->dt) set_gain(s, s->dt); /* half_life may be another now */
  return s->count >= 0 && s->var >= 0;
}

/* The two recurrences. The small terms keep a signal that stays 0 from ending
 * in denormal numbers, which processors are slow with. */
static inline double next_mean(double m, double x, double g, double k) { return k * m + (g * x + 1e-150); }
static inline double next_var(double v, double d2, double g, double k) { return k * (v + (g * d2 + 1e-290)); }

/* one does all that may happen with a row; steady does what mostly happens. */
static void one(struct state *s, const struct rows *r, int32_t i, double *mean, double *var, uint64_t *flag) {
  int64_t t = r->time[i];
  mean[i] = var[i] = 0;
  if (!bit(r->usable, i)) return;
  if (s->count && t < s->last) {
    late_rows++;
    clear_bit(r->usable, i);
    return;
  }
  double x = r->value[i], d = x - s->mean;
  int scored = s->count >= warmup, far = 0;
  if (scored) {
    double low = min_rel2 * (s->mean * s->mean), v = s->var;
    mean[i] = s->mean;
    var[i] = v;
    low = low < min_std2 ? min_std2 : low;
    v = v < low ? low : v;
    far = d * d > threshold2 * v;
    if (far) set_bit(flag, i);
  } else {
    clear_bit(r->usable, i);
  }
  int64_t dt = t - s->last;
  if (!s->count) {
    *s = (struct state){.last = t, .mean = x, .count = 1};
    return;
  }
  if (dt == 0) return;
  s->last = t;
  s->count++;
  if (far) {
    if (!s->flagged) s->since = t;
    s->flagged = 1;
    if ((double)(t - s->since) < freeze_ns) return;
  } else {
    s->flagged = 0;
  }
  if (dt != s->dt) set_gain(s, dt);
  double g = s->gain, k = s->keep;
  if (!s->settled) {
    double least = 1 / (double)s->count;
    s->settled = s->count > warmup && g >= least;
    if (g < least) g = least, k = 1 - least;
  }
  s->mean = next_mean(s->mean, x, g, k);
  s->var = next_var(s->var, d * d, g, k);
}

/* steady takes rows from i on while they are usable, at the cached interval and
 * not flagged, and returns the first that is not. */
static int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, double *mean, double *var) {
  const int64_t *time = r->time;
  const double *value = r->value;
  int64_t last = s->last, dt = s->dt;
  double m = s->mean, v = s->var, g = s->gain, k = s->keep, far = threshold2;
  int32_t first = i;
  for (; i < end; i++) {
    double x = value[i], d = x - m, d2 = d * d;
    int64_t t = time[i];
    if (UNLIKELY(t - last != dt) || UNLIKELY(d2 > far * v)) break;
    mean[i] = m;
    var[i] = v;
    last = t;
    m = next_mean(m, x, g, k);
    v = next_var(v, d2, g, k);
  }
  s->last = last;
  s->mean = m;
  s->var = v;
  s->count += i - first;
  return i;
}

/* score turns var into std and fills score, for all rows. */
static void score_rows(const double *value, const double *mean, double *std, double *score, int32_t n) {
  v2d low = both(min_std2), rel = both(min_rel2);
  int32_t i = 0;
  for (; i + 4 <= n; i += 4) {
    v2d m0 = load2(mean + i), m1 = load2(mean + i + 2);
    v2d s0 = sqrt2(max2(load2(std + i), max2(low, rel * (m0 * m0))));
    v2d s1 = sqrt2(max2(load2(std + i + 2), max2(low, rel * (m1 * m1))));
    store2(std + i, s0);
    store2(std + i + 2, s1);
    store2(score + i, (load2(value + i) - m0) / s0);
    store2(score + i + 2, (load2(value + i + 2) - m1) / s1);
  }
  for (; i < n; i++) {
    double m = mean[i], v = min_rel2 * (m * m);
    v = v < min_std2 ? min_std2 : v;
    v = std[i] < v ? v : std[i];
    std[i] = __builtin_sqrt(v);
    score[i] = (value[i] - m) / std[i];
  }
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  double *mean = column_buffers[MEAN].p, *std = column_buffers[STD].p, *score = column_buffers[SCORE].p;
  uint64_t *flag = column_buffers[FLAG].p;
  zero_bytes(flag, ((size_t)r.count + 63) / 64 * 8);
  for (int32_t u = 0; u < r.runs; u++) {
    const struct run *run = &r.run[u];
    struct state *s = run->tag->state;
    int fast = run_usable(&r, run);
    for (int32_t i = run->begin; i < run->end;) {
      if (fast && s->settled && !s->flagged) {
        i = steady(s, &r, i, run->end, mean, std);
        if (i == run->end) break;
      }
      one(s, &r, i++, mean, std, flag);
    }
  }
  score_rows(r.value, mean, std, score, r.count);
  zero_nulls(std, r.usable, r.count);
  zero_nulls(score, r.usable, r.count);
  return put_rows(out, COLUMNS, r.count, r.usable);
}
