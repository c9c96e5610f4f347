/* penstock_operator.h: write a Penstock operator in C without touching Arrow.
 *
 * Include it in one .c file. Say which columns you take and make, what your
 * parameters and the state of one tag are, and give two functions:
 *
 *   static int open(const struct params *p)                      once, at the start
 *   static int run(const penstock_run *r, struct state *s)       for each tag of each batch
 *   PENSTOCK_MAP(inputs, outputs, struct params, struct state, open, run)
 *
 * or, for an "emit" operator, which makes rows of its own, three:
 *
 *   static int run(penstock_run *r, struct state *s)
 *   static int advance(penstock_run *r, struct state *s, int64_t watermark)
 *                                 for each tag seen so far, in the order in which they came,
 *                                 when the input is complete up to the watermark (ns since 1970)
 *   PENSTOCK_EMIT(inputs, outputs, struct params, struct state, open, run, advance)
 *
 * All return 0, or penstock_fail("why"). The parameters are a struct with one
 * 8-byte member for each of the manifest's, in its order: double for a number
 * (int, float, bool 0 or 1, an enum's position, a duration in seconds),
 * penstock_text for a string. A state is zero when its tag is first seen; it
 * holds numbers only, no pointers, and is saved and restored for you. (Order
 * the members by size, largest first: padding is saved too.)
 *
 * A row of a nullable output column is null until you put a value into it. One
 * that is not nullable is 0, false, "" in a "map" operator; in an "emit"
 * operator it must be put, or the call fails. Asking for a column by another
 * type than it has, or for a row that is not there, and running out of memory
 * for rows or texts, stop the module with a message in the log: such a mistake
 * never goes unseen. */
#ifndef PENSTOCK_OPERATOR_H
#define PENSTOCK_OPERATOR_H
#include "penstock.h"

#define PENSTOCK_MAX_COLUMNS 64 /* the manifest's limit */

typedef enum { PENSTOCK_TIMESTAMP, PENSTOCK_TAG, PENSTOCK_FLOAT64, PENSTOCK_UINT32, PENSTOCK_STRING, PENSTOCK_BOOL, PENSTOCK_INT64 } penstock_type;

#define PENSTOCK_NULLABLE 1

/* A column of the manifest. Only an "emit" operator makes a tag. */
typedef struct {
  const char *name;
  penstock_type type;
  int nullable;
} penstock_column;

/* UTF-8, not terminated; lives for the call. */
typedef struct {
  const char *p;
  uint32_t len;
} penstock_text;

/* The rows of one tag in a batch, in time order. In advance: none. */
typedef struct {
  penstock_text tag; /* empty when no input column is a tag: the batch is one run */
  int32_t rows;      /* in run at least 1, in advance 0 */
  int32_t first;     /* position of the first in the batch */
  int32_t made, made_first; /* of the output: the SDK's */
} penstock_run;

/* What a column holds; row i is one of the run's, 0 <= i < r->rows. */
static const int64_t *penstock_timestamps(const penstock_run *r, int column); /* ns since 1970 */
static const int64_t *penstock_int64s(const penstock_run *r, int column);
static const double *penstock_float64s(const penstock_run *r, int column); /* of a null: undefined */
static const uint32_t *penstock_uint32s(const penstock_run *r, int column);
static int penstock_bool(const penstock_run *r, int column, int32_t i);
static penstock_text penstock_string(const penstock_run *r, int column, int32_t i);
static int penstock_is_null(const penstock_run *r, int column, int32_t i);

/* penstock_add_row adds a row to what an "emit" operator makes and returns its
 * number, for what is put into it: 0 is the first of this run. Its tag is the
 * run's, unless you put another. Rows of one tag stand together, their time
 * never goes down, and the host sets a limit (max_output_rows). */
static int32_t penstock_add_row(penstock_run *r);

/* What goes into row i: of the run in a "map" operator, or one that was added. */
static void penstock_put_timestamp(const penstock_run *r, int column, int32_t i, int64_t ns);
static void penstock_put_int64(const penstock_run *r, int column, int32_t i, int64_t v);
static void penstock_put_float64(const penstock_run *r, int column, int32_t i, double v);
static void penstock_put_uint32(const penstock_run *r, int column, int32_t i, uint32_t v);
static void penstock_put_bool(const penstock_run *r, int column, int32_t i, int v);
static void penstock_put_string(const penstock_run *r, int column, int32_t i, penstock_text v); /* UTF-8; a copy is kept */
static void penstock_put_tag(const penstock_run *r, int column, int32_t i, penstock_text v);

