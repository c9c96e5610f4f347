/* tags.h: one state per tag, found by name once per run, and the snapshot of
 * all of them.
 *
 * A kernel sets state_size in its open; a new state is all zero. States hold
 * no pointers and no padding, so a snapshot is their bytes, in the order in
 * which the tags were first seen: the same history gives the same snapshot. */
#ifndef PENSTOCK_TAGS_H
#define PENSTOCK_TAGS_H
#include "memory.h"
#include "simd.h"

struct tag {
  struct tag *bucket; /* next of the same hash bucket */
  struct tag *after;  /* the tag of the run that last came after this one */
  void *state;        /* state_size bytes, 16-byte aligned */
  uint32_t hash, len;
  char name[];
};

static uint32_t state_size; /* bytes of a state, a multiple of 8 */
static uint64_t state_form; /* what the shape of a state depends on, such as a window's length */

static struct tag **tag_list, **tag_buckets;
static uint32_t tag_count, tag_cap; /* tag_cap: of the list and of the buckets, a power of two */
static struct tag no_tag = {.len = UINT32_MAX}, *tag_first = &no_tag; /* tag_first: of the first run of the last batch */

static inline uint64_t load64(const char *p) {
  uint64_t v;
  __builtin_memcpy(&v, p, 8);
  return v;
}

/* same_short compares names of less than 16 bytes. */
COLD static int same_short(const char *a, const char *b, uint32_t len) {
  for (uint32_t i = 0; i < len; i++)
    if (a[i] != b[i]) return 0;
  return 1;
}

static inline int same_name(const struct tag *t, const char *name, uint32_t len) {
  if (t->len != len) return 0;
  if (UNLIKELY(len < 16)) return same_short(t->name, name, len);
  v4i diff = load4(t->name) - load4(name); /* the last 16 bytes may overlap those before */
  if (len > 32)
    for (uint32_t i = 16; i + 16 < len; i += 16) diff |= load4(t->name + i) - load4(name + i);
  diff |= load4(t->name + len - 16) - load4(name + len - 16);
  return bits4(diff == 0) == 15;
}

COLD static uint32_t hash_name(const char *name, uint32_t len) {
  uint64_t h = len * 0x9E3779B97F4A7C15u;
  uint32_t i = 0;
  for (; i + 8 <= len; i += 8) {
    h = (h ^ load64(name + i)) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
  }
  for (; i < len; i++) {
    h = (h ^ (unsigned char)name[i]) * 0x9E3779B97F4A7C15u;
    h ^= h >> 32;
  }
  return (uint32_t)(h ^ h >> 32);
}

COLD static int tags_grow(void) {
  uint32_t cap = tag_cap ? tag_cap * 2 : 1024, bytes = cap * sizeof(struct tag *);
  struct tag **list = penstock_alloc(bytes, 64), **buckets = penstock_alloc(bytes, 64);
  if (!list || !buckets) {
    penstock_free(list, bytes, 64);
    penstock_free(buckets, bytes, 64);
    return 0;
  }
  zero_bytes(buckets, bytes);
  for (uint32_t i = 0; i < tag_count; i++) {
    struct tag *t = list[i] = tag_list[i], **b = &buckets[t->hash & (cap - 1)];
    t->bucket = *b;
    *b = t;
  }
  if (tag_cap) {
    penstock_free(tag_list, tag_cap * sizeof(struct tag *), 64);
    penstock_free(tag_buckets, tag_cap * sizeof(struct tag *), 64);
  }
  tag_list = list;
  tag_buckets = buckets;
  tag_cap = cap;
  return 1;
}

