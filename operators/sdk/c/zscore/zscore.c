/* zscore: how far a reading lies from what its tag mostly reads, in standard
 * deviations. Mean and variance are exponentially weighted, per tag. */
#include "penstock_operator.h"

/* Columns and parameters are those of manifest.json, in its order. */
enum { TIME, TAG, VALUE, QUALITY };
static const penstock_column inputs[] = {
    {"time", PENSTOCK_TIMESTAMP, 0},
    {"tag", PENSTOCK_TAG, 0},
    {"value", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"quality", PENSTOCK_UINT32, 0},
};

enum { SCORE, FLAG };
static const penstock_column outputs[] = {
    {"score", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"flag", PENSTOCK_BOOL, PENSTOCK_NULLABLE},
};

struct params {
  double alpha, threshold, warmup;
};

struct state {
  double mean, variance;
  int64_t count;
};

static struct params params;

static int open(const struct params *p) {
  params = *p;
  if (!(p->alpha > 0 && p->alpha <= 1)) return penstock_fail("alpha must be above 0 and at most 1");
  return 0;
}

static int run(const penstock_run *r, struct state *s) {
  const double *value = penstock_float64s(r, VALUE);
  const uint32_t *quality = penstock_uint32s(r, QUALITY);
  for (int32_t i = 0; i < r->rows; i++) {
    double x = value[i];
    if (penstock_is_null(r, VALUE, i) || penstock_is_bad(quality[i])) continue;
    if (!(x > -1e150 && x < 1e150)) continue; /* also not a number: squares must not overflow */
    double d = x - s->mean;
    if ((double)s->count >= params.warmup && s->variance > 0) {
      double score = d / __builtin_sqrt(s->variance);
      penstock_put_float64(r, SCORE, i, score);
      penstock_put_bool(r, FLAG, i, score > params.threshold || score < -params.threshold);
    }
    if (s->count == 0) {
      s->mean = x;
    } else {
      double step = params.alpha * d;
      s->mean = s->mean + step;
      s->variance = (1 - params.alpha) * (s->variance + step * d);
    }
    s->count++;
  }
  return 0;
}

PENSTOCK_MAP(inputs, outputs, struct params, struct state, open, run)