/* The text of a C string. */
static penstock_text penstock_text_of(const char *s);

/* penstock_fail notes why a call fails and returns the status 1. */
static int penstock_fail(const char *why);

/* OPC UA: the two top bits of a quality; 0 is Good. */
static inline int penstock_is_bad(uint32_t quality) { return quality >> 31 != 0; }

/* For the log (level 0 debug to 3 error, ten lines a second) and for metrics
 * (a gauge; lower-case letters, digits and _). */
PENSTOCK_IMPORT(log) void penstock_log(int32_t level, const char *text, uint32_t len);
PENSTOCK_IMPORT(metric) void penstock_metric(const char *name, uint32_t len, double value);

/* ---- What follows is how it works; nothing in it is for you to call. ---- */

#define PENSTOCK_UNUSED __attribute__((unused))

static uint32_t penstock_length(const char *s) {
  uint32_t n = 0;
  while (s[n]) n++;
  return n;
}

PENSTOCK_UNUSED static penstock_text penstock_text_of(const char *s) { return (penstock_text){s, penstock_length(s)}; }

static int penstock_same(const char *a, const char *b, uint32_t n) {
  for (uint32_t i = 0; i < n; i++)
    if (a[i] != b[i]) return 0;
  return 1;
}

static int penstock_same_text(const char *a, const char *b) {
  uint32_t n = penstock_length(a);
  return n == penstock_length(b) && penstock_same(a, b, n);
}

/* penstock_stop ends a call that a mistake in the module makes senseless. */
__attribute__((noinline, cold, noreturn)) static void penstock_stop(const char *why) {
  penstock_log(3, why, penstock_length(why));
  __builtin_trap();
}

/* Memory. Blocks are powers of two from 16 bytes, with a free list for each
 * size; what lives as long as the module is carved off without rounding.
 * Memory grows until the host's limit, then both return 0. */
extern unsigned char __heap_base;
static uintptr_t penstock_heap_at, penstock_heap_end;
static void *penstock_free_list[32];

static void *penstock_carve(uint32_t size, uint32_t align) {
  if (size > 1u << 30) return 0;
  if (!penstock_heap_at) {
    penstock_heap_at = (uintptr_t)&__heap_base;
    penstock_heap_end = __builtin_wasm_memory_size(0) * 65536;
  }
  uintptr_t p = (penstock_heap_at + align - 1) & ~(uintptr_t)(align - 1);
  if (p > penstock_heap_end || penstock_heap_end - p < size) {
    size_t pages = (size + align) / 65536 + 1, more = pages < 16 ? 16 : pages;
    if (__builtin_wasm_memory_grow(0, more) == (size_t)-1) {
      more = pages;
      if (__builtin_wasm_memory_grow(0, more) == (size_t)-1) return 0;
    }
    penstock_heap_end += more * 65536;
  }
  penstock_heap_at = p + size;
  return (void *)p;
}

static unsigned penstock_size_class(uint32_t size) { return size <= 16 ? 4 : 32 - (unsigned)__builtin_clz(size - 1); }

PENSTOCK_EXPORT(penstock_alloc)
void *penstock_alloc(uint32_t size, uint32_t align) {
  if (size > 1u << 30 || align > 64) return 0;
  unsigned c = penstock_size_class(size > align ? size : align);
  void *p = penstock_free_list[c];
  if (p) {
    penstock_free_list[c] = *(void **)p;
    return p;
  }
  return penstock_carve(1u << c, c < 6 ? 1u << c : 64);
}

PENSTOCK_EXPORT(penstock_free)
void penstock_free(void *p, uint32_t size, uint32_t align) {
  if (!p || size > 1u << 30 || align > 64) return;
  unsigned c = penstock_size_class(size > align ? size : align);
  *(void **)p = penstock_free_list[c];
  penstock_free_list[c] = p;
}

/* A buffer that every call uses again and that grows to the largest. */
struct penstock_buffer {
  char *p;
  uint32_t cap;
};

/* penstock_extend makes the buffer hold n bytes: the first `keep` as they are,
 * the others zero. It returns 0 when out of memory. */
