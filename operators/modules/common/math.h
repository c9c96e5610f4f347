/* math.h: the two functions that kernels need and wasm has no instruction for.
 * Additions and multiplications in a fixed order: the same bits everywhere. */
#ifndef PENSTOCK_MATH_H
#define PENSTOCK_MATH_H
#include <stdint.h>

/* one_minus_exp returns 1 - exp(-x) for x in [0, 700], with a relative error
 * below 4e-16: x = k ln 2 + r, the Taylor series of expm1 at -r (|r| <= 0.35,
 * cut after r^14/14!, 3e-18), then 1 - exp(-x) = (1 - 2^-k) - 2^-k expm1(-r). */
static double one_minus_exp(double x) {
  static const double inverse[] = {1.0 / 2,     1.0 / 6,       1.0 / 24,       1.0 / 120,       1.0 / 720,         1.0 / 5040,        1.0 / 40320,
                                   1.0 / 362880, 1.0 / 3628800, 1.0 / 39916800, 1.0 / 479001600, 1.0 / 6227020800.0, 1.0 / 87178291200.0};
  int64_t k = (int64_t)(x * 1.4426950408889634 + 0.5);
  double r = (double)k * 6.93147180369123816490e-01 - x + (double)k * 1.90821492927058770002e-10; /* -r */
  double p = 0;
  for (int i = x < 0.015625 ? 5 : 12; i >= 0; i--) p = p * r + inverse[i];
  p = r + r * r * p;
  union {
    int64_t bits;
    double value;
  } scale = {(1023 - k) << 52};
  return (1 - scale.value) - scale.value * p;
}

/* normal_quantile returns z with Phi(z) = p, for p in [0.5, 0.9999], to 1e-13.
 * Newton's method from 0, where the normal distribution function is concave
 * and the iteration rises to the root; Phi(z) = 1/2 + phi(z) (z + z^3/3 +
 * z^5/(3*5) + ...) (Marsaglia 2004, Evaluating the Normal Distribution). */
static double normal_quantile(double p) {
  double z = 0;
  for (int i = 0; i < 40; i++) {
    double phi = 0.3989422804014327 * (1 - one_minus_exp(z * z * 0.5));
    double term = z, sum = z;
    for (int j = 3; j < 400 && term > sum * 1e-17; j += 2) {
      term *= z * z / j;
      sum += term;
    }
    z += (p - 0.5 - phi * sum) / phi;
  }
  return z;
}

#endif
