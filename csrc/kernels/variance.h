// The variance over the experts of an element: in float64, and first in float32 where that decides.
// Reference: tests/reference/sce.py.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// In float64 and rounded once. Differences from the first expert keep it exactly zero where all
// agree, and the subtraction below from cancelling: it leaves at least `squares`.
struct Variance {
  Doubles first{}, sum{}, squares{};
  TALLIES_INLINE void add(F32s delta, bool is_first) {
    const Doubles x = to_doubles(delta);
    if (is_first) {
      first = x;
      sum = x - x;  // of NaN and infinity NaN
      return;
    }
    const Doubles d = x - first;
    sum = sum + d;
    squares = squares + d * d;
  }
  TALLIES_INLINE F32s value(int n_experts) const {
    const double n = n_experts;
    return to_floats((squares * n - sum * sum) * (1 / (n * n)));
  }
};

// The same in float32, times the square of the number of experts: a quarter of the operations. As
// the subtraction leaves at least `squares`, the error is below 3 n^2 + 4 n + 1 times 2^-24 of it.
struct RoughVariance {
  F32s first{}, sum{}, squares{};
  I32s differs{};
  TALLIES_INLINE void add(F32s delta, bool is_first) {
    if (is_first) {
      first = delta;
      sum = delta - delta;
      return;
    }
    const F32s d = delta - first;
    sum = sum + d;
    squares = squares + d * d;
    differs = differs | bits_of(d);
  }
  TALLIES_INLINE F32s value(int n_experts) const {
    return squares * all(static_cast<float>(n_experts)) - sum * sum;
  }
};

// Tells which rough variances are surely above or below a bracket of patterns.
struct VarianceBracket {
  // Squares neither vanish nor overflow where a variance is near an end between these two.
  static constexpr float kSmallest = 1e-30f, kLargest = 1e30f;
  static constexpr int kMostExperts = 64;  // whose error is below a hundredth
  F32s below, above;
  TALLIES_INLINE VarianceBracket(std::int32_t low, std::int32_t high, int n_experts) {
    const float n = static_cast<float>(n_experts), error = 4 * n * (n + 4) * 0x1p-24f + 0x1p-20f;
    const auto fits = [=](float end) {
      return n_experts <= kMostExperts && end >= kSmallest && end <= kLargest;
    };
    const float from = __builtin_bit_cast(float, low), to = __builtin_bit_cast(float, high);
    below = all(fits(from) ? from * (n * n) * (1 - error) : -__builtin_inff());
    above = all(fits(to) ? to * (n * n) * (1 + error) : __builtin_inff());
  }
  TALLIES_INLINE Mask is_above(F32s rough) const { return greater(rough, above); }
  TALLIES_INLINE Mask is_below(F32s rough) const { return greater(below, rough); }
};

}  // namespace
}  // namespace tallies
