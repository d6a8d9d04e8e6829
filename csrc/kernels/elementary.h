// exp and tanh in float32 by polynomials of fixed arithmetic, so that every target gives the same
// bits; within 2 units in the last place. Reference: tests/reference/elementary.py.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// For y >= 0; beyond 88, and for NaN, that of 88. 2^k p(r) with y = k ln 2 + r, |r| <= ln 2 / 2.
// Each step is done for all vectors before the next: each waits for the one before it.
template <std::size_t kVectors>
TALLIES_INLINE void exp_of(F32s (&y)[kVectors]) {
  F32s shifted[kVectors], p[kVectors];
  for (std::size_t i = 0; i < kVectors; ++i) {
    y[i] = floats_of(smaller(bits_of(y[i]), bits_of(all(88.0f))));
    // The sum's last bit is worth 1, so that it rounds to a whole number, which its pattern holds.
    const F32s shifter = all(12582912.0f);
    shifted[i] = y[i] * all(1.44269504f) + shifter;
    const F32s k = shifted[i] - shifter;
    y[i] = (y[i] - k * all(0.693359375f)) - k * all(-2.12194440e-4f);
  }
  for (std::size_t i = 0; i < kVectors; ++i) p[i] = all(1.9875691500e-4f);
  const auto step = TALLIES_LAMBDA(float term) {
    for (std::size_t i = 0; i < kVectors; ++i) p[i] = p[i] * y[i] + all(term);
  };
  step(1.3981999507e-3f);
  step(8.3334519073e-3f);
  step(4.1665795894e-2f);
  step(1.6666665459e-1f);
  step(5.0000001201e-1f);
  // The lower bits of `shifted` are k, which goes to the exponent.
  for (std::size_t i = 0; i < kVectors; ++i) {
    p[i] = p[i] * (y[i] * y[i]) + y[i] + all(1.0f);
    y[i] = floats_of(bits_of(p[i]) + (bits_of(shifted[i]) << 23));
  }
}

// A polynomial up to 0.625, beyond it 1 - 2 / (exp(2 |z|) + 1). Below 2^-12 the polynomial rounds
// to z itself, so a vector of such values, the usual case, is done.
TALLIES_INLINE F32s tanh_of(F32s z) {
  const I32s size = magnitude(z);
  if (!any(greater(size, bits_of(all(0x1p-12f))))) return z;
  const F32s square = z * z;
  F32s p = all(-5.70498872745e-3f);
  p = p * square + all(2.06390887954e-2f);
  p = p * square + all(-5.37397155531e-2f);
  p = p * square + all(1.33314422036e-1f);
  p = p * square + all(-3.33332819422e-1f);
  const F32s near = p * square * z + z;
  const Mask is_far = greater(size, bits_of(all(0.625f)));
  if (!any(is_far)) return near;
  const F32s t = floats_of(smaller(size, bits_of(all(16.0f))));
  F32s power[1] = {t + t};
  exp_of(power);
  const F32s far = all(1.0f) - all(2.0f) / (power[0] + all(1.0f));
  return select(is_far, floats_of(bits_of(far) | (bits_of(z) & bits_of(all(-0.0f)))), near);
}

// The same of several vectors, of which the usual case is looked for once.
template <std::size_t kVectors>
TALLIES_INLINE void tanh_of(F32s (&z)[kVectors]) {
  I32s largest = magnitude(z[0]);
  for (std::size_t i = 1; i < kVectors; ++i) largest = larger(largest, magnitude(z[i]));
  if (!any(greater(largest, bits_of(all(0x1p-12f))))) return;
  for (F32s& one : z) one = tanh_of(one);
}

}  // namespace
}  // namespace tallies
