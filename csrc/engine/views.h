// Pieces that several passes share: sources of a job alone, sums, cuts where numbers change.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "core/magnitude.h"
#include "cpu/ops.h"
#include "engine/reader.h"
#include "engine/set_bits.h"

namespace tallies {

// Leaves a job the arrays of these sources of it; returns the sources over the arrays left.
inline std::vector<Source> only(Job& job, std::span<const Source> sources) {
  std::vector<Source> kept(sources.begin(), sources.end());
  std::vector<Array> arrays;
  for (Source& source : kept) {
    const auto from = job.inputs.begin() + source.array;
    source.array = static_cast<std::uint16_t>(arrays.size());
    arrays.insert(arrays.end(), from, from + static_cast<std::ptrdiff_t>(n_arrays(source)));
  }
  job.inputs = std::move(arrays);
  return kept;
}

// Returns the sum of eight lanes, in their order, to which a kernel adds: add_to(lanes).
template <class AddTo>
double eight_lanes(const AddTo& add_to) {
  double lanes[8] = {};
  add_to(lanes);
  return std::accumulate(lanes, lanes + 8, 0.0);
}

inline double sum_magnitudes(const float* x, std::size_t n) {
  return eight_lanes([&](double lanes[8]) { kernels().sum_magnitudes(x, n, lanes); });
}

// The packed mask of the values of a chunk that are infinite or NaN.
class NonFiniteMask {
 public:
  NonFiniteMask(const float* x, std::size_t n) {
    kernels().magnitude_mask(x, kInfinityBits - 1, bits_, n);
  }
  operator const std::uint8_t*() const { return bits_; }

 private:
  std::uint8_t bits_[kChunk / 8];
};

// Calls body(row, at, n) for each piece of n_elements from `first` on that lies in one row of so
// many elements; `at` counts from `first`.
template <class Body>
void split_at_rows(std::uint64_t first, std::size_t n_elements, std::uint64_t row_length,
                   const Body& body) {
  for (std::size_t at = 0, n; at < n_elements; at += n) {
    const std::uint64_t row = (first + at) / row_length;
    n = static_cast<std::size_t>(
        std::min<std::uint64_t>(n_elements - at, (row + 1) * row_length - (first + at)));
    body(row, at, n);
  }
}

// Calls body(at, n) for the pieces of n_elements from `first` on in which no floor passes its
// cutoff, with the floors that hold there in `here`; `at` counts from `first`.
template <class Body>
void split_at_cutoffs(std::uint64_t first, std::size_t n_elements,
                      std::span<const std::int32_t> floors, std::span<const std::uint64_t> cutoffs,
                      std::vector<std::int32_t>& here, const Body& body) {
  for (std::size_t at = 0, n; at < n_elements; at += n) {
    n = n_elements - at;
    here.assign(floors.begin(), floors.end());
    for (std::size_t i = 0; i < cutoffs.size(); ++i) {
      if (first + at >= cutoffs[i])
        here[i] = raised(floors[i]);
      else
        n = static_cast<std::size_t>(std::min<std::uint64_t>(n, cutoffs[i] - (first + at)));
    }
    body(at, n);
  }
}

}  // namespace tallies
