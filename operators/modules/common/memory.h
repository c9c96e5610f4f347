/* memory.h: the allocator of a module, and the text of its last error.
 *
 * Blocks are powers of two from 16 bytes, kept in one free list per size:
 * penstock_free is told the size, so a block needs no header. What lives as
 * long as the module (tag states) is carved off without rounding. Memory grows
 * until the host's limit; then both return 0 and the call fails. */
#ifndef PENSTOCK_MEMORY_H
#define PENSTOCK_MEMORY_H
#include <penstock.h>
#ifndef __wasm__
#include <stdlib.h>
#include <string.h>
#undef PENSTOCK_EXPORT
#undef PENSTOCK_IMPORT
#define PENSTOCK_EXPORT(name)
#define PENSTOCK_IMPORT(name)
#endif

#define PAGE 65536u
#define COLD __attribute__((noinline, cold))
#define NOINLINE __attribute__((noinline)) /* hot loops apart: Cranelift spills less in small functions */

static uintptr_t heap_at, heap_end;

#ifdef __wasm__
extern unsigned char __heap_base;
COLD static int heap_grow(size_t need) {
  if (!heap_at) {
    heap_at = (uintptr_t)&__heap_base;
    heap_end = (uintptr_t)__builtin_wasm_memory_size(0) * PAGE;
    if (heap_end - heap_at >= need) return 1;
  }
  size_t missing = need - (heap_end - heap_at);
  size_t pages = missing / PAGE + 1, more = pages < 16 ? 16 : pages;
  if (__builtin_wasm_memory_grow(0, more) == (size_t)-1) {
    more = pages;
    if (__builtin_wasm_memory_grow(0, more) == (size_t)-1) return 0;
  }
  heap_end += more * PAGE;
  return 1;
}
#else
COLD static int heap_grow(size_t need) {
  size_t size = need > 64 * PAGE ? need + PAGE : 64 * PAGE;
  heap_at = (uintptr_t)aligned_alloc(4096, (size + 4095) & ~(size_t)4095);
  heap_end = heap_at ? heap_at + size : 0;
  return heap_at != 0;
}
#endif

/* carve returns size bytes that are never freed, aligned to align (a power of
 * two, at most 64), or 0. */
static void *carve(size_t size, size_t align) {
  if (size > (1u << 30)) return 0;
  uintptr_t p = (heap_at + align - 1) & ~(uintptr_t)(align - 1);
  if (!heap_at || p > heap_end || heap_end - p < size) {
    if (!heap_grow(size + align)) return 0;
    p = (heap_at + align - 1) & ~(uintptr_t)(align - 1);
  }
  heap_at = p + size;
  return (void *)p;
}

static void *free_list[32];

static unsigned size_class(size_t size) { return size <= 16 ? 4 : 32 - (unsigned)__builtin_clz((uint32_t)size - 1); }

PENSTOCK_EXPORT(penstock_alloc)
void *penstock_alloc(uint32_t size, uint32_t align) {
  if (size > (1u << 30) || align > 64) return 0;
  unsigned c = size_class(size > align ? size : align);
  void *p = free_list[c];
  if (p) {
    free_list[c] = *(void **)p;
    return p;
  }
  return carve((size_t)1 << c, c < 6 ? (size_t)1 << c : 64);
}

PENSTOCK_EXPORT(penstock_free)
void penstock_free(void *p, uint32_t size, uint32_t align) {
  if (!p || size > (1u << 30) || align > 64) return;
  unsigned c = size_class(size > align ? size : align);
  *(void **)p = free_list[c];
  free_list[c] = p;
}

#ifdef __wasm__
static void copy_bytes(void *to, const void *from, size_t n) { __builtin_memcpy(to, from, n); }
static void zero_bytes(void *p, size_t n) { __builtin_memset(p, 0, n); }
#else
static void copy_bytes(void *to, const void *from, size_t n) { memcpy(to, from, n); }
static void zero_bytes(void *p, size_t n) { memset(p, 0, n); }
#endif

/* A buffer that is used again by every call and grows to the largest one. */
struct buffer {
  void *p;
  uint32_t cap;
};

COLD static int enlarge(struct buffer *b, size_t n) {
  if (n > (1u << 30)) return 0;
  uint32_t cap = 1u << size_class(n);
  void *p = penstock_alloc(cap, 64);
  if (!p) return 0;
  penstock_free(b->p, b->cap, 64);
  b->p = p;
  b->cap = cap;
  return 1;
}

/* reserve makes b hold at least n bytes; what was in it is lost. */
static inline int reserve(struct buffer *b, size_t n) { return n <= b->cap || enlarge(b, n); }

/* fail notes why a call fails, as text, number, text; it returns the status 1. */
static char error_text[256];
static uint32_t error_len;

COLD static void error_add(const char *s) {
  while (*s && error_len < sizeof error_text) error_text[error_len++] = *s++;
}

COLD static void error_number(int64_t v) {
  char digits[24];
  int n = sizeof digits - 1;
  uint64_t u = v < 0 ? -(uint64_t)v : (uint64_t)v;
  digits[n] = 0;
  do digits[--n] = (char)('0' + u % 10);
  while (u /= 10);
  if (v < 0) digits[--n] = '-';
  error_add(digits + n);
}

COLD static int fail(const char *before, int64_t number, const char *after) {
  error_len = 0;
  error_add(before);
  if (after) {
    error_number(number);
    error_add(after);
  }
  return 1;
}

COLD static int fail_memory(int64_t tags) { return fail("out of memory with ", tags, " tags: raise the module's memory limit or send it fewer tags"); }

/* put_buf fills a penstock_buf. Nothing native reads it: pointers are 8 bytes there. */
static void put_buf(penstock_buf *b, const void *p, size_t n) { *b = (penstock_buf){(uint32_t)(uintptr_t)p, (uint32_t)n}; }

PENSTOCK_EXPORT(penstock_last_error)
int32_t penstock_last_error(penstock_buf *out) {
  put_buf(out, error_text, error_len);
  return 0;
}

PENSTOCK_EXPORT(penstock_abi_version)
int32_t penstock_abi_version(void) { return PENSTOCK_ABI_VERSION; }

#endif