static int penstock_extend(struct penstock_buffer *b, uint64_t keep, uint64_t n) {
  if (n > b->cap) {
    if (n > 1u << 30) return 0;
    uint32_t cap = 1u << penstock_size_class((uint32_t)n);
    char *p = penstock_alloc(cap, 64);
    if (!p) return 0;
    if (keep) __builtin_memcpy(p, b->p, keep);
    penstock_free(b->p, b->cap, 64);
    *b = (struct penstock_buffer){p, cap};
  }
  if (n > keep) __builtin_memset(b->p + keep, 0, n - keep);
  return 1;
}

static char penstock_error[512];
static uint32_t penstock_error_len;

static void penstock_error_add(const char *s) {
  while (*s && penstock_error_len < sizeof penstock_error) penstock_error[penstock_error_len++] = *s++;
}

PENSTOCK_UNUSED static int penstock_fail(const char *why) {
  penstock_error_len = 0;
  penstock_error_add(why);
  return 1;
}

static const char penstock_no_memory[] = "out of memory: raise the operator's memory limit or send it fewer tags";

static int penstock_fail_memory(void) { return penstock_fail(penstock_no_memory); }

static int penstock_fail_column(const char *direction, const char *name, const char *why) {
  penstock_fail(direction);
  penstock_error_add(" column ");
  penstock_error_add(name);
  penstock_error_add(why);
  return 1;
}

PENSTOCK_EXPORT(penstock_last_error)
int32_t penstock_last_error(penstock_buf *out) {
  *out = (penstock_buf){(uint32_t)(uintptr_t)penstock_error, penstock_error_len};
  return 0;
}

PENSTOCK_EXPORT(penstock_abi_version)
int32_t penstock_abi_version(void) { return PENSTOCK_ABI_VERSION; }

/* The operator, as PENSTOCK_MAP or PENSTOCK_EMIT defines it. */
struct penstock_operator {
  const penstock_column *inputs, *outputs;
  int n_inputs, n_outputs;
  uint32_t params_size, state_size;
  int (*open)(const void *params);
  int (*run)(penstock_run *r, void *state);
  int (*advance)(penstock_run *r, void *state, int64_t watermark); /* 0: kind "map" */
};
static const struct penstock_operator penstock_self;

/* Tags and their states, in the order in which they were first seen. */
struct penstock_tag_entry {
  struct penstock_tag_entry *next; /* of the same bucket */
  void *state;
  uint32_t hash, len;
  char name[];
};
static struct penstock_tag_entry **penstock_tags, **penstock_buckets;
static uint32_t penstock_tag_count, penstock_tag_cap;

static int penstock_tags_grow(void) {
  uint32_t cap = penstock_tag_cap ? penstock_tag_cap * 2 : 64, bytes = cap * (uint32_t)sizeof(void *);
  struct penstock_tag_entry **list = penstock_alloc(bytes, 64), **buckets = penstock_alloc(bytes, 64);
  if (!list || !buckets) return 0;
  __builtin_memset(buckets, 0, bytes);
  for (uint32_t i = 0; i < penstock_tag_count; i++) {
    struct penstock_tag_entry *t = list[i] = penstock_tags[i], **b = &buckets[t->hash & (cap - 1)];
    t->next = *b;
    *b = t;
  }
  penstock_free(penstock_tags, penstock_tag_cap * sizeof(void *), 64);
  penstock_free(penstock_buckets, penstock_tag_cap * sizeof(void *), 64);
  penstock_tags = list;
  penstock_buckets = buckets;
  penstock_tag_cap = cap;
  return 1;
}

/* penstock_state_of returns the state of the tag, a new one if need be, or 0
 * when out of memory. */
static void *penstock_state_of(const char *name, uint32_t len) {
  uint32_t hash = 2166136261u;
  for (uint32_t i = 0; i < len; i++) hash = (hash ^ (unsigned char)name[i]) * 16777619u;
  if (penstock_tag_cap)
    for (struct penstock_tag_entry *t = penstock_buckets[hash & (penstock_tag_cap - 1)]; t; t = t->next)
      if (t->hash == hash && t->len == len && penstock_same(t->name, name, len)) return t->state;
  if (penstock_tag_count == penstock_tag_cap && !penstock_tags_grow()) return 0;
  uint32_t head = ((uint32_t)sizeof(struct penstock_tag_entry) + len + 15) & ~15u;
  struct penstock_tag_entry *t = penstock_carve(head + penstock_self.state_size, 16);
  if (!t) return 0;
  __builtin_memset(t, 0, head + penstock_self.state_size);
  t->hash = hash;
  t->len = len;
  t->state = (char *)t + head;
  __builtin_memcpy(t->name, name, len);
  struct penstock_tag_entry **b = &penstock_buckets[hash & (penstock_tag_cap - 1)];
  t->next = *b;
  *b = t;
  penstock_tags[penstock_tag_count++] = t;
  return t->state;
}

