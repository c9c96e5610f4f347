/* select.h: order statistics of an array, in linear time. */
#ifndef PENSTOCK_SELECT_H
#define PENSTOCK_SELECT_H
#include "../common/simd.h"

/* part moves the values of a[from, to) that are below the pivot to the front and
 * returns where the others begin. No branch depends on the values; the step
 * forward comes from a lane mask, since a comparison's 0 or 1 costs Cranelift a
 * wait for what was in the register. */
static inline int32_t part(double *a, int32_t from, int32_t to, double pivot) {
  char *less = (char *)(a + from);
  double *p = a + from, *end = a + to;
  v2d limit = both(pivot);
  for (; p + 2 <= end; p += 2) {
    v2d v = load2(p);
    unsigned below = bits2((v2l)(v < limit));
    p[0] = *(double *)less;
    *(double *)less = v[0];
    less += (below & 1) << 3;
    p[1] = *(double *)less;
    *(double *)less = v[1];
    less += (below & 2) << 2;
  }
  if (p < end) {
    double v = *p;
    *p = *(double *)less;
    *(double *)less = v;
    if (v < pivot) less += sizeof(double);
  }
  return (int32_t)((double *)less - a);
}

/* sort8 sorts eight values with Batcher's network of 19 comparators, without a branch. */
NOINLINE static void sort8(double *a) {
  static const unsigned char network[][2] = {{0, 1}, {2, 3}, {4, 5}, {6, 7}, {0, 2}, {1, 3}, {4, 6}, {5, 7}, {1, 2}, {5, 6},
                                             {0, 4}, {3, 7}, {1, 5}, {2, 6}, {1, 4}, {3, 6}, {2, 4}, {3, 5}, {3, 4}};
  v2d v[8];
  for (int i = 0; i < 8; i++) v[i] = load1(a + i);
#pragma clang loop unroll(full)
  for (int i = 0; i < 19; i++) {
    v2d x = v[network[i][0]], y = v[network[i][1]];
    v[network[i][0]] = min2(x, y);
    v[network[i][1]] = max2(x, y);
  }
  for (int i = 0; i < 8; i++) a[i] = v[i][0];
}

/* middle is the median of three values of a[from, to), chosen by *seed. */
static inline double middle(const double *a, int32_t from, int32_t to, uint32_t *seed) {
  v2d pick[3];
  for (int i = 0; i < 3; i++) {
    *seed = *seed * 1664525u + 1013904223u;
    pick[i] = load1(a + from + (int32_t)((uint64_t)(*seed >> 8) * (uint32_t)(to - from) >> 24));
  }
  return max2(min2(pick[0], pick[1]), min2(max2(pick[0], pick[1]), pick[2]))[0];
}

/* nth moves the value of rank k (from 0) of a[first, last) to a[k], smaller ones
 * before it and larger ones after it: quickselect (Hoare 1961). The pivots are
 * pseudo-random, and equal values are put aside together: linear time for any
 * input. The last few are sorted, with neighbours if there are less than eight:
 * those are in order with them already. */
NOINLINE static double nth(double *a, int32_t first, int32_t last, int32_t k) {
  uint32_t seed = 2463534242u;
  int32_t from = first, to = last, few = last - first < 8 ? 1 : 8;
  while (to - from > few) {
    double pivot = middle(a, from, to, &seed);
    int32_t m = part(a, from, to, pivot);
    if (k < m) {
      to = m;
    } else if (m > from) {
      from = m;
    } else { /* the pivot is the least: put its equals aside */
      for (int32_t i = from; i < to; i++) {
        double v = a[i];
        a[i] = a[m];
        a[m] = v;
        m += v == pivot;
      }
      if (k < m) return pivot;
      from = m;
    }
  }
  if (few == 8) sort8(a + (from < last - 8 ? from : last - 8));
  return a[k];
}

/* most_of is the largest of a[0, n), n > 0. */
static double most_of(const double *a, int32_t n) {
  v2d largest = both(a[0]);
  for (; n >= 2; n -= 2, a += 2) largest = max2(load2(a), largest);
  double m = most(largest);
  return n && m < *a ? *a : m;
}

/* median of a[0, n), n > 0, whose order changes. */
static double median(double *a, int32_t n) {
  int32_t k = n / 2;
  double high = nth(a, 0, n, k);
  if (n & 1) return high;
  return 0.5 * (most_of(a, k) + high);
}

/* keep copies those of a[0, n) that lie in [low, high] to out and returns how
 * many; *below is how many lie below. It writes to a[n] and one place beyond
 * what it keeps. */
NOINLINE static int32_t keep(double *a, int32_t n, double low, double high, double *out, int32_t *below) {
  v2d lo = both(low), hi = both(high);
  v2l under = {0, 0};
  char *to = (char *)out;
  a[n] = __builtin_inf();
  for (double *end = a + n; a < end; a += 2) {
    v2d v = load2(a);
    v2l less = v < lo;
    unsigned within = bits2(less | (v2l)(hi < v)) ^ 3;
    under -= less;
    *(double *)to = v[0];
    to += (within & 1) << 3;
    *(double *)to = v[1];
    to += (within & 2) << 2;
  }
  OPAQUE(under); /* or clang counts in 32 bits, which takes a shuffle in each turn */
  *below = (int32_t)(under[0] + under[1]);
  return (int32_t)((double *)to - out);
}

#define SAMPLE 121

/* narrow copies to out a part of a[0, n) that, sorted, would be that of the ranks
 * from first to last and some beside them, and returns how many; *below is the
 * rank of the least. A sample says where to look (Floyd and Rivest 1975); where
 * it misleads, all is copied. It overwrites a[n]. */
static int32_t narrow(double *a, int32_t n, int32_t first, int32_t last, double *out, int32_t *below) {
  if (n > 4 * SAMPLE) {
    double sample[SAMPLE];
    int32_t step = n / SAMPLE, margin = 12; /* 2.2 times the standard deviation of a sample's rank, sqrt(121)/2 */
    for (int32_t i = 0; i < SAMPLE; i++) sample[i] = a[i * step];
    int32_t from = first * SAMPLE / n - margin, to = last * SAMPLE / n + margin;
    double low = from < 0 ? -__builtin_inf() : nth(sample, 0, SAMPLE, from);
    double high = to >= SAMPLE ? 1e300 : nth(sample, from < 0 ? 0 : from, SAMPLE, to);
    int32_t kept = keep(a, n, low, high, out, below);
    if (first >= *below && last < *below + kept) return kept;
  }
  return keep(a, n, -__builtin_inf(), 1e300, out, below);
}

#endif
