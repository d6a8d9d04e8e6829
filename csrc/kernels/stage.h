// The loop that all stages share: float32 deltas are changed in place, and a NaN is never dropped.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Selects y for an x that passes or is NaN, and +0 for others.
TALLIES_INLINE F32s keep_if(Mask passes, F32s x, F32s y) {
  return select(either(passes, unordered(x)), y, F32s{});
}

template <std::size_t kInputs>
struct Rows {
  const float* at[kInputs];
};

// out = body(rows, at, i) for kLanes elements, which lie at rows[...] + at and start at element i.
template <std::size_t kInputs, class Body>
TALLIES_INLINE void change(const Rows<kInputs>& inputs, float* out, std::size_t n_elements,
                           const Body& body) {
  for_each_block<kLanes>(
      inputs.at, kInputs, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const F32s y = body(rows, first, i);
        if (n == kLanes) return store(out + i, y);
        float last[kLanes];
        store(last, y);
        __builtin_memcpy(out + i, last, n * sizeof(float));
      });
}

}  // namespace
}  // namespace tallies
