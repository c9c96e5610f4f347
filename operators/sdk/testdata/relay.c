#include "penstock_operator.h"

enum { TIME, TAG, VALUE, TEXT, QUALITY, FLAG, COUNT };
static const penstock_column inputs[] = {
    {"time", PENSTOCK_TIMESTAMP, 0},          {"tag", PENSTOCK_TAG, 0},     {"value", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE},
    {"text", PENSTOCK_STRING, PENSTOCK_NULLABLE}, {"quality", PENSTOCK_UINT32, 0}, {"flag", PENSTOCK_BOOL, PENSTOCK_NULLABLE},
    {"count", PENSTOCK_INT64, PENSTOCK_NULLABLE},
};

enum { VALUE_OUT, TEXT_OUT, TIME_OUT, TAG_OUT, QUALITY_OUT, FLAG_OUT, COUNT_OUT };
static const penstock_column outputs[] = {
    {"value", PENSTOCK_FLOAT64, PENSTOCK_NULLABLE}, {"text", PENSTOCK_STRING, PENSTOCK_NULLABLE}, {"time", PENSTOCK_TIMESTAMP, 0},
    {"tag", PENSTOCK_TAG, 0}, {"quality", PENSTOCK_UINT32, 0}, {"flag", PENSTOCK_BOOL, PENSTOCK_NULLABLE},
    {"count", PENSTOCK_INT64, PENSTOCK_NULLABLE},
};

enum { RIGHT, INPUT, OUTPUT, ROW, FAIL, FORGET, ORDER, TWICE, FLOOD, LATE_INPUT, LATE_FAIL };

struct params {
  double mode;
};

struct state {
  uint32_t rows, due;
};

static int mode;

static int open(const struct params *p) {
  mode = (int)p->mode;
  return 0;
}

static int run(penstock_run *r, struct state *s) {
  if (mode == INPUT) penstock_int64s(r, VALUE);
  if (mode == FAIL) return penstock_fail("no, not today");
  while (mode == FLOOD) penstock_put_string(r, TEXT_OUT, penstock_add_row(r), penstock_text_of("more and more"));
  const int64_t *time = penstock_timestamps(r, TIME), *count = penstock_int64s(r, COUNT);
  const double *value = penstock_float64s(r, VALUE);
  const uint32_t *quality = penstock_uint32s(r, QUALITY);
  for (int32_t i = 0; i < r->rows; i++) {
    for (uint32_t copies = s->rows++ % 3; copies > 0; copies--) {
      int32_t at = penstock_add_row(r);
      if (mode == OUTPUT) penstock_put_int64(r, VALUE_OUT, at, 1);
      if (mode == ROW) penstock_put_float64(r, VALUE_OUT, at + 1, 1);
      if (mode == TWICE) penstock_put_tag(r, TAG_OUT, at, penstock_text_of(s->rows % 2 ? "a" : "b"));
      penstock_put_timestamp(r, TIME_OUT, at, mode == ORDER ? -time[i] - copies : time[i]);
      if (mode != FORGET) penstock_put_uint32(r, QUALITY_OUT, at, quality[i]);
      if (!penstock_is_null(r, VALUE, i)) penstock_put_float64(r, VALUE_OUT, at, value[i]);
      if (!penstock_is_null(r, TEXT, i)) penstock_put_string(r, TEXT_OUT, at, penstock_string(r, TEXT, i));
      if (!penstock_is_null(r, FLAG, i)) penstock_put_bool(r, FLAG_OUT, at, penstock_bool(r, FLAG, i));
      if (!penstock_is_null(r, COUNT, i)) penstock_put_int64(r, COUNT_OUT, at, count[i]);
    }
  }
  s->due = 1;
  return 0;
}

static int advance(penstock_run *r, struct state *s, int64_t watermark) {
  if (mode == LATE_INPUT) penstock_string(r, TEXT, 0);
  if (mode == LATE_FAIL) return penstock_fail("no, not tonight");
  if (!s->due) return 0;
  s->due = 0;
  int32_t first = penstock_add_row(r), second = penstock_add_row(r);
  char due[256] = "due/";
  uint32_t n = 4;
  for (uint32_t i = 0; i < r->tag.len; i++) due[n++] = r->tag.p[i];
  penstock_put_tag(r, TAG_OUT, second, (penstock_text){due, n});
  penstock_put_timestamp(r, TIME_OUT, second, watermark + 1);
  penstock_put_timestamp(r, TIME_OUT, first, watermark);
  penstock_put_uint32(r, QUALITY_OUT, first, s->rows);
  penstock_put_uint32(r, QUALITY_OUT, second, 7);
  penstock_put_string(r, TEXT_OUT, second, penstock_text_of(""));
  penstock_put_string(r, TEXT_OUT, first, r->tag);
  return 0;
}

PENSTOCK_EMIT(inputs, outputs, struct params, struct state, open, run, advance)
