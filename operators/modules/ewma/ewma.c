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
 * A row is compared with the state before it. Mean and variance are chains from
 * row to row: two tags go side by side, one in each lane of a vector. */
#include "../common/math.h"
#include "../common/rows.h"

#define BLOCK 32 /* rows that go one by one when something is special */

static double half_life, warmup, freeze_ns;
static double threshold2[2], min_std2[2], min_rel2[2]; /* squares, as vectors */

struct state {
  int64_t last;       /* time of the newest row taken, ns */
  int64_t dt;         /* that gain and keep are for, ns */
  double weights[2];  /* g and 1 - g */
  double level[2];    /* mean and variance */
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
  store2(threshold2, both(p[2] * p[2]));
  store2(min_std2, both(p[3] * p[3]));
  store2(min_rel2, both(p[4] * p[4]));
  freeze_ns = p[5] * 1e9;
  read_uncertain(p[6]);
  state_size = sizeof(struct state);
  if (!(half_life > 0)) return fail("half_life is not above 0", 0, 0);
  if (!(warmup >= 1)) return fail("warmup is below 1", 0, 0);
  if (!(min_std2[0] > 0)) return fail("min_std is not above 0", 0, 0);
  return 0;
}

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) { return bind_rows(in, out, columns, COLUMNS); }

static void set_gain(struct state *s, int64_t dt) {
  double part = (double)dt / half_life;
  s->dt = dt;
  double g = one_minus_exp((part >= 0 && part < 1 ? part : 1) * 0.6931471805599453);
  s->weights[0] = g;
  s->weights[1] = 1 - g;
}

static int state_restored(void *state) {
  struct state *s = state;
  if (s->dt) set_gain(s, s->dt); /* half_life may be another now */
  return s->count >= 0 && s->level[1] >= 0;
}

/* drop_tiny makes 0 of what would end as denormal numbers, which processors are
 * slow with, when a signal stays the same for long. */
static inline void drop_tiny(struct state *s) {
  if (UNLIKELY(s->level[1] < 1e-150)) {
    s->level[1] = 0;
    if (__builtin_fabs(s->level[0]) < 1e-150) s->level[0] = 0;
  }
}

struct output {
  double *mean, *std, *score;
  uint64_t *flag;
};

