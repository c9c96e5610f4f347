/* simd.h: 128-bit vectors, the same source for wasm32 SIMD and for SSE.
 *
 * Only operations that Cranelift 0.74 compiles rightly are here: no v128
 * select (a scalar condition that picks a vector), no i8x16.swizzle and no
 * v128.not. Lane masks are integers; pick a lane by min, max or bit logic.
 * And no and, or, xor of a vector just loaded: Cranelift makes the load an
 * operand of the SSE instruction, which traps where it is not aligned to 16
 * bytes. Compare or subtract first. For the same reason clang's own
 * vectorizer is off (see the Makefile). */
#ifndef PENSTOCK_SIMD_H
#define PENSTOCK_SIMD_H
#include <stdint.h>
#ifdef __wasm__
#include <wasm_simd128.h>
#else
#include <smmintrin.h>
#endif

typedef double v2d __attribute__((vector_size(16)));
typedef int64_t v2l __attribute__((vector_size(16)));
typedef uint64_t v2u __attribute__((vector_size(16)));
typedef int32_t v4i __attribute__((vector_size(16)));
typedef double v2d_at __attribute__((vector_size(16), aligned(8), may_alias));
typedef int64_t v2l_at __attribute__((vector_size(16), aligned(8), may_alias));
typedef int32_t v4i_at __attribute__((vector_size(16), aligned(4), may_alias));

#define LIKELY(x) __builtin_expect(!!(x), 1)
#define UNLIKELY(x) __builtin_expect(!!(x), 0)

static inline v2d load2(const double *p) { return *(const v2d_at *)p; }
static inline void store2(double *p, v2d v) { *(v2d_at *)p = v; }
static inline void put(double *p, double *q, v2d v) { /* a lane to each */
  *p = v[0];
  *q = v[1];
}
static inline v2l loadl(const int64_t *p) { return *(const v2l_at *)p; }
static inline v4i load4(const void *p) { return *(const v4i_at *)p; }
static inline v2d both(double x) { return (v2d){x, x}; }

/* bits2 and bits4: the sign bit of each lane, lane 0 lowest.
 * maxu4 takes lanes as unsigned.
 * load1 is {*p, 0}. load_both is {*p, *p}, best in loops: Cranelift makes a vector of a scalar in a
 * register by instructions that wait for what the vector's register held before,
 * which ties the rows of a loop together.
 * lows and highs are the lanes 0, the lanes 1 of two vectors; swap changes the lanes of one.
 * RELOAD() makes the loop below load its constants itself: Cranelift keeps what
 * two nested loops need in two registers, and spills what is left without one.
 * OPAQUE(v) hides from clang where v comes from, OPAQUE_POINTER(p) where p does: what is loaded
 * at fixed places from there then needs no addition.
 * min2(a, b) is b < a ? b : a in each lane, max2(a, b) is a < b ? b : a; they
 * overwrite b's register, so b is best the value that is not needed any more. */
