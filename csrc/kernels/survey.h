// What a pass learns of the magnitudes of a task vector without storing it.
// Reference: tests/reference/select.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Every NaN ranks as this pattern, just above infinity, whatever its payload.
constexpr std::int32_t kNanRank = 0x7f800001;

// Calls body(magnitudes, i, n) for each vector of bits(|expert - base|); with a null base the
// expert is the delta. `i` counts elements in lane order, `n` of the vector's lanes are not padding.
template <class T, class Body>
TALLIES_INLINE void for_each_magnitude(const void* base, const void* expert, std::size_t n_elements,
                                       const Body& body) {
  using Word = typename T::Word;
  const Word* inputs[2] = {static_cast<const Word*>(expert), static_cast<const Word*>(base)};
  for_each_block<kPair>(
      inputs, base == nullptr ? 1 : 2, n_elements,
      [&](const Word* const* rows, std::size_t first, std::size_t i,
          std::size_t n) __attribute__((always_inline)) {
        prefetch_block(rows[0] + first, kPair);
        Pair x = T::load2(rows[0] + first);
        if (base != nullptr) {
          prefetch_block(rows[1] + first, kPair);
          const Pair b = T::load2(rows[1] + first);
          for (int h = 0; h < 2; ++h) x.v[h] = x.v[h] - b.v[h];
        }
        body(smaller(magnitude(x.v[0]), all(kNanRank)), smaller(magnitude(x.v[1]), all(kNanRank)), i,
             n);
      });
}

// Four counts rather than two: with many equal magnitudes the ends of the bracket hold most of
// what is in it, and are then counted by vectors instead of being listed one by one.
template <class T>
void survey(const SurveyArgs& args, SurveyTally& tally) {
  I32s from_low{}, above_low{}, from_high{}, above_high{};
  const I32s low = all(args.low), high = all(args.high);
  const I32s below_low = all(args.low - 1), below_high = all(args.high - 1);
  const bool has_interior = args.high - args.low > 1;
  std::uint32_t* interior = args.interior;
  std::size_t n_padding = 0;
  for_each_magnitude<T>(
      args.base, args.expert, args.n,
      [&](I32s even, I32s odd, std::size_t, std::size_t n) __attribute__((always_inline)) {
        n_padding += kPair - n;
        const I32s sizes[2] = {even, odd};
        for (const I32s& size : sizes) {
          const Mask over_low = greater(size, low);
          const Mask at_high = greater(size, below_high);
          from_low = count_if(greater(size, below_low), from_low);
          above_low = count_if(over_low, above_low);
          from_high = count_if(at_high, from_high);
          above_high = count_if(greater(size, high), above_high);
          if (has_interior) {
            const Mask inside = but_not(over_low, at_high);
            if (any(inside)) interior += compress(interior, inside, size);
          }
        }
      });
  // Padding has magnitude zero, which is inside nothing and at or above the pattern 0 alone.
  tally.from_low = total<std::uint64_t>(from_low) - (args.low == 0 ? n_padding : 0);
  tally.above_low = total<std::uint64_t>(above_low);
  tally.from_high = total<std::uint64_t>(from_high) - (args.high == 0 ? n_padding : 0);
  tally.above_high = total<std::uint64_t>(above_high);
  tally.n_interior = static_cast<std::size_t>(interior - args.interior);
}

template <class T>
void magnitudes(const void* base, const void* expert, std::size_t n_elements, std::uint32_t* out) {
  for_each_magnitude<T>(
      base, expert, n_elements,
      [&](I32s first, I32s second, std::size_t i, std::size_t n) __attribute__((always_inline)) {
        std::uint32_t block[kPair];
        if constexpr (T::kInterleaved) {
          for (int lane = 0; lane < kLanes; ++lane) {
            block[2 * lane] = static_cast<std::uint32_t>(first[lane]);
            block[2 * lane + 1] = static_cast<std::uint32_t>(second[lane]);
          }
        } else {
          store(block, first);
          store(block + kLanes, second);
        }
        __builtin_memcpy(out + i, block, n * sizeof(std::uint32_t));
      });
}

}  // namespace
}  // namespace tallies
