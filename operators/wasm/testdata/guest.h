/* guest.h: what the test guests share: a bump allocator that can free its last
 * piece, and struct building. */
#include "../../sdk/c/penstock.h"

extern uint8_t __heap_base;
static uint32_t heap;

static inline uint32_t bump(uint32_t size, uint32_t align) {
  if (!heap) heap = (uint32_t)&__heap_base;
  uint64_t at = ((uint64_t)heap + align - 1) & ~(uint64_t)(align - 1), end = at + size;
  uint64_t have = (uint64_t)__builtin_wasm_memory_size(0) << 16;
  if (end > have && __builtin_wasm_memory_grow(0, (end - have + 65535) >> 16) == (size_t)-1) return 0;
  heap = (uint32_t)end;
  return (uint32_t)at;
}

PENSTOCK_EXPORT(penstock_abi_version) int32_t abi_version(void) { return PENSTOCK_ABI_VERSION; }
#ifndef OWN_EXPORTS /* alloc and last_error */
PENSTOCK_EXPORT(penstock_alloc) uint32_t alloc_(uint32_t size, uint32_t align) { return bump(size, align); }
#endif
PENSTOCK_EXPORT(penstock_free) void free_(uint32_t p, uint32_t size, uint32_t align) {
  if (p + size == heap) heap = p;
}

#ifndef OWN_EXPORTS
static const char *error_text = "";
PENSTOCK_EXPORT(penstock_last_error) int32_t last_error(penstock_buf *out) {
  uint32_t n = 0;
  while (error_text[n]) n++;
  *out = (penstock_buf){(uint32_t)error_text, n};
  return 0;
}
#endif

static inline void schema_leaf(struct ArrowSchema *s, const char *format, const char *name, int nullable) {
  *s = (struct ArrowSchema){.format = format, .name = name, .flags = nullable ? ARROW_FLAG_NULLABLE : 0};
}

static inline void array_leaf(struct ArrowArray *a, int64_t length, const void **buffers, int64_t n, const void *data) {
  buffers[0] = 0;
  buffers[1] = data;
  *a = (struct ArrowArray){.length = length, .n_buffers = n, .buffers = buffers};
}

static inline void array_record(struct ArrowArray *out, int64_t length, struct ArrowArray **children, int64_t n) {
  static const void *none[1];
  *out = (struct ArrowArray){.length = length, .n_buffers = 1, .n_children = n, .buffers = none, .children = children};
}
