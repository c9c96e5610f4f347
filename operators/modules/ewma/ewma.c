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
 * A row is compared with the state before it. Mean and variance are a chain from
 * row to row; roots and divisions follow for a block of rows, two at a time. */
#include "../common/math.h"
#include "../common/rows.h"

#define BLOCK 32 /* rows that steady takes at once */

static double tiny; /* 1e-150; a variable, so that loops keep it in a register */
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
  tiny = 1e-150;
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

/* The two recurrences. The small term keeps a signal that stays 0 from ending in
 * denormal numbers, which processors are slow with. */
static inline double next_mean(double m, double x, double g, double k, double t) { return k * m + (g * x + t); }
static inline double next_var(double v, double d, double g, double k, double t) { return k * (v + (g * (d * d) + t)); }

static inline int64_t sign(double x) {
  union {
    double value;
    int64_t bits;
  } u = {x};
  return u.bits;
}

struct output {
  double *mean, *var; /* before the row; score_rows makes std of var */
  uint64_t *flag;
};

/* one does all that may happen with a row; steady does what mostly happens. */
NOINLINE static void one(struct state *s, const struct rows *r, int32_t i, const struct output *out) {
  int64_t t = r->time[i];
  out->mean[i] = out->var[i] = 0;
  if (!bit(r->usable, i)) return;
  if (s->count && t < s->last) {
    late_rows++;
    clear_bit(r->usable, i);
    return;
  }
  double x = r->value[i], d = x - s->mean;
  int far = 0;
  if ((double)s->count >= warmup) {
    double least = min_rel2 * (s->mean * s->mean), v = s->var;
    if (least < min_std2) least = min_std2;
    if (v < least) v = least;
    far = d * d > threshold2 * v;
    if (far) set_bit(out->flag, i);
    out->mean[i] = s->mean;
    out->var[i] = v;
  } else {
    clear_bit(r->usable, i);
  }
  int64_t dt = minus(t, s->last);
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
    if ((double)minus(t, s->since) < freeze_ns) return;
  } else {
    s->flagged = 0;
  }
  if (dt != s->dt) set_gain(s, dt);
  double g = s->gain, k = s->keep;
  if (!s->settled) {
    double least = 1 / (double)s->count;
    s->settled = (double)s->count > warmup && g >= least;
    if (g < least) g = least, k = 1 - least;
  }
  s->mean = next_mean(s->mean, x, g, k, tiny);
  s->var = next_var(s->var, d, g, k, tiny);
}

/* regular returns the end of the rows from i on that come dt after one another. */
static inline int32_t regular(const int64_t *time, int32_t i, int32_t end, int64_t last, int64_t dt) {
  const int64_t *t = time + i, *stop = time + end;
  if (minus(*t, last) != dt) return i;
  if (stop - t > 4) { /* four steps at once; the last four may overlap those before */
    v2l step = {dt, dt}, same = {-1, -1};
    for (t++; t + 4 < stop; t += 4) same &= (loadl(t) - loadl(t - 1) == step) & (loadl(t + 2) - loadl(t + 1) == step);
    t = stop - 4;
    same &= (loadl(t) - loadl(t - 1) == step) & (loadl(t + 2) - loadl(t + 1) == step);
    if (LIKELY(bits2(same) == 3)) return end;
  }
  for (i++; i < end && minus(time[i], time[i - 1]) == dt;) i++;
  return i;
}

/* block learns from n rows as if none were to be flagged, and writes mean and
 * variance before each. It returns whether one is flagged. */
