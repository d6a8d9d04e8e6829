// Ranks and merges one tensor in memory: on all threads, or, where it is small, on the caller's
// alone and without any of a plan's workspace. The results are the same. 0 threads stands for one
// on each core.
#pragma once

#include "core/array.h"

namespace tallies {

// Returns the bits of the rank-th largest magnitude, counted from 1.
std::int32_t kth_magnitude(View x, std::size_t n, std::uint64_t rank, int n_threads);

// The entries of one expert that pass.
struct Kept {
  std::int32_t floor;    // those with bits(|delta|) > floor
  std::uint64_t cutoff;  // from this element on bits(|delta|) > floor + 1
};

std::vector<Kept> merge(const ArrayMerge&, int n_threads);

}  // namespace tallies