/* A snapshot, little endian, the same in every SDK: "PENSTAT1", the size of a
 * state and the number of tags (4 bytes each); for each tag the length of its
 * name (8 bytes), the name filled up with zeros to 8 bytes, and its state,
 * likewise. */
static struct penstock_buffer penstock_snapshot_bytes;

static uint32_t penstock_padded(uint32_t n) { return (n + 7) & ~7u; }

PENSTOCK_EXPORT(penstock_snapshot)
int32_t penstock_snapshot(penstock_buf *out) {
  uint32_t size = penstock_self.state_size;
  uint64_t n = 16;
  for (uint32_t i = 0; i < penstock_tag_count; i++) n += 8 + penstock_padded(penstock_tags[i]->len) + penstock_padded(size);
  if (!penstock_extend(&penstock_snapshot_bytes, 0, n)) return penstock_fail_memory();
  char *p = penstock_snapshot_bytes.p;
  __builtin_memcpy(p, "PENSTAT1", 8);
  ((uint32_t *)p)[2] = size;
  ((uint32_t *)p)[3] = penstock_tag_count;
  p += 16;
  for (uint32_t i = 0; i < penstock_tag_count; i++) {
    struct penstock_tag_entry *t = penstock_tags[i];
    *(uint64_t *)p = t->len;
    __builtin_memcpy(p + 8, t->name, t->len);
    p += 8 + penstock_padded(t->len);
    __builtin_memcpy(p, t->state, size);
    p += penstock_padded(size);
  }
  *out = (penstock_buf){(uint32_t)(uintptr_t)penstock_snapshot_bytes.p, (uint32_t)n};
  return 0;
}

PENSTOCK_EXPORT(penstock_restore)
int32_t penstock_restore(const char *p, uint32_t len) {
  uint32_t size = penstock_self.state_size, room = penstock_padded(size), left = len - 16, head[2];
  if (penstock_tag_count) return penstock_fail("restore into a module that has tags already");
  if (len < 16 || !penstock_same(p, "PENSTAT1", 8)) return penstock_fail("the snapshot is not one of a module's states");
  __builtin_memcpy(head, p + 8, 8);
  if (head[0] != size) return penstock_fail("the snapshot's states have another size");
  p += 16;
  for (uint32_t i = 0; i < head[1]; i++) {
    uint64_t name = 0;
    if (left >= 8) __builtin_memcpy(&name, p, 8);
    if (left < 8 || name > left || 8 + (uint64_t)penstock_padded((uint32_t)name) + room > left) return penstock_fail("the snapshot ends in the middle of a tag");
    void *state = penstock_state_of(p + 8, (uint32_t)name);
    if (!state) return penstock_fail_memory();
    if (penstock_tag_count != i + 1) return penstock_fail("the snapshot has a tag twice");
    uint32_t skip = 8 + penstock_padded((uint32_t)name);
    __builtin_memcpy(state, p + skip, size);
    p += skip + room;
    left -= skip + room;
  }
  return left ? penstock_fail("the snapshot has bytes left over") : 0;
}

PENSTOCK_EXPORT(penstock_open)
int32_t penstock_open(const void *params, uint32_t len) {
  if (len != penstock_self.params_size) return penstock_fail("the parameters in the source are not as many as in the manifest");
  return penstock_self.open(params);
}

static const char *const penstock_formats[] = {"tsn:UTC", "i", "g", "I", "u", "b", "l"};
static int penstock_tag_column; /* of the input; -1: none */

/* An output column, which each call makes anew. A text or tag stands in data as
 * where it begins in put and its length (4 bytes each) until penstock_finish. */