#ifdef __wasm__
#define OPAQUE(v) __asm__("" : "+r"(v))
#define OPAQUE_POINTER(p) OPAQUE(p)
static inline unsigned bits2(v2l m) { return wasm_i64x2_bitmask((v128_t)m); }
static inline unsigned bits4(v4i m) { return wasm_i32x4_bitmask((v128_t)m); }
static inline v2d min2(v2d a, v2d b) { return (v2d)wasm_f64x2_pmin((v128_t)a, (v128_t)b); }
static inline v2d max2(v2d a, v2d b) { return (v2d)wasm_f64x2_pmax((v128_t)a, (v128_t)b); }
static inline v2d sqrt2(v2d a) { return (v2d)wasm_f64x2_sqrt((v128_t)a); }
static inline v4i maxu4(v4i a, v4i b) { return (v4i)wasm_u32x4_max((v128_t)a, (v128_t)b); }
static inline v2d load1(const double *p) { return (v2d)wasm_v128_load64_zero(p); }
static inline v2d load_both(const double *p) {
  v128_t v = wasm_v128_load64_zero(p);
  OPAQUE(v); /* or clang makes a splat of the two */
  double x = wasm_f64x2_extract_lane(v, 0);
  OPAQUE(x); /* or clang makes a shuffle, which takes longer in Cranelift */
  return (v2d)wasm_f64x2_replace_lane(v, 1, x);
}
static inline v2d load_pair(const double *p, const double *q) {
  v128_t v = wasm_v128_load64_zero(p);
  OPAQUE(v); /* or clang makes a splat and an insertion of the two */
  return (v2d)wasm_f64x2_replace_lane(v, 1, *q);
}
#define RELOAD() __asm__ volatile("" ::: "memory")
static inline v2d lows(v2d a, v2d b) {
  double x = b[0];
  OPAQUE(x); /* or clang makes a shuffle, which is two and an or in Cranelift */
  return (v2d)wasm_f64x2_replace_lane((v128_t)a, 1, x);
}
static inline v2d highs(v2d a, v2d b) {
  double x = a[1];
  OPAQUE(x);
  return (v2d)wasm_f64x2_replace_lane((v128_t)b, 0, x);
}
static inline v2d swap(v2d a) { return (v2d)wasm_i64x2_shuffle((v128_t)a, (v128_t)a, 1, 0); }
#else
#define RELOAD() (void)0
#define OPAQUE(v) __asm__("" : "+x"(v))
#define OPAQUE_POINTER(p) (void)0
static inline unsigned bits2(v2l m) { return _mm_movemask_pd((__m128d)m); }
static inline unsigned bits4(v4i m) { return _mm_movemask_ps((__m128)m); }
static inline v2d min2(v2d a, v2d b) { return (v2d)_mm_min_pd((__m128d)b, (__m128d)a); }
static inline v2d max2(v2d a, v2d b) { return (v2d)_mm_max_pd((__m128d)b, (__m128d)a); }
static inline v2d sqrt2(v2d a) { return (v2d)_mm_sqrt_pd((__m128d)a); }
static inline v4i maxu4(v4i a, v4i b) { return (v4i)_mm_max_epu32((__m128i)a, (__m128i)b); }
static inline v2d load1(const double *p) { return (v2d)_mm_load_sd(p); }
static inline v2d load_both(const double *p) { return (v2d)_mm_loaddup_pd(p); }
static inline v2d load_pair(const double *p, const double *q) { return (v2d){*p, *q}; }
static inline v2d lows(v2d a, v2d b) { return (v2d)_mm_unpacklo_pd((__m128d)a, (__m128d)b); }
static inline v2d highs(v2d a, v2d b) { return (v2d)_mm_unpackhi_pd((__m128d)a, (__m128d)b); }
static inline v2d swap(v2d a) { return (v2d)_mm_shuffle_pd((__m128d)a, (__m128d)a, 1); }
#endif

static inline v2d abs2(v2d a) { return (v2d)((v2l)a & INT64_MAX); }

static inline v2d square2(v2d a) { return a * a; }

/* flip changes the sign of the lanes where sign is INT64_MIN, and of none where it is 0. It subtracts, since an
 * xor must not take what was just loaded (see above). */
static inline v2d flip(v2d a, v2l sign) { return (v2d)((v2u)a - (v2u)sign); }

/* with_bits is a with the bits of m set. Where m is a mask that is a NaN, n, and max2(b, n) is b: a choice by a mask
 * in one instruction. */
static inline v2d with_bits(v2d a, v2l m) {
  OPAQUE(m); /* or clang makes a choice of it, for which Cranelift must have m in xmm0 */
  return (v2d)((v2l)a | m);
}

/* least and most are those of the two lanes, without a branch. */
static inline double least(v2d a) { return min2(swap(a), a)[0]; }
static inline double most(v2d a) { return max2(highs(a, a), a)[0]; }

#endif
