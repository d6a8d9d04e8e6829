// A tile as the kernels want it: all inputs of one of the fused types, or widened to float32 a
// chunk at a time in scratch memory that stays in the cache; and the fingerprints of what is in a
// tile.
#pragma once

#include <algorithm>
#include <bit>
#include <cstring>
#include <numeric>
#include <vector>

#include "engine/engine.h"

namespace tallies {

inline constexpr std::size_t kChunk = 2048;

// The type in which the kernels can read these inputs without widening; f64 for none.
inline DType common_type(const std::vector<DType>& types) {
  for (const DType type : types)
    if (type != types[0]) return DType::f64;
  return types.empty() || !is_fused(types[0]) ? DType::f64 : types[0];
}

inline void add(Lanes& sum, const Lanes& part) {
  for (std::size_t lane = 0; lane < sum.size(); ++lane) sum[lane] += part[lane];
}

// Of a stretch of an array that begins at its element `first`.
inline Lanes fingerprint(const void* data, const Array& array, std::uint64_t first, std::size_t n) {
  Lanes lanes{};
  kernels().fingerprint(data, array.n_bytes(n), first * array.element_bits / 8, lanes.data());
  return lanes;
}

// Turns widened experts into their deltas; the base comes first.
inline void subtract_base(const void* const* rows, std::size_t n_experts, std::size_t n) {
  for (std::size_t e = 1; e <= n_experts; ++e) {
    float* const row = const_cast<float*>(static_cast<const float*>(rows[e]));
    kernels().subtract(row, static_cast<const float*>(rows[0]), row, n);
  }
}

// How many of the n elements of a packed mask are set.
inline std::uint64_t count_set(const std::uint8_t* mask, std::size_t n) {
  std::uint64_t n_set = 0;
  for (std::size_t i = 0; i < n; i += 64) {
    const std::size_t left = std::min<std::size_t>(n - i, 64);
    std::uint64_t word = 0;
    std::memcpy(&word, mask + i / 8, (left + 7) / 8);
    if (left < 64) word &= (std::uint64_t(1) << left) - 1;
    n_set += static_cast<std::uint64_t>(std::popcount(word));
  }
  return n_set;
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
        here[e] = floors[e] < 0x7f800000 ? floors[e] + 1 : 0x7fffffff;  // every NaN is equal
      else
        to = std::min(to, cutoffs[e]);
    }
    body(static_cast<std::size_t>(at - begin), static_cast<std::size_t>(to - at));
    at = to;
  }
}

class Widened {
 public:
  // Calls body(inputs, first, n) over chunks of the tile, inputs being float32.
  template <class Body>
  void for_each_chunk(const Tile& tile, const std::vector<DType>& types, const Body& body,
                      std::size_t chunk = kChunk) {
    values_.resize(types.size() * chunk);
    rows_.resize(types.size());
    for (std::size_t first = 0; first < tile.n; first += chunk) {
      const std::size_t n = std::min(chunk, tile.n - first);
      for (std::size_t i = 0; i < types.size(); ++i) {
        const char* from = static_cast<const char*>(tile.in[i]) + first * size_of(types[i]);
        rows_[i] = values_.data() + i * chunk;
        kernels().widen[static_cast<int>(types[i])](from, values_.data() + i * chunk, n);
      }
      body(rows_.data(), first, n);
    }
  }

 private:
  std::vector<float> values_;
  std::vector<const void*> rows_;
};

}  // namespace tallies
