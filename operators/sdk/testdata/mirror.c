#include "penstock_operator.h"

enum { TIME, TAG, VALUE, TEXT, QUALITY, FLAG, COUNT };
static const penstock_column inputs[] = {
    {"time", PENSTOCK_TIMESTAMP, 0},          {"tag", PENSTOCK_TAG, 0},     {"value", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"text", PENSTOCK_STRING, PENSTOCK_NULLABLE}, {"quality", PENSTOCK_UINT32, 0}, {"flag", PENSTOCK_BOOL, PENSTOCK_NULLABLE},
    {"count", PENSTOCK_INT64, PENSTOCK_NULLABLE},
};

enum { TIME_OUT, VALUE_OUT, SIZE, QUALITY_OUT, FLAG_OUT, ON_OUT, COUNT_OUT, PARAMS, BEFORE, TEXT_OUT, LABEL };
static const penstock_column outputs[] = {
    {"time_out", PENSTOCK_TIMESTAMP, 0}, {"value_out", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE}, {"size", PENSTOCK_INT64, PENSTOCK_NULLABLE},
    {"quality_out", PENSTOCK_UINT32, 0}, {"flag_out", PENSTOCK_BOOL, PENSTOCK_NULLABLE},     {"on_out", PENSTOCK_BOOL, 0},
    {"count_out", PENSTOCK_INT64, PENSTOCK_NULLABLE}, {"params", PENSTOCK_FLOAT64, 0},       {"before", PENSTOCK_FLOAT64, 0},
    {"text_out", PENSTOCK_STRING, PENSTOCK_NULLABLE}, {"label", PENSTOCK_STRING, 0},
};

enum { RIGHT, INPUT, OUTPUT, ROW, FAIL, ADD };

struct params {
  double n, on, wait, mode;
  penstock_text label;
};

struct state {
  double last[3];
  uint32_t rows, unused;
};

static double sum;
static int on, mode;

static int open(const struct params *p) {
  sum = p->n + p->on * 10 + p->wait * 100 + p->label.len * 10000.0 + (unsigned char)p->label.p[1];
  on = p->on != 0;
  mode = (int)p->mode;
  return 0;
}

static int run(penstock_run *r, struct state *s) {
  const int64_t *time = penstock_timestamps(r, TIME), *count = penstock_int64s(r, COUNT);
  const double *value = penstock_float64s(r, VALUE);
  const uint32_t *quality = penstock_uint32s(r, QUALITY);
  if (mode == INPUT) penstock_int64s(r, VALUE);
  if (mode == OUTPUT) penstock_put_int64(r, VALUE_OUT, 0, 1);
  if (mode == ROW) penstock_put_float64(r, VALUE_OUT, r->rows, 1);
  if (mode == FAIL) return penstock_fail("no, not today");
  if (mode == ADD) penstock_add_row(r);
  for (int32_t i = r->rows - 1; i >= 0; i--) {
    if (!penstock_is_null(r, TEXT, i)) {
      penstock_put_string(r, TEXT_OUT, i, penstock_text_of("gone"));
      penstock_put_string(r, TEXT_OUT, i, penstock_string(r, TEXT, i));
    }
    if (i % 2 == 0) penstock_put_string(r, LABEL, i, r->tag);
  }
  for (int32_t i = 0; i < r->rows; i++) {
    penstock_put_timestamp(r, TIME_OUT, i, time[i] + 1);
    if (!penstock_is_null(r, VALUE, i)) penstock_put_float64(r, VALUE_OUT, i, value[i]);
    if (!penstock_is_null(r, TEXT, i)) {
      penstock_text t = penstock_string(r, TEXT, i);
      penstock_put_int64(r, SIZE, i, t.len + r->tag.len * 1000ll);
    }
    if (i % 2 == 0) penstock_put_uint32(r, QUALITY_OUT, i, quality[i]);
    if (!penstock_is_null(r, FLAG, i)) penstock_put_bool(r, FLAG_OUT, i, penstock_bool(r, FLAG, i));
    penstock_put_bool(r, ON_OUT, i, !on);
    penstock_put_bool(r, ON_OUT, i, on);
    if (!penstock_is_null(r, COUNT, i)) penstock_put_int64(r, COUNT_OUT, i, count[i]);
    penstock_put_float64(r, PARAMS, i, sum);
    penstock_put_float64(r, BEFORE, i, s->last[s->rows % 3]);
    s->last[s->rows % 3] = (double)time[i];
    s->rows++;
  }
  return 0;
}

PENSTOCK_MAP(inputs, outputs, struct params, struct state, open, run)