struct penstock_out {
  struct penstock_buffer data, valid, put, text;
  uint32_t put_len;
  const void *pointers[3];
  struct ArrowArray array;
  struct ArrowSchema schema;
};
static struct penstock_out penstock_outs[PENSTOCK_MAX_COLUMNS];
static struct ArrowSchema *penstock_out_schemas[PENSTOCK_MAX_COLUMNS];
static struct ArrowArray *penstock_out_arrays[PENSTOCK_MAX_COLUMNS];
static int penstock_out_tag; /* -1: none */

PENSTOCK_EXPORT(penstock_bind)
int32_t penstock_bind(const struct ArrowSchema *in, struct ArrowSchema *out) {
  const struct penstock_operator *o = &penstock_self;
  if (in->n_children != o->n_inputs) return penstock_fail("the input columns in the source are not as many as in the manifest");
  penstock_tag_column = penstock_out_tag = -1;
  for (int i = 0; i < o->n_inputs; i++) {
    const penstock_column *c = &o->inputs[i];
    if (!penstock_same_text(in->children[i]->name, c->name) || !penstock_same_text(in->children[i]->format, penstock_formats[c->type]))
      return penstock_fail_column("input", c->name, " has another name, type or place in the manifest");
    if (!c->nullable && in->children[i]->flags & ARROW_FLAG_NULLABLE)
      return penstock_fail_column("input", c->name, " may have nulls: the source does not call it nullable");
    if (c->type == PENSTOCK_TAG) penstock_tag_column = i;
  }
  *out = (struct ArrowSchema){.format = "+s", .name = "", .n_children = o->n_outputs, .children = penstock_out_schemas};
  for (int i = 0; i < o->n_outputs; i++) {
    const penstock_column *c = &o->outputs[i];
    if (c->type == PENSTOCK_TAG) {
      if (!o->advance) return penstock_fail_column("output", c->name, " may not be a tag: a map operator's rows have theirs");
      penstock_out_tag = i;
    }
    penstock_outs[i].schema = (struct ArrowSchema){.format = penstock_formats[c->type], .name = c->name, .flags = c->nullable ? ARROW_FLAG_NULLABLE : 0};
    penstock_out_schemas[i] = &penstock_outs[i].schema;
  }
  return 0;
}

/* The call at hand: its batch (0 in advance), the rows that there is room for,
 * and the tag of the run's rows, as it stands in data. */
static const struct ArrowArray *penstock_in;
static int64_t penstock_room;
static uint64_t penstock_run_tag;

static uint64_t penstock_bit_bytes(int64_t rows) { return (uint64_t)(rows + 63) / 64 * 8; }

static uint64_t penstock_data_bytes(penstock_type t, int64_t rows) {
  return t == PENSTOCK_BOOL ? penstock_bit_bytes(rows) : (uint64_t)rows * (t == PENSTOCK_UINT32 ? 4 : 8);
}

static int penstock_make_room(int64_t rows) {
  for (int i = 0; i < penstock_self.n_outputs; i++) {
    struct penstock_out *o = &penstock_outs[i];
    penstock_type t = penstock_self.outputs[i].type;
    if (!penstock_extend(&o->data, penstock_data_bytes(t, penstock_room), penstock_data_bytes(t, rows))) return 0;
    if (!penstock_extend(&o->valid, penstock_bit_bytes(penstock_room), penstock_bit_bytes(rows))) return 0;
  }
  penstock_room = rows;
  return 1;
}

static void penstock_begin(const struct ArrowArray *in) {
  penstock_in = in;
  penstock_room = 0;
  for (int i = 0; i < penstock_self.n_outputs; i++) penstock_outs[i].put_len = 0;
}

static inline int penstock_bit(const void *bits, int64_t i) { return ((const uint8_t *)bits)[i >> 3] >> (i & 7) & 1; }

/* penstock_append appends a text that was put to the column's bytes. */
static int penstock_append(struct penstock_out *o, int32_t *end, const uint32_t put[2]) {
  if (!penstock_extend(&o->text, (uint32_t)*end, (uint64_t)(uint32_t)*end + put[1])) return 0;
  if (put[1]) __builtin_memcpy(o->text.p + *end, o->put.p + put[0], put[1]);
  *end += (int32_t)put[1];
  return 1;
}

/* penstock_finish_texts makes offsets of what stands in data, in its place: row
 * i's 4 bytes are no further than the 8 that were read. */
