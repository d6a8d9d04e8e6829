// Task vectors without their smallest and their largest entries (Model Breadcrumbs).
// Reference: tests/reference/breadcrumbs.py.
#pragma once

#include "core/table.h"
#include "kernels/stage.h"

namespace tallies {
namespace {

void keep_band(float* x, std::size_t n_elements, std::int32_t floor, std::int32_t ceiling,
               float factor) {
  const I32s low = all(floor), high = all(ceiling);
  const F32s scale = all(factor);
  change<1>(
      {x}, x, n_elements, TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t) {
        const F32s v = load<F32s>(rows[0] + at);
        const I32s rank = rank_of(magnitude(v));
        return keep_if(but_not(greater(rank, low), greater(rank, high)), v, v * scale);
      });
}

std::size_t count_to(const float* x, std::size_t n_elements, std::int32_t bits, std::size_t k) {
  const I32s wanted = all(bits);
  std::size_t i = 0;
  for (; i + kLanes <= n_elements; i += kLanes) {
    const Mask same = equal(rank_of(magnitude(load<F32s>(x + i))), wanted);
    const std::size_t n = count_of(same);
    if (n >= k) break;
    k -= n;
  }
  for (; k > 0 && i < n_elements; ++i) {
    k -= ranked(magnitude_of(x[i])) == bits;
  }
  return i;
}

}  // namespace
}  // namespace tallies
