// Entries of a task vector dropped at random, and the others scaled up (DARE).
// Reference: tests/reference/dare.py.
#pragma once

#include "core/table.h"
#include "kernels/blocks.h"
#include "kernels/chance.h"

namespace tallies {
namespace {

// x = stays(x, i) ? factor * x : +0, in place; NaN stays.
template <class Stays>
TALLIES_INLINE void drop_unless(float* x, std::size_t n_elements, F32s factor, const Stays& stays) {
  const float* input = x;
  for_each_block<kLanes>(
      &input, 1, n_elements,
      [&](const float* const* rows, std::size_t first, std::size_t i, std::size_t n)
          __attribute__((always_inline)) {
            const F32s v = load<F32s>(rows[0] + first);
            const F32s y = select(either(stays(v, i), unordered(v)), v * factor, F32s{});
            if (n == kLanes) return store(x + i, y);
            float last[kLanes];
            store(last, y);
            __builtin_memcpy(x + i, last, n * sizeof(float));
          });
}

void drop(const DropArgs& args) {
  const Chances chances(args.key, args.first);
  const I32s chance = all(args.chance);
  drop_unless(args.x, args.n, all(args.factor),
              [&](F32s, std::size_t i)
                  __attribute__((always_inline)) { return greater(chance, chances.at(i)); });
}

}  // namespace
}  // namespace tallies