static int penstock_finish_texts(struct penstock_out *o, int64_t n) {
  int32_t *offsets = (int32_t *)o->data.p, end = 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t put[2];
    __builtin_memcpy(put, o->data.p + 8 * i, 8);
    if (!penstock_append(o, &end, put)) return 0;
    if (i == 0) offsets[0] = 0;
    offsets[i + 1] = end;
  }
  o->pointers[2] = o->text.p;
  return 1;
}

/* penstock_finish_tags likewise makes the numbers of runs, and a dictionary. */
static int penstock_finish_tags(struct penstock_out *o, int64_t n) {
  static struct penstock_buffer ends;
  static const void *pointers[3];
  static struct ArrowArray dictionary;
  int32_t runs = 0, end = 0, from = 0;
  if (!penstock_extend(&ends, 0, 4)) return 0;
  for (int64_t i = 0; i < n; i++) {
    uint32_t put[2];
    __builtin_memcpy(put, o->data.p + 8 * i, 8);
    if (i == 0 || (uint32_t)(end - from) != put[1] || !penstock_same(o->text.p + from, o->put.p + put[0], put[1])) {
      from = end;
      if (!penstock_append(o, &end, put) || !penstock_extend(&ends, 4 * ((uint64_t)runs + 1), 4 * ((uint64_t)runs + 2))) return 0;
      ((int32_t *)ends.p)[++runs] = end;
    }
    ((int32_t *)o->data.p)[i] = runs - 1;
  }
  pointers[1] = ends.p;
  pointers[2] = o->text.p;
  dictionary = (struct ArrowArray){.length = runs, .n_buffers = 3, .buffers = pointers};
  o->array.dictionary = &dictionary;
  return 1;
}

/* penstock_finish hands out the rows that the call made. */
static int penstock_finish(int64_t n, struct ArrowArray *out) {
  static const void *no_buffer[1];
  const struct penstock_operator *self = &penstock_self;
  if (n == 0 && self->advance) return 0;
  for (int i = 0; i < self->n_outputs; i++) {
    const penstock_column *c = &self->outputs[i];
    struct penstock_out *o = &penstock_outs[i];
    if (self->advance && !c->nullable)
      for (int64_t k = 0; k < n; k++)
        if (!penstock_bit(o->valid.p, k)) return penstock_fail_column("output", c->name, " has no value in a row, and is not nullable");
    o->array = (struct ArrowArray){.length = n, .null_count = c->nullable ? -1 : 0, .n_buffers = c->type == PENSTOCK_STRING ? 3 : 2, .buffers = o->pointers};
    if (c->type == PENSTOCK_STRING && !penstock_finish_texts(o, n)) return penstock_fail_memory();
    if (c->type == PENSTOCK_TAG && !penstock_finish_tags(o, n)) return penstock_fail_memory();
    o->pointers[0] = c->nullable ? o->valid.p : 0;
    o->pointers[1] = o->data.p;
    penstock_out_arrays[i] = &o->array;
  }
  *out = (struct ArrowArray){.length = n, .n_buffers = 1, .buffers = no_buffer, .n_children = self->n_outputs, .children = penstock_out_arrays};
  return 0;
}

PENSTOCK_EXPORT(penstock_process)
int32_t penstock_process(const struct ArrowArray *in, struct ArrowArray *out) {
  const struct penstock_operator *o = &penstock_self;
  int64_t n = in->length;
  if (in->n_children != o->n_inputs || in->offset || n < 0 || n > INT32_MAX) return penstock_fail("the batch is not as it was bound");
  penstock_begin(in);
  if (!o->advance && !penstock_make_room(n)) return penstock_fail_memory();
  const struct ArrowArray *tag = penstock_tag_column < 0 ? 0 : in->children[penstock_tag_column];
  int32_t made = 0;
  for (int32_t at = 0; at < n;) {
    penstock_run r = {.tag = {"", 0}, .rows = (int32_t)n - at, .first = at};
    if (tag) {
      const int32_t *index = (const int32_t *)tag->buffers[1] + tag->offset, *offset = (const int32_t *)tag->dictionary->buffers[1] + tag->dictionary->offset;
      int32_t end = at, name = index[at];
      while (end < n && index[end] == name) end++;
      r.rows = end - at;
      r.tag = (penstock_text){(const char *)tag->dictionary->buffers[2] + offset[name], (uint32_t)(offset[name + 1] - offset[name])};
    }
    r.made = o->advance ? 0 : r.rows;
    r.made_first = made;
    void *state = penstock_state_of(r.tag.p, r.tag.len);
    if (!state) return penstock_fail_memory();
    int status = o->run(&r, state);
    if (status) return status;
    at += r.rows;
    made += r.made;
  }
  return penstock_finish(made, out);
}

