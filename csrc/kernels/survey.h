// Counts and lists of the magnitudes of a task vector, which is not stored.
// Reference: tests/reference/select.py.
#pragma once

#include "kernels/blocks.h"
#include "kernels/half.h"

namespace tallies {
namespace {

// Calls body(magnitudes, i, n) for each vector of bits(|expert - base|); with a null base the
// expert is the delta. `i` counts elements in lane order, `n` of the vector's lanes are not
// padding.
template <class T, class Body>
TALLIES_INLINE void for_each_magnitude(const void* base, const void* expert, std::size_t n_elements,
                                       const Body& body) {
  using Word = typename T::Word;
  const Word* inputs[2] = {static_cast<const Word*>(expert), static_cast<const Word*>(base)};
  for_each_block<kPair>(
      inputs, base == nullptr ? 1 : 2, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        prefetch_block(rows[0] + first, kPair);
        Pair x = T::load2(rows[0] + first);
        if (base != nullptr) {
          prefetch_block(rows[1] + first, kPair);
          const Pair b = T::load2(rows[1] + first);
          for (int h = 0; h < 2; ++h) x.v[h] = x.v[h] - b.v[h];
        }
        body(magnitude(x.v[0]), magnitude(x.v[1]), i, n);
      });
}

// The ends of the bracket are counted apart from what is inside: where many magnitudes are equal
// the ends hold most of them, and vectors count what would else be listed one by one. A bracket of
// one pattern, the usual case there, takes half of the comparisons.
template <class T, bool kOnePattern, bool kDense, bool kPositions>
void survey_bracket(const SurveyArgs& args, SurveyTally& tally) {
  I32s from_low{}, from_high{}, above_high{};
  const I32s below_low = all(args.low - 1), low = all(floor_at(args.low));
  const I32s below_high = all(args.high - 1), high = all(floor_at(args.high));
  const bool has_interior = args.high - args.low > 1;
  std::uint32_t* interior = args.interior;
  std::uint32_t* positions = args.positions;
  std::size_t n_padding = 0;
  for_each_magnitude<T>(
      args.base, args.expert, args.n,
      TALLIES_LAMBDA(I32s first, I32s second, std::size_t i, std::size_t n) {
        n_padding += kPair - n;
        const I32s sizes[2] = {first, second};
        for (int h = 0; h < 2; ++h) {
          const I32s size = sizes[h];
          from_low = count_if(greater(size, below_low), from_low);
          above_high = count_if(greater(size, high), above_high);
          if constexpr (!kOnePattern) {
            const Mask at_high = greater(size, below_high);
            from_high = count_if(at_high, from_high);
            if (has_interior) {
              const Mask inside = but_not(greater(size, low), at_high);
              if (kDense || any(inside)) {
                if constexpr (kPositions)
                  positions +=
                      compress(positions, inside,
                               elements_of_half<T>(h) + static_cast<std::int32_t>(args.first + i));
                interior += compress(interior, inside, size);
              }
            }
          }
        }
      });
  // Padding has magnitude zero, which is inside nothing and at or above the pattern 0 alone.
  const auto without_padding = [&](I32s counts, std::int32_t end) {
    return total<std::uint64_t>(counts) - (end == 0 ? n_padding : 0);
  };
  tally.n_interior = static_cast<std::size_t>(interior - args.interior);
  tally.from_low = without_padding(from_low, args.low);
  tally.above_high = total<std::uint64_t>(above_high);
  tally.from_high = kOnePattern ? tally.from_low : without_padding(from_high, args.high);
  tally.above_low = kOnePattern ? tally.above_high : tally.from_high + tally.n_interior;
}

template <class T>
void survey(const SurveyArgs& args, SurveyTally& tally) {
  if (args.low == args.high)
    survey_bracket<T, true, false, false>(args, tally);
  else if (args.positions != nullptr)
    survey_bracket<T, false, false, true>(args, tally);
  else if (args.is_dense)
    survey_bracket<T, false, true, false>(args, tally);
  else
    survey_bracket<T, false, false, false>(args, tally);
}

template <class T>
void magnitudes(const void* base, const void* expert, std::size_t n_elements, std::uint32_t* out) {
  for_each_magnitude<T>(
      base, expert, n_elements,
      TALLIES_LAMBDA(I32s first, I32s second, std::size_t i, std::size_t n) {
        first = rank_of(first);
        second = rank_of(second);
        std::uint32_t block[kPair];
        if constexpr (T::kInterleaved) {
          for (int lane = 0; lane < kLanes; ++lane) {
            block[2 * lane] = static_cast<std::uint32_t>(lane_of(first, lane));
            block[2 * lane + 1] = static_cast<std::uint32_t>(lane_of(second, lane));
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
