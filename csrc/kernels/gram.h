// Inner products in float64 over eight virtual lanes, so that every target folds the same sums.
// Reference: tests/reference/gram.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

typedef double F64s __attribute__((vector_size(64)));
typedef float F32x8 __attribute__((vector_size(32)));

void dot(const float* a, const float* b, std::size_t n_elements, double lanes[8]) {
  const float* inputs[2] = {a, b};
  F64s sum = load<F64s>(lanes);
  for_each_block<8>(inputs, 2, n_elements,
                    [&](const float* const* rows, std::size_t first, std::size_t,
                        std::size_t) __attribute__((always_inline)) {
                      const F64s x = __builtin_convertvector(load<F32x8>(rows[0] + first), F64s);
                      const F64s y = __builtin_convertvector(load<F32x8>(rows[1] + first), F64s);
                      sum = sum + x * y;
                    });
  store(lanes, sum);
}

}  // namespace
}  // namespace tallies