PENSTOCK_UNUSED static int32_t penstock_advance_tags(int64_t watermark, struct ArrowArray *out) {
  int32_t made = 0;
  penstock_begin(0);
  for (uint32_t i = 0; i < penstock_tag_count; i++) {
    struct penstock_tag_entry *t = penstock_tags[i];
    penstock_run r = {.tag = {t->name, t->len}, .made_first = made};
    int status = penstock_self.advance(&r, t->state, watermark);
    if (status) return status;
    made += r.made;
  }
  return penstock_finish(made, out);
}

static inline const struct ArrowArray *penstock_input(int column, penstock_type type) {
  if ((unsigned)column >= (unsigned)penstock_self.n_inputs || penstock_self.inputs[column].type != type) penstock_stop("the module reads an input column by another type than it has");
  if (!penstock_in) penstock_stop("an input column is read in advance, where there is none");
  return penstock_in->children[column];
}

#define PENSTOCK_READ(function, ctype, type)                                            \
  PENSTOCK_UNUSED static const ctype *function(const penstock_run *r, int column) {     \
    const struct ArrowArray *a = penstock_input(column, type);                          \
    return (const ctype *)a->buffers[1] + a->offset + r->first;                         \
  }
PENSTOCK_READ(penstock_timestamps, int64_t, PENSTOCK_TIMESTAMP)
PENSTOCK_READ(penstock_int64s, int64_t, PENSTOCK_INT64)
PENSTOCK_READ(penstock_float64s, double, PENSTOCK_FLOAT64)
PENSTOCK_READ(penstock_uint32s, uint32_t, PENSTOCK_UINT32)
#undef PENSTOCK_READ

static inline void penstock_check_row(const penstock_run *r, int32_t i) {
  if ((uint32_t)i >= (uint32_t)r->rows) penstock_stop("the module asks for a row that the run does not have");
}

PENSTOCK_UNUSED static int penstock_bool(const penstock_run *r, int column, int32_t i) {
  const struct ArrowArray *a = penstock_input(column, PENSTOCK_BOOL);
  penstock_check_row(r, i);
  return penstock_bit(a->buffers[1], a->offset + r->first + i);
}

PENSTOCK_UNUSED static penstock_text penstock_string(const penstock_run *r, int column, int32_t i) {
  const struct ArrowArray *a = penstock_input(column, PENSTOCK_STRING);
  penstock_check_row(r, i);
  const int32_t *offset = (const int32_t *)a->buffers[1] + a->offset + r->first + i;
  return (penstock_text){(const char *)a->buffers[2] + offset[0], (uint32_t)(offset[1] - offset[0])};
}

PENSTOCK_UNUSED static int penstock_is_null(const penstock_run *r, int column, int32_t i) {
  if ((unsigned)column >= (unsigned)penstock_self.n_inputs) penstock_stop("the module asks for an input column that it does not have");
  penstock_check_row(r, i);
  const struct ArrowArray *a = penstock_in->children[column];
  return a->buffers[0] && !penstock_bit(a->buffers[0], a->offset + r->first + i);
}

static inline void penstock_set_valid(int column, int32_t at) { penstock_outs[column].valid.p[at >> 3] |= (char)(1 << (at & 7)); }

static inline int32_t penstock_output(const penstock_run *r, int column, int32_t i, penstock_type type) {
  if ((unsigned)column >= (unsigned)penstock_self.n_outputs || penstock_self.outputs[column].type != type) penstock_stop("the module writes an output column by another type than it has");
  if ((uint32_t)i >= (uint32_t)r->made) penstock_stop("the run has no such row to write to");
  penstock_set_valid(column, r->made_first + i);
  return r->made_first + i;
}

#define PENSTOCK_WRITE(function, ctype, type)                                                                \
  PENSTOCK_UNUSED static void function(const penstock_run *r, int column, int32_t i, ctype v) {              \
    int32_t at = penstock_output(r, column, i, type);                                                        \
    ((ctype *)penstock_outs[column].data.p)[at] = v;                                                         \
  }
