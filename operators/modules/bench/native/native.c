/* The native side of the kernel benchmark: a kernel compiled for this machine,
 * fed with the batch that the Go side prepared. KERNEL is its source file.
 *
 * native BATCH reads from stdin lines "CALLS" and answers each with a line
 * "NANOSECONDS HASH": the time inside that many calls of penstock_process,
 * between which the batch's times move on by the batch's span, and an FNV-1a
 * hash over the output of the last. */
#define _POSIX_C_SOURCE 200809L
#include KERNEL
#include <stdio.h>
#include <time.h>

struct head {
  int64_t rows, tags, span, params, name_bytes, variants;
};

static void *section(FILE *f, size_t n) {
  void *p = aligned_alloc(64, (n + 127) & ~(size_t)63);
  if (!p || fread(p, 1, n, f) != n) exit(2);
  return p;
}

static uint64_t hash_array(uint64_t h, const struct ArrowArray *a, const struct ArrowSchema *s) {
  int64_t n = a->length;
  size_t bytes = s->format[0] == 'b' ? (size_t)n / 8 : (size_t)n * (s->format[0] == 'I' || s->format[0] == 'i' ? 4 : 8);
  const unsigned char *p = a->buffers[1];
  for (size_t i = 0; i < bytes; i++) h = (h ^ p[i]) * 1099511628211u;
  return h;
}

int main(int argc, char **argv) {
  FILE *f = argc > 1 ? fopen(argv[1], "rb") : 0;
  if (!f) return 2;
  struct head *h = section(f, sizeof *h);
  int64_t n = h->rows;
  void *params = section(f, (size_t)h->params * 8);
  int64_t *time = section(f, (size_t)n * 8);
  const void *tag_buffers[] = {0, section(f, (size_t)n * 4)};
  double *value = aligned_alloc(64, (size_t)n * 8 + 128);
  const void *value_buffers[] = {0, value}, *quality_buffers[] = {0, section(f, (size_t)n * 4)}, *time_buffers[] = {0, time};
  int32_t *name_at = section(f, (size_t)(h->tags + 1) * 4);
  const void *name_buffers[] = {0, name_at, section(f, (size_t)h->name_bytes)};
  const double *values = section(f, (size_t)n * 8 * (size_t)h->variants);
  memcpy(value, values, (size_t)n * 8);
  int64_t done = 0;

  struct ArrowSchema names_schema = {.format = "u"}, cols_schema[4] = {{.format = "tsn:UTC"}, {.format = "i", .dictionary = &names_schema}, {.format = "g"}, {.format = "I"}};
  struct ArrowSchema *cols_schema_at[] = {&cols_schema[0], &cols_schema[1], &cols_schema[2], &cols_schema[3]};
  struct ArrowSchema in_schema = {.format = "+s", .n_children = 4, .children = cols_schema_at}, out_schema;
  struct ArrowArray names = {.length = h->tags, .n_buffers = 3, .buffers = name_buffers};
  struct ArrowArray cols[4] = {{.length = n, .n_buffers = 2, .buffers = time_buffers}, {.length = n, .n_buffers = 2, .buffers = tag_buffers, .dictionary = &names},
                               {.length = n, .n_buffers = 2, .buffers = value_buffers}, {.length = n, .n_buffers = 2, .buffers = quality_buffers}};
  struct ArrowArray *cols_at[] = {&cols[0], &cols[1], &cols[2], &cols[3]};
  struct ArrowArray in = {.length = n, .n_children = 4, .children = cols_at}, out;
  if (penstock_open(params, (uint32_t)h->params * 8) || penstock_bind(&in_schema, &out_schema)) return 3;

  long calls;
  while (scanf("%ld", &calls) == 1) {
    int64_t spent = 0;
    for (long c = 0; c < calls; c++) {
      struct timespec a, b;
      clock_gettime(CLOCK_MONOTONIC, &a);
      int bad = penstock_process(&in, &out);
      clock_gettime(CLOCK_MONOTONIC, &b);
      if (bad) return 4;
      spent += (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec;
      done++;
      memcpy(value, values + done % h->variants * n, (size_t)n * 8);
      for (int64_t i = 0; i < n; i++) time[i] += h->span;
    }
    uint64_t hash = 14695981039346656037u;
    for (int64_t i = 0; i < out.n_children; i++) hash = hash_array(hash, out.children[i], out_schema.children[i]);
    printf("%lld %llu\n", (long long)spent, (unsigned long long)hash);
    fflush(stdout);
  }
  return 0;
}
