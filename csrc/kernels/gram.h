// Sums in float64 over eight virtual lanes, so that every target folds them in the same order.
// Reference: tests/reference/gram.py, emr.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

typedef double F64s __attribute__((vector_size(4 * kLanes)));
typedef float HalfF32s __attribute__((vector_size(2 * kLanes)));

// Adds kSums terms of the inputs' i-th elements to lane i % 8 of each sum.
template <int kInputs, int kSums, class Terms>
TALLIES_INLINE void sum_lanes(const float* const* inputs, std::size_t n_elements,
                              double (*lanes)[8], const Terms& terms) {
  constexpr int kDoubles = kLanes / 2, kVectors = 8 / kDoubles;
  F64s sum[kSums][kVectors];
  __builtin_memcpy(sum, lanes, sizeof sum);
  for_each_block<8>(inputs, kInputs, n_elements,
                    [&](const float* const* rows, std::size_t first, std::size_t, std::size_t)
                        __attribute__((always_inline)) {
                          for (int v = 0; v < kVectors; ++v) {
                            F64s x[kInputs];
                            for (int row = 0; row < kInputs; ++row)
                              x[row] = __builtin_convertvector(
                                  load<HalfF32s>(rows[row] + first + v * kDoubles), F64s);
                            for (int s = 0; s < kSums; ++s) sum[s][v] = sum[s][v] + terms(x, s);
                          }
                        });
  __builtin_memcpy(lanes, sum, sizeof sum);
}

void dot(const float* a, const float* b, std::size_t n, double lanes[8]) {
  const float* inputs[2] = {a, b};
  sum_lanes<2, 1>(inputs, n, reinterpret_cast<double (*)[8]>(lanes),
                  [](const F64s* x, int) __attribute__((always_inline)) { return x[0] * x[1]; });
}

// Several at once read x once, and hide the latency of the additions.
template <int kOthers>
void dots_of(const float* x, const float* const* others, std::size_t n, double* sums) {
  const float* inputs[kOthers + 1] = {x};
  for (int i = 0; i < kOthers; ++i) inputs[i + 1] = others[i];
  double lanes[kOthers][8] = {};
  sum_lanes<kOthers + 1, kOthers>(
      inputs, n, lanes,
      [](const F64s* rows, int i) __attribute__((always_inline)) { return rows[0] * rows[i + 1]; });
  for (int i = 0; i < kOthers; ++i) {
    sums[i] = 0;
    for (const double lane : lanes[i]) sums[i] += lane;
  }
}

void dots(const float* x, const float* const* others, int n_others, std::size_t n, double* sums) {
  int i = 0;
  for (; i + 4 <= n_others; i += 4) dots_of<4>(x, others + i, n, sums + i);
  if (n_others - i == 3) return dots_of<3>(x, others + i, n, sums + i);
  if (n_others - i == 2) return dots_of<2>(x, others + i, n, sums + i);
  if (n_others - i == 1) return dots_of<1>(x, others + i, n, sums + i);
}

void sum_magnitudes(const float* x, std::size_t n, double lanes[8]) {
  sum_lanes<1, 1>(&x, n, reinterpret_cast<double (*)[8]>(lanes),
                  [](const F64s* v, int) __attribute__((always_inline)) {
                    return (F64s)((U64s)v[0] & 0x7fffffffffffffffull);
                  });
}

}  // namespace
}  // namespace tallies
