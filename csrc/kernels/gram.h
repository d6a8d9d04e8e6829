// Sums in float64 over eight virtual lanes, so that every target folds them in the same order.
// Reference: tests/reference/gram.py, emr.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Adds term(x[i], y[i]) to lane i % 8.
template <std::size_t kInputs, class Term>
TALLIES_INLINE void sum_lanes(const float* const* inputs, std::size_t n_elements, double lanes[8],
                              const Term& term) {
  constexpr int kDoubles = kLanes / 2, kVectors = 8 / kDoubles;
  F64s sum[kVectors];
  __builtin_memcpy(sum, lanes, sizeof sum);
  for_each_block<8>(
      inputs, kInputs, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t, std::size_t) {
        for (int v = 0; v < kVectors; ++v) {
          F64s x[kInputs];
          for (std::size_t row = 0; row < kInputs; ++row)
            x[row] = to_doubles(load<HalfF32s>(rows[row] + first + v * kDoubles));
          sum[v] = sum[v] + term(x);
        }
      });
  __builtin_memcpy(lanes, sum, sizeof sum);
}

void dot(const float* a, const float* b, std::size_t n, double lanes[8]) {
  const float* inputs[2] = {a, b};
  sum_lanes<2>(inputs, n, lanes, TALLIES_LAMBDA(const F64s* x) { return x[0] * x[1]; });
}

void sum_magnitudes(const float* x, std::size_t n, double lanes[8]) {
  sum_lanes<1>(
      &x, n, lanes,
      TALLIES_LAMBDA(const F64s* v) { return (F64s)((U64s)v[0] & 0x7fffffffffffffffull); });
}

}  // namespace
}  // namespace tallies