/* tag_find returns the tag of that name, a new one if need be, or 0 when out of memory. */
COLD static struct tag *tag_find(const char *name, uint32_t len) {
  uint32_t hash = hash_name(name, len);
  if (tag_cap)
    for (struct tag *t = tag_buckets[hash & (tag_cap - 1)]; t; t = t->bucket)
      if (t->hash == hash && same_name(t, name, len)) return t;
  if (tag_count == tag_cap && !tags_grow()) return 0;
  size_t head = (sizeof(struct tag) + len + 15) & ~(size_t)15;
  struct tag *t = carve(head + state_size, 16);
  if (!t) return 0;
  zero_bytes(t, head + state_size);
  t->hash = hash;
  t->len = len;
  t->after = &no_tag;
  t->state = (char *)t + head;
  copy_bytes(t->name, name, len);
  struct tag **b = &tag_buckets[hash & (tag_cap - 1)];
  t->bucket = *b;
  *b = t;
  tag_list[tag_count++] = t;
  return t;
}

/* A snapshot: this header; then for each tag the length of its name (8 bytes),
 * the name filled up to 8 bytes, and its state. */
struct snapshot_head {
  uint64_t magic, form;
  uint32_t state_size, tags;
};
#define SNAPSHOT_MAGIC 0x3150414E534E4550u /* "PENSNAP1" */

static struct buffer snapshot_bytes;

PENSTOCK_EXPORT(penstock_snapshot)
int32_t penstock_snapshot(penstock_buf *out) {
  size_t n = sizeof(struct snapshot_head);
  for (uint32_t i = 0; i < tag_count; i++) n += 8 + ((tag_list[i]->len + 7) & ~7u) + state_size;
  if (!reserve(&snapshot_bytes, n)) return fail_memory(tag_count);
  char *p = snapshot_bytes.p;
  *(struct snapshot_head *)p = (struct snapshot_head){SNAPSHOT_MAGIC, state_form, state_size, tag_count};
  p += sizeof(struct snapshot_head);
  for (uint32_t i = 0; i < tag_count; i++) {
    struct tag *t = tag_list[i];
    uint32_t room = (t->len + 7) & ~7u;
    *(uint64_t *)p = t->len;
    zero_bytes(p + 8, room);
    copy_bytes(p + 8, t->name, t->len);
    copy_bytes(p + 8 + room, t->state, state_size);
    p += 8 + room + state_size;
  }
  put_buf(out, snapshot_bytes.p, n);
  return 0;
}

static int state_restored(void *state); /* of the kernel: makes good what depends on parameters; 0 when the state is damaged */

PENSTOCK_EXPORT(penstock_restore)
int32_t penstock_restore(const void *from, uint32_t len) {
  struct snapshot_head h;
  if (tag_count) return fail("restore into a module that has tags already", 0, 0);
  if (len < sizeof h) return fail("the snapshot has only ", len, " bytes");
  copy_bytes(&h, from, sizeof h);
  if (h.magic != SNAPSHOT_MAGIC) return fail("the snapshot is not one of this module", 0, 0);
  if (h.form != state_form || h.state_size != state_size) return fail("the snapshot was made with other parameters (states of ", h.state_size, " bytes)");
  const char *p = (const char *)from + sizeof h;
  uint32_t left = len - sizeof h;
  for (uint32_t i = 0; i < h.tags; i++) {
    uint64_t name = left < 8 ? UINT64_MAX : load64(p);
    if (name > left || 8 + ((name + 7) & ~(uint64_t)7) + state_size > left) return fail("the snapshot ends in the middle of tag ", i, "");
    uint32_t room = ((uint32_t)name + 7) & ~7u;
    struct tag *t = tag_find(p + 8, (uint32_t)name);
    if (!t) return fail_memory(tag_count);
    if (tag_count != i + 1) return fail("the snapshot has tag ", i, " twice");
    copy_bytes(t->state, p + 8 + room, state_size);
    if (!state_restored(t->state)) return fail("the snapshot's state of tag ", i, " is damaged");
    p += 8 + room + state_size;
    left -= 8 + room + state_size;
  }
  return left ? fail("the snapshot has ", left, " bytes too many") : 0;
}

#endif
