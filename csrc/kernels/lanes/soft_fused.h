// a * b + c with one rounding, for instruction sets that may lack the instruction.
#pragma once

#include "kernels/lanes/vectors.h"

namespace tallies {
namespace {

#if defined(__FP_FAST_FMAF)
TALLIES_INLINE F32s fused(F32s a, F32s b, F32s c) {
  F32s out;
  for (int lane = 0; lane < kLanes; ++lane) out[lane] = __builtin_fmaf(a[lane], b[lane], c[lane]);
  return out;
}
#else
typedef std::int64_t I64s __attribute__((vector_size(4 * kLanes)));

// The sum in float64, rounded to odd: its last bit is 1 where it is not exact. A float64 has more
// than two bits beyond those of a float32, so that a second rounding of such a sum is as good as
// one of the exact sum. The products of float32 values are exact.
TALLIES_INLINE F64s sum_to_odd(F64s product, F64s c) {
  const F64s sum = product + c, part = sum - product;
  const F64s error = (product - (sum - part)) + (c - part);
  const I64s bits = (I64s)sum;
  // Comparisons are -1 where they hold, and do not hold of NaN, which an infinite sum leaves here.
  const I64s above = (I64s)(error > 0), inexact = above | (I64s)(error < 0);
  const I64s is_even = (bits & 1) - 1;
  const I64s step = ((above ^ (bits >> 63)) & 2) - 1;  // the magnitude grows or shrinks
  return (F64s)(bits + (step & is_even & inexact));
}

TALLIES_INLINE F32s fused(F32s a, F32s b, F32s c) {
  const Doubles product = to_doubles(a) * to_doubles(b), addend = to_doubles(c);
  return to_floats(
      Doubles{sum_to_odd(product.low, addend.low), sum_to_odd(product.high, addend.high)});
}
#endif

}  // namespace
}  // namespace tallies