/* one does all that may happen with a row; steady does what mostly happens. */
NOINLINE static void one(struct state *s, const struct rows *r, int32_t i, const struct output *out) {
  int64_t t = r->time[i];
  out->mean[i] = out->std[i] = out->score[i] = 0;
  if (!bit(r->usable, i)) return;
  if (s->count && t < s->last) {
    late_rows++;
    clear_bit(r->usable, i);
    return;
  }
  double x = r->value[i], mean = s->level[0], d = x - mean;
  int far = 0;
  if ((double)s->count >= warmup) {
    double least = min_rel2[0] * (mean * mean), v = s->level[1];
    if (least < min_std2[0]) least = min_std2[0];
    if (v < least) v = least;
    double std = __builtin_sqrt(v), score = d / std;
    far = score * score > threshold2[0];
    if (far) set_bit(out->flag, i);
    out->mean[i] = mean;
    out->std[i] = std;
    out->score[i] = score;
  } else {
    clear_bit(r->usable, i);
  }
  int64_t dt = minus(t, s->last);
  if (!s->count) {
    *s = (struct state){.last = t, .level = {x, 0}, .count = 1};
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
  double g = s->weights[0], k = s->weights[1];
  if (!s->settled) {
    double least = 1 / (double)s->count;
    s->settled = (double)s->count > warmup && g >= least;
    if (g < least) g = least, k = 1 - least;
  }
  double step = g * d;
  s->level[0] = mean + step;
  s->level[1] = k * (s->level[1] + step * d);
  drop_tiny(s);
}

/* regular returns how many of the n rows at t come dt after one another, the first dt after last. */
static inline int32_t regular(const int64_t *t, int32_t n, int64_t last, int64_t dt) {
  if (minus(*t, last) != dt) return 0;
  const int64_t *first = t, *stop = t + n;
  if (n > 4) { /* four steps at once; the last four may overlap those before */
    const int64_t *last4 = stop - 5;
    v2l back = {-dt, -dt}, off = {0, 0};
#define OFF(t) ((loadl(t + 1) + back - loadl(t)) | (loadl(t + 3) + back - loadl(t + 2)))
    for (; t + 4 < last4; t += 8) off |= OFF(t) | OFF(t + 4);
    if (t < last4) off |= OFF(t);
    off |= OFF(last4);
#undef OFF
    if (LIKELY(!(off[0] | off[1]))) return n;
  }
  for (t = first + 1; t < stop && minus(*t, t[-1]) == dt;) t++;
  return (int32_t)(t - first);
}

/* Rows of two tags that are usable and come at the cached intervals: n rows of a
 * from row i on, and of b from row j on. done: how many were taken; all: how many
 * both runs have, or -1 if that is not n. */
struct work {
  struct state *a, *b;
  int32_t i, j, n, done, all;
};
static struct buffer work_buffer;

/* take_pairs does the work from w on, two tags at once, each in a lane of a vector:
 * the chains from row to row, roots and divisions are for both. It stops before a
 * row of which one is to be flagged. */
NOINLINE static void take_pairs(struct work *w, const struct work *end, const double *value, const struct output *out) {
  v2d low = load2(min_std2), rel = load2(min_rel2), limit = load2(threshold2);
  for (; w < end; w++) {
    v2d weights = load2(w->a->weights), g = lows(weights, load2(w->b->weights)), k = highs(weights, load2(w->b->weights));
    v2d level = load2(w->a->level), m = lows(level, load2(w->b->level)), v = highs(level, load2(w->b->level));
    int32_t i = w->i;
    const double *x = value + i;
    double *mean = out->mean + i, *std = out->std + i, *score = out->score + i;
    intptr_t to_b = (w->j - i) * (intptr_t)sizeof(double); /* from a row of a to that of b, bytes */
#define B(p) (double *)((char *)(p) + to_b)
    v2d top = both(0);
    for (const double *stop = x + w->n; x < stop; x++, mean++, std++, score++) {
      v2d root = sqrt2(max2(max2(low, rel * (m * m)), v)), d = load_pair(x, B(x)) - m, far = d / root;
      put(std, B(std), root);
      put(mean, B(mean), m);
      put(score, B(score), far);
      top = max2(far * far, top);
      v2d step = g * d;
      m = m + step;
      v = k * (v + step * d);
    }
#undef B
    if (UNLIKELY(bits2((v2l)(limit < top)))) {
      w->done = 0;
      continue;
    }
    store2(w->a->level, lows(m, v));
    store2(w->b->level, highs(m, v));
  }
}

static inline int plain(const struct state *s) { return s->settled && !s->flagged; }

/* took notes that s has taken n rows up to row i. */
static inline void took(struct state *s, const struct rows *r, int32_t i, int32_t n) {
  if (n) s->last = r->time[i + n - 1];
  s->count += n;
  drop_tiny(s);
}

/* finish takes the rows of a run from i on. */
NOINLINE static void finish(const struct rows *r, const struct run *run, int32_t i, const struct output *out) {
  struct state *s = run->state, twin;
  int usable = run_usable(r, run);
  while (i < run->end) {
    int32_t until = i + BLOCK < run->end ? i + BLOCK : run->end;
    int32_t n = usable && plain(s) ? regular(r->time + i, until - i, s->last, s->dt) : 0;
    if (n) {
      twin = *s; /* the second lane does the same again */
      struct work w = {s, &twin, i, i, n, n, 0};
      take_pairs(&w, &w + 1, r->value, out);
      took(s, r, i, w.done);
      i += w.done;
      if (w.done) continue;
    }
    while (i < until) one(s, r, i++, out);
  }
}

/* find_work finds what can be done with each two runs, and notes it as done. */
NOINLINE static void find_work(struct work *w, const struct rows *r) {
  for (const struct run *u = r->run, *end = u + (r->runs & ~1); u < end; u += 2, w++) {
    struct state *a = u[0].state, *b = u[1].state;
    int32_t i = u[0].begin, j = u[1].begin, all = j - i, n = all;
    if (u[1].end - j < n) n = u[1].end - j;
    if (u[1].end - j != all) all = -1;
    if (UNLIKELY(!plain(a) || !plain(b) || !run_usable(r, u) || !run_usable(r, u + 1))) n = 0;
    if (n) n = regular(r->time + i, n, a->last, a->dt);
    if (n) n = regular(r->time + j, n, b->last, b->dt);
    took(a, r, i, n);
    took(b, r, j, n);
    *w = (struct work){a, b, i, j, n, n, all};
  }
}

/* leftover takes the rows of two runs that take_pairs has left. */
NOINLINE static void leftover(struct work *w, const struct rows *r, const struct run *u, const struct output *out) {
  if (w->done < w->n) { /* less than find_work noted */
    int32_t less = w->done - w->n;
    w->a->count += less;
    w->b->count += less;
    w->a->last += less * w->a->dt;
    w->b->last += less * w->b->dt;
  }
  finish(r, u, w->i + w->done, out);
  finish(r, u + 1, w->j + w->done, out);
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  struct rows r;
  if (rows_read(&r, in)) return 1;
  if (!reserve_columns(columns, COLUMNS, r.count) || !reserve(&work_buffer, (size_t)r.runs / 2 * sizeof(struct work))) return fail_memory(tag_count);
  struct output o = {column_buffers[MEAN].p, column_buffers[STD].p, column_buffers[SCORE].p, column_buffers[FLAG].p};
  zero_bytes(o.flag, ((size_t)r.count + 63) / 64 * 8);
  struct work *w = work_buffer.p;
  find_work(w, &r);
  take_pairs(w, w + r.runs / 2, r.value, &o);
  const struct run *u = r.run, *end = u + r.runs;
  for (; u + 2 <= end; u += 2, w++)
    if (UNLIKELY(w->done != w->all)) leftover(w, &r, u, &o);
  if (u < end) finish(&r, u, u->begin, &o);
  return put_rows(out, COLUMNS, r.count, r.usable);
}
