// exp and tanh in float32 by polynomials of fixed arithmetic, so that every target gives the same
// bits; within 2 units in the last place. Reference: tests/reference/elementary.py.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// For y >= 0; beyond 88, and for NaN, that of 88. 2^k p(r) with y = k ln 2 + r, |r| <= ln 2 / 2.
TALLIES_INLINE F32s exp_of(F32s y) {
  y = floats_of(smaller(bits_of(y), bits_of(all(88.0f))));
  // The sum's last bit is worth 1, so that it rounds to a whole number, which its pattern holds.
  const F32s shifter = all(12582912.0f);
  const F32s shifted = y * all(1.44269504f) + shifter;
  const F32s k = shifted - shifter;
  const F32s r = (y - k * all(0.693359375f)) - k * all(-2.12194440e-4f);
  F32s p = all(1.9875691500e-4f);
  p = p * r + all(1.3981999507e-3f);
  p = p * r + all(8.3334519073e-3f);
  p = p * r + all(4.1665795894e-2f);
  p = p * r + all(1.6666665459e-1f);
  p = p * r + all(5.0000001201e-1f);
  p = p * (r * r) + r + all(1.0f);
  return p * floats_of((bits_of(shifted) - bits_of(shifter) + all(127)) << 23);
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
  const F32s far = all(1.0f) - all(2.0f) / (exp_of(t + t) + all(1.0f));
  return select(is_far, floats_of(bits_of(far) | (bits_of(z) & bits_of(all(-0.0f)))), near);
}

}  // namespace
}  // namespace tallies
