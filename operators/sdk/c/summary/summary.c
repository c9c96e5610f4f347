/* summary: what each tag's readings were in each window of time. A window is
 * closed by the watermark, or by the tag's first reading of a later one. */
#include "penstock_operator.h"

/* Columns and parameters are those of manifest.json, in its order. */
enum { TIME, TAG, VALUE, QUALITY };
static const penstock_column inputs[] = {
    {"time", PENSTOCK_TIMESTAMP, 0},
    {"tag", PENSTOCK_TAG, 0},
    {"value", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"quality", PENSTOCK_UINT32, 0},
};

enum { END, END_TAG, COUNT, MEAN, MIN, MAX, LATE, CONDITION };
static const penstock_column outputs[] = {
    {"time", PENSTOCK_TIMESTAMP, 0},
    {"tag", PENSTOCK_TAG, 0},
    {"count", PENSTOCK_INT64, 0},
    {"mean", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"min", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"max", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"late", PENSTOCK_INT64, 0},
    {"condition", PENSTOCK_STRING, 0},
};

struct params {
  double window, low, high;
};

struct state {
  double sum, min, max;
  int64_t start; /* of the window, or the first that the next may have */
  int64_t rows, count, late;
};

static int64_t window;
static double low, high;

static int open(const struct params *p) {
  if (p->low > p->high) return penstock_fail("low must not be above high");
  window = (int64_t)(p->window * 1e9);
  low = p->low;
  high = p->high;
  return 0;
}

static const char *condition(const struct state *s) {
  if (s->count == 0) return "no data";
  if (s->max > high) return "high";
  return s->min < low ? "low" : "normal";
}

static void close(penstock_run *r, struct state *s) {
  int32_t i = penstock_add_row(r);
  penstock_put_timestamp(r, END, i, s->start + window);
  penstock_put_int64(r, COUNT, i, s->count);
  if (s->count > 0) {
    penstock_put_float64(r, MEAN, i, s->sum / (double)s->count);
    penstock_put_float64(r, MIN, i, s->min);
    penstock_put_float64(r, MAX, i, s->max);
  }
  penstock_put_int64(r, LATE, i, s->late);
  penstock_put_string(r, CONDITION, i, penstock_text_of(condition(s)));
  *s = (struct state){.start = s->start + window};
}

static int run(penstock_run *r, struct state *s) {
  const int64_t *time = penstock_timestamps(r, TIME);
  const double *value = penstock_float64s(r, VALUE);
  const uint32_t *quality = penstock_uint32s(r, QUALITY);
  for (int32_t i = 0; i < r->rows; i++) {
    if (time[i] < s->start) {
      s->late++;
      continue;
    }
    if (s->rows > 0 && time[i] - s->start >= window) close(r, s);
    if (s->rows == 0) s->start = time[i] - time[i] % window;
    s->rows++;
    double x = value[i];
    if (penstock_is_null(r, VALUE, i) || penstock_is_bad(quality[i])) continue;
    if (!(x > -1e150 && x < 1e150)) continue; /* also not a number */
    if (s->count == 0 || x < s->min) s->min = x;
    if (s->count == 0 || x > s->max) s->max = x;
    s->sum += x;
    s->count++;
  }
  return 0;
}

static int advance(penstock_run *r, struct state *s, int64_t watermark) {
  if (s->rows > 0 && watermark - s->start >= window) close(r, s);
  return 0;
}

PENSTOCK_EMIT(inputs, outputs, struct params, struct state, open, run, advance)
