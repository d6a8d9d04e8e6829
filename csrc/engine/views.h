// What several passes do with a tile: sums, and cuts where a threshold changes.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "engine/fingerprints.h"
#include "engine/reader.h"
#include "engine/set_bits.h"

namespace tallies {

// Leaves a job the arrays of these sources of it; returns the sources over what is left.
inline std::vector<Source> only(Job& job, std::span<const Source> sources) {
  std::vector<Source> kept(sources.begin(), sources.end());
  std::vector<Array> arrays;
  for (Source& source : kept) {
    const auto from = job.inputs.begin() + source.array;
    source.array = static_cast<std::uint16_t>(arrays.size());
    arrays.insert(arrays.end(), from, from + static_cast<std::ptrdiff_t>(n_arrays(source.form)));
  }
  job.inputs = std::move(arrays);
  return kept;
}

// Over eight lanes, as the kernel adds them.
inline double sum_magnitudes(const float* x, std::size_t n) {
  double lanes[8] = {};
  kernels().sum_magnitudes(x, n, lanes);
  return std::accumulate(lanes, lanes + 8, 0.0);
}

// Calls body(first, n) for the stretches of n elements from `begin` on in which no expert passes
// its cutoff, with the floors that hold there.
template <class Body>
void split_at_cutoffs(std::uint64_t begin, std::size_t n, const std::vector<std::int32_t>& floors,
                      const std::vector<std::uint64_t>& cutoffs, std::vector<std::int32_t>& here,
                      const Body& body) {
  const std::uint64_t end = begin + n;
  for (std::uint64_t at = begin; at < end;) {
    std::uint64_t to = end;
    here = floors;
    for (std::size_t e = 0; e < cutoffs.size(); ++e) {
      if (at >= cutoffs[e])
        here[e] = raised(floors[e]);
      else
        to = std::min(to, cutoffs[e]);
    }
    body(static_cast<std::size_t>(at - begin), static_cast<std::size_t>(to - at));
    at = to;
  }
}

}  // namespace tallies