PENSTOCK_WRITE(penstock_put_timestamp, int64_t, PENSTOCK_TIMESTAMP)
PENSTOCK_WRITE(penstock_put_int64, int64_t, PENSTOCK_INT64)
PENSTOCK_WRITE(penstock_put_float64, double, PENSTOCK_FLOAT64)
PENSTOCK_WRITE(penstock_put_uint32, uint32_t, PENSTOCK_UINT32)
#undef PENSTOCK_WRITE

PENSTOCK_UNUSED static void penstock_put_bool(const penstock_run *r, int column, int32_t i, int v) {
  int32_t at = penstock_output(r, column, i, PENSTOCK_BOOL);
  uint8_t *byte = (uint8_t *)penstock_outs[column].data.p + (at >> 3), mask = (uint8_t)(1 << (at & 7));
  *byte = v ? *byte | mask : *byte & (uint8_t)~mask;
}

/* penstock_keep copies a text and returns how it stands in data. */
static uint64_t penstock_keep(int column, penstock_text v) {
  struct penstock_out *o = &penstock_outs[column];
  uint64_t from = o->put_len;
  if (!penstock_extend(&o->put, from, from + v.len)) penstock_stop(penstock_no_memory);
  if (v.len) __builtin_memcpy(o->put.p + from, v.p, v.len);
  o->put_len += v.len;
  return from | (uint64_t)v.len << 32;
}

PENSTOCK_UNUSED static void penstock_put_string(const penstock_run *r, int column, int32_t i, penstock_text v) {
  int32_t at = penstock_output(r, column, i, PENSTOCK_STRING);
  ((uint64_t *)penstock_outs[column].data.p)[at] = penstock_keep(column, v);
}

PENSTOCK_UNUSED static void penstock_put_tag(const penstock_run *r, int column, int32_t i, penstock_text v) {
  int32_t at = penstock_output(r, column, i, PENSTOCK_TAG);
  ((uint64_t *)penstock_outs[column].data.p)[at] = penstock_keep(column, v);
}

PENSTOCK_UNUSED static int32_t penstock_add_row(penstock_run *r) {
  int32_t at = r->made_first + r->made;
  if (!penstock_self.advance) penstock_stop("a row is added by a map operator");
  if (at == penstock_room && !penstock_make_room(at ? 2 * (int64_t)at : 64)) penstock_stop(penstock_no_memory);
  if (penstock_out_tag >= 0 && penstock_tag_column >= 0) {
    if (r->made == 0) penstock_run_tag = penstock_keep(penstock_out_tag, r->tag);
    ((uint64_t *)penstock_outs[penstock_out_tag].data.p)[at] = penstock_run_tag;
    penstock_set_valid(penstock_out_tag, at);
  }
  return r->made++;
}

#define PENSTOCK_SELF(in, out, params, state, open_it, run_it, advance_it)                                               \
  _Static_assert(sizeof(in) / sizeof *(in) <= PENSTOCK_MAX_COLUMNS, "too many input columns");                           \
  _Static_assert(sizeof(out) / sizeof *(out) <= PENSTOCK_MAX_COLUMNS, "too many output columns");                        \
  static int penstock_call_open(const void *p) { return open_it((const params *)p); }                                    \
  static int penstock_call_run(penstock_run *r, void *s) { return run_it(r, (state *)s); }                               \
  static const struct penstock_operator penstock_self = {(in), (out), sizeof(in) / sizeof *(in), sizeof(out) / sizeof *(out), \
                                                         sizeof(params), sizeof(state), penstock_call_open, penstock_call_run, advance_it};

#define PENSTOCK_MAP(in, out, params, state, open_it, run_it) PENSTOCK_SELF(in, out, params, state, open_it, run_it, 0)

#define PENSTOCK_EMIT(in, out, params, state, open_it, run_it, advance_it)                                               \
  static int penstock_call_advance(penstock_run *r, void *s, int64_t watermark) { return advance_it(r, (state *)s, watermark); } \
  PENSTOCK_SELF(in, out, params, state, open_it, run_it, penstock_call_advance)                                          \
  PENSTOCK_EXPORT(penstock_advance)                                                                                      \
  int32_t penstock_advance(int64_t watermark, struct ArrowArray *out) { return penstock_advance_tags(watermark, out); }

#endif
