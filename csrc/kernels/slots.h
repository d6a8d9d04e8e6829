// Slots for the magnitudes of a row before they are ranked (engine/row_ranks.cpp).
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Slots of equal magnitudes: those whose lower half of the pattern is zero, kShortSlots upper
// halves from `low` on.
ShortSlots short_slots(const float* row, std::size_t n, std::int32_t low, bool zeros_in_order,
                       std::uint16_t* slots, std::uint32_t* others) {
  const I32s first = all(low << 16), elsewhere = all(~((kShortSlots - 1) << 16));
  const I32s lanes = lane_numbers(), zero = I32s{}, other = all(kOtherSlot);
  // Counters of equal slots wait for each other, and zeros are the most frequent magnitude.
  const I32s slot_of_zero = all(kZeroSlot) + (zeros_in_order ? zero : lanes);
  const std::uint32_t* const begin = others;
  Mask negative_zeros{};
  for_each_block<kLanes>(
      &row, 1, n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t i, std::size_t) {
        const F32s x = load<F32s>(rows[0] + at);
        const I32s size = rank_of(magnitude(x)), above = size - first;
        const Mask has_none = common_bits(above, elsewhere), is_zero = equal(size, zero);
        negative_zeros = either(negative_zeros, equal(bits_of(x), all(INT32_MIN)));
        // short_slot() of the number of the slot, above >> 16.
        const I32s own = ((above >> 12) & all(0x3f0)) | (above >> 22);
        store(slots + i,
              to_halves(unsigned_of(select(is_zero, slot_of_zero, select(has_none, other, own)))));
        // Mostly none: a wrong guess costs less than listing none.
        const Mask is_other = but_not(has_none, is_zero);
        if (any(is_other))
          others += compress(others, is_other, lanes + all(static_cast<std::int32_t>(i)));
      });
  return {static_cast<std::size_t>(others - begin), any(negative_zeros)};
}

// Turns the counts of both halves of a row into the ranks with which their slots begin. The slots
// of a column are one after the other, so that whole vectors are added.
void short_starts(std::uint32_t* first, std::uint32_t* second, std::uint32_t before) {
  constexpr int kColumns = kShortColumns, kVectors = kColumns / kLanes;
  U32s starts[kVectors] = {};
  for (int at = 0; at < kShortSlots; at += kColumns)
    for (int v = 0; v < kVectors; ++v)
      starts[v] += load<U32s>(first + at + v * kLanes) + load<U32s>(second + at + v * kLanes);
  std::uint32_t columns[kColumns];
  __builtin_memcpy(columns, starts, sizeof columns);
  for (std::uint32_t& column : columns) {
    const std::uint32_t n = column;
    column = before;
    before += n;
  }
  __builtin_memcpy(starts, columns, sizeof columns);
  for (int at = 0; at < kShortSlots; at += kColumns)
    for (int v = 0; v < kVectors; ++v) {
      std::uint32_t *const a = first + at + v * kLanes, *const b = second + at + v * kLanes;
      const U32s in_first = load<U32s>(a), in_second = load<U32s>(b);
      store(a, starts[v]);
      store(b, starts[v] + in_first);
      starts[v] += in_first + in_second;
    }
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
