// Slots for the magnitudes of a row before they are ranked (engine/row_ranks.cpp).
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Slots of equal magnitudes: those whose lower half of the pattern is zero, kShortSlots upper
// halves from `low` on.
std::size_t short_slots(const float* row, std::size_t n, std::int32_t low, std::uint32_t* patterns,
                        std::uint32_t* slots, std::uint32_t* others) {
  static_assert((kShortSlots & (kShortSlots - 1)) == 0);
  const I32s first = all(low << 16), elsewhere = all(~((kShortSlots - 1) << 16));
  const I32s zero = I32s{}, slot_of_zero = all(1), slot_of_first = all(2);
  const I32s elements = lane_numbers();
  const std::uint32_t* const begin = others;
  for_each_block<kLanes>(
      &row, 1, n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t i, std::size_t) {
        const I32s size = rank_of(magnitude(load<F32s>(rows[0] + at)));
        const I32s above = size - first;
        const Mask has_none = common_bits(above, elsewhere), is_zero = equal(size, zero);
        const Mask is_other = but_not(has_none, is_zero);
        store(patterns + i, size);
        store(slots + i,
              select(is_zero, slot_of_zero, select(has_none, zero, (above >> 16) + slot_of_first)));
        others += compress(others, is_other, elements + all(static_cast<std::int32_t>(i)));
      });
  return static_cast<std::size_t>(others - begin);
}

// Slots of about as many magnitudes each, n_slots * x / (x + middle), of which infinity and NaN
// have the last. Every operation grows with x, so no magnitude is in a slot before that of a
// smaller one.
void even_slots(const float* row, std::size_t n, float middle, std::size_t n_slots,
                std::uint32_t* patterns, std::uint32_t* slots) {
  const auto most = static_cast<float>(n_slots);
  const F32s mid = all(middle), last = all(most), product = all(most * middle);
  const I32s infinity = all(kInfinityBits);
  for_each_block<kLanes>(
      &row, 1, n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t i, std::size_t) {
        const I32s size = rank_of(magnitude(load<F32s>(rows[0] + at)));
        const F32s x = floats_of(smaller(size, infinity));
        store(patterns + i, size);
        store(slots + i, to_ints(last - product / (x + mid)));
      });
}

}  // namespace
}  // namespace tallies
