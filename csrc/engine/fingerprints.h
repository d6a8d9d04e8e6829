// Content fingerprints: sums, so that the fingerprints of two slices add up to the one of both.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cpu/ops.h"
#include "engine/plan.h"

namespace tallies {

using Lanes = std::array<std::uint64_t, 8>;

// Returns the fingerprint of the records of n elements from `first` on: of each stripe that begins
// among them. Records that elements share have none; they are tensors of their own.
inline Lanes fingerprint(const void* data, const Array& array, std::uint64_t first, std::size_t n) {
  Lanes lanes{};
  if (array.per != 1 && !array.is_sparse()) return lanes;
  const Bytes bytes = array.bytes_to_read(first, n);
  const std::uint64_t begin = (bytes.first + kStripe - 1) / kStripe * kStripe;
  const std::uint64_t end = bytes.first + bytes.n;
  if (begin < end)
    kernels().fingerprint(static_cast<const char*>(data) + (begin - bytes.first), end - begin,
                          begin, lanes.data());
  return lanes;
}

// The same of the values of a source, without its scales; zeros of a source without arrays.
inline Lanes fingerprint(const Tile& tile, const Job& job, const Source& source) {
  if (source.form == Source::Form::zero) return {};
  return fingerprint(tile.in[source.array], job.inputs[source.array], tile.first, tile.n);
}

inline std::vector<Lanes> fingerprint(const Tile& tile, const Job& job,
                                      const std::vector<Source>& sources) {
  std::vector<Lanes> lanes;
  lanes.reserve(sources.size());
  for (const Source& source : sources) lanes.push_back(fingerprint(tile, job, source));
  return lanes;
}

}  // namespace tallies
