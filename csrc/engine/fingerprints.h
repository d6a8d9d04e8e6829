// Content fingerprints: sums, so that those of two slices add up to that of both.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "cpu/ops.h"
#include "engine/plan.h"

namespace tallies {

using Lanes = std::array<std::uint64_t, 8>;

inline void add(Lanes& sum, const Lanes& part) {
  for (std::size_t lane = 0; lane < sum.size(); ++lane) sum[lane] += part[lane];
}

inline void add(std::vector<Lanes>& sums, const std::vector<Lanes>& parts) {
  for (std::size_t i = 0; i < parts.size(); ++i) add(sums[i], parts[i]);
}

// Returns the fingerprint of what n elements from `first` on have of an array: of each stripe that
// begins there. Records that elements share have none; they are tensors of their own.
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
  for (const Source& source : sources) lanes.push_back(fingerprint(tile, job, source));
  return lanes;
}

// Returns the fingerprint of the first input of every job.
std::vector<Lanes> fingerprints(const Plan&, const Limits&, const Progress&);

}  // namespace tallies
