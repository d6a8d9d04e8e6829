// Content fingerprints: sums, so that those of two stretches add up to that of both.
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

// The fingerprint of a stretch of an array that begins at its element `first`.
inline Lanes fingerprint(const void* data, const Array& array, std::uint64_t first, std::size_t n) {
  Lanes lanes{};
  kernels().fingerprint(data, array.n_bytes(n), first * array.element_bits / 8, lanes.data());
  return lanes;
}

// The fingerprints of the inputs of a tile.
inline std::vector<Lanes> fingerprint_inputs(const Job& job, const Tile& tile) {
  std::vector<Lanes> lanes;
  for (std::size_t i = 0; i < job.inputs.size(); ++i)
    lanes.push_back(fingerprint(tile.in[i], job.inputs[i], tile.first, tile.n));
  return lanes;
}

// The fingerprint of the first input of every job.
std::vector<Lanes> fingerprints(const Plan&, const Limits&, const Progress&);

}  // namespace tallies
