// Ranks and merges tensors in memory, small ones on the caller's thread alone: threads are as many
// as the work is worth, at most n_threads. The results are the same.
#pragma once

#include <bit>
#include <limits>

#include "core/array.h"
#include "engine/search.h"

namespace tallies {

// Returns the magnitude of these bits.
inline float float_of(std::int32_t bits) {
  return bits > kInfinityBits ? std::numeric_limits<float>::quiet_NaN()
                              : std::bit_cast<float>(bits);
}

// Returns the rank-th largest magnitude, counted from 1, and how many are above and equal.
Threshold rank_magnitude(View x, std::size_t n, std::uint64_t rank, int n_threads);

// The entries of one expert that pass.
struct Kept {
  std::int32_t floor;        // those with bits(|delta|) > floor
  std::uint64_t cutoff;      // from this element on bits(|delta|) > floor + 1
  std::uint64_t n_left_out;  // that fail although they equal the threshold, which is not zero
};

struct Merged {
  std::vector<Kept> kept;
  bool overflow;  // a result is infinite or NaN
};

Merged merge(const ArrayMerge&, int n_threads);

// Merges one tensor after the other, and small ones beside each other.
std::vector<Merged> merge_all(const std::vector<ArrayMerge>&, int n_threads);

}  // namespace tallies