static inline int block(struct state *s, const double *x, double *mean, double *var, int32_t n) {
  double m = s->mean, v = s->var, g = s->gain, k = s->keep, far = threshold2, t = tiny;
  int64_t flagged = 0; /* the sign bit */
#define ROW(j)                               \
  {                                          \
    double y = x[j], d = y - m;              \
    flagged |= sign(far * v - d * d);        \
    mean[j] = m;                             \
    var[j] = v;                              \
    m = next_mean(m, y, g, k, t);            \
    v = next_var(v, d, g, k, t);             \
  }
  for (; n >= 4; n -= 4, x += 4, mean += 4, var += 4) {
    ROW(0) ROW(1) ROW(2) ROW(3)
  }
  for (; n > 0; n--, x++, mean++, var++) ROW(0)
#undef ROW
  s->mean = m;
  s->var = v;
  return flagged < 0;
}

/* score_rows turns variances into std and fills score, for all rows. */
NOINLINE static void score_rows(const double *x, const double *mean, double *std, double *score, int32_t n) {
  v2d low = both(min_std2), rel = both(min_rel2);
#define PAIR(j)                                                                         \
  {                                                                                     \
    v2d m = load2(mean + j), v = max2(max2(low, rel * (m * m)), load2(std + j)), root = sqrt2(v); \
    store2(std + j, root);                                                              \
    store2(score + j, (load2(x + j) - m) / root);                                       \
  }
  for (; n >= 4; n -= 4, x += 4, mean += 4, std += 4, score += 4) {
    PAIR(0) PAIR(2)
  }
#undef PAIR
  for (; n > 0; n--, x++, mean++, std++, score++) {
    double m = *mean, v = *std, least = min_rel2 * (m * m);
    if (least < min_std2) least = min_std2;
    if (v < least) v = least;
    *std = __builtin_sqrt(v);
    *score = (*x - m) / *std;
  }
}

/* steady takes rows from i on while they are usable and at the cached interval,
 * and returns the first that is not, or is flagged. It takes blocks of rows: a
 * block with a flagged row is taken back, and its rows are left to one. */
static inline __attribute__((always_inline)) int32_t steady(struct state *s, const struct rows *r, int32_t i, int32_t end, const struct output *out) {
  int32_t first = i, stop = regular(r->time, i, end, s->last, s->dt);
  while (i < stop) {
    int32_t n = stop - i < BLOCK ? stop - i : BLOCK;
    double mean = s->mean, var = s->var;
    if (UNLIKELY(block(s, r->value + i, out->mean + i, out->var + i, n))) {
      s->mean = mean;
      s->var = var;
      break;
    }
    i += n;
  }
  if (i > first) s->last = r->time[i - 1];
  s->count += i - first;
  return i;
}

/* steady_runs takes whole runs from u on as long as nothing is special. It
 * returns the first run with rows left, and in *row the first of these. */
NOINLINE static int32_t steady_runs(const struct rows *r, int32_t u, int32_t *row, const struct output *out) {
  for (; u < r->runs; u++) {
    const struct run *run = &r->run[u];
    struct state *s = run->state;
    int32_t i = run->begin, end = run->end;
    if (s->settled && !s->flagged && run_usable(r, run)) i = steady(s, r, i, end, out);
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
  int usable = run_usable(r, run);
  while (i < run->end) {
    int32_t until = i + BLOCK < run->end ? i + BLOCK : run->end;
    while (i < until) one(s, r, i++, out);
    if (usable && s->settled && !s->flagged && i < run->end) i = steady(s, r, i, run->end, out);
  }
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count)) return fail_memory(tag_count);
  struct output o = {column_buffers[MEAN].p, column_buffers[STD].p, column_buffers[FLAG].p};
  double *score = column_buffers[SCORE].p;
  zero_bytes(o.flag, ((size_t)r.count + 63) / 64 * 8);
  for (int32_t u = 0, row;; u++) {
    u = steady_runs(&r, u, &row, &o);
    if (u == r.runs) break;
    special(&r, &r.run[u], row, &o);
  }
  score_rows(r.value, o.mean, o.var, score, r.count);
  zero_nulls(o.var, r.usable, r.count);
  zero_nulls(score, r.usable, r.count);
  return put_rows(out, COLUMNS, r.count, r.usable);
}
