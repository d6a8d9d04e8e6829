// Two arrays side by side: their difference, and counts of the elements in which they are at odds.
// Reference: tests/reference/differences.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

void contrast(const float* a, const float* b, float* delta, std::size_t n_elements, Contrast& sum) {
  const float* inputs[2] = {a, b};
  I32s nonfinite{}, flips{}, largest{};
  map_blocks<kLanes>(
      inputs, 2, delta, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, float* to) {
        const F32s x = load<F32s>(rows[0] + first), y = load<F32s>(rows[1] + first);
        const I32s size_x = magnitude(x), size_y = magnitude(y), limit = all(kInfinityBits - 1);
        const Mask special = either(greater(size_x, limit), greater(size_y, limit));
        const Mask neither_zero = both(greater(size_x, I32s{}), greater(size_y, I32s{}));
        const Mask opposite = both(greater(I32s{}, bits_of(x) ^ bits_of(y)), neither_zero);
        const F32s d = select(special, F32s{}, y - x);
        nonfinite = count_if(special, nonfinite);
        flips = count_if(but_not(opposite, special), flips);
        largest = larger(largest, magnitude(d));
        store(to, d);
      });
  sum.n_nonfinite += total<std::uint64_t>(nonfinite);
  sum.n_flips += total<std::uint64_t>(flips);
  if (largest_lane(largest) > sum.largest) sum.largest = largest_lane(largest);
}

}  // namespace
}  // namespace tallies
