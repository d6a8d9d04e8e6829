// Inner products in float64 over eight virtual lanes, so that every target folds the same sums.
// Reference: tests/reference/gram.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

typedef double F64s __attribute__((vector_size(4 * kLanes)));
typedef float HalfF32s __attribute__((vector_size(2 * kLanes)));

void dot(const float* a, const float* b, std::size_t n_elements, double lanes[8]) {
  constexpr int kDoubles = kLanes / 2, kVectors = 8 / kDoubles;
  const float* inputs[2] = {a, b};
  F64s sum[kVectors];
  __builtin_memcpy(sum, lanes, sizeof sum);
  for_each_block<8>(inputs, 2, n_elements,
                    [&](const float* const* rows, std::size_t first, std::size_t, std::size_t)
                        __attribute__((always_inline)) {
                          for (int v = 0; v < kVectors; ++v) {
                            const std::size_t at = first + v * kDoubles;
                            const auto x = load<HalfF32s>(rows[0] + at);
                            const auto y = load<HalfF32s>(rows[1] + at);
                            sum[v] = sum[v] + __builtin_convertvector(x, F64s) *
                                                  __builtin_convertvector(y, F64s);
                          }
                        });
  __builtin_memcpy(lanes, sum, sizeof sum);
}

}  // namespace
}  // namespace tallies
