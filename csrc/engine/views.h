// What several passes do with a tile: sums, fingerprints, and cuts where a threshold changes.
#pragma once

#include <algorithm>
#include <numeric>
#include <vector>

#include "engine/engine.h"
#include "engine/reader.h"
#include "engine/set_bits.h"

namespace tallies {

// The type in which the kernels can read these inputs without widening; f64 for none.
inline DType common_type(const std::vector<DType>& types) {
  for (const DType type : types)
    if (type != types[0]) return DType::f64;
  return types.empty() || !is_fused(types[0]) ? DType::f64 : types[0];
}

inline void add(Lanes& sum, const Lanes& part) {
  for (std::size_t lane = 0; lane < sum.size(); ++lane) sum[lane] += part[lane];
}

// Return the fingerprint of what n elements from `first` on have of an array: of each stripe that
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

// The same of the values of a source, without its scales.
inline Lanes fingerprint(const Tile& tile, const Job& job, const Source& source) {
  return fingerprint(tile.in[source.array], job.inputs[source.array], tile.first, tile.n);
}

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

// The task vectors of a tile, whose first input is the base, in float32.
class Deltas {
 public:
  // Calls body(deltas, first, n) over chunks of the tile; what deltas[e] points to may be changed.
  template <class Body>
  void for_each_chunk(const Tile& tile, const std::vector<DType>& types, const Body& body,
                      std::size_t chunk = kChunk) {
    const std::size_t n_experts = types.size() - 1;
    base_.resize(chunk);
    values_.resize(n_experts * chunk);
    rows_.resize(n_experts);
    for (std::size_t e = 0; e < n_experts; ++e) rows_[e] = values_.data() + e * chunk;
    const bool all_alike = common_type(types) != DType::f64;
    for (std::size_t first = 0; first < tile.n; first += chunk) {
      const std::size_t n = std::min(chunk, tile.n - first);
      const auto at = [&](std::size_t i) {
        return static_cast<const char*>(tile.in[i]) + first * size_of(types[i]);
      };
      if (!all_alike) kernels().widen[static_cast<int>(types[0])](at(0), base_.data(), n);
      for (std::size_t e = 0; e < n_experts; ++e) {
        if (all_alike) {
          kernels().subtract[static_cast<int>(types[0])](at(e + 1), at(0), rows_[e], n);
        } else {
          kernels().widen[static_cast<int>(types[e + 1])](at(e + 1), rows_[e], n);
          kernels().subtract[0](rows_[e], base_.data(), rows_[e], n);
        }
      }
      body(rows_, first, n);
    }
  }

 private:
  std::vector<float> base_, values_;
  std::vector<float*> rows_;
};

// out = base + scale * merged, of a mask only where it is set, rounded once. Returns the bits of
// the largest magnitude before. Objects are one thread's.
class Adder {
 public:
  std::int32_t add(DType base_type, const void* base, const float* merged, const std::uint8_t* mask,
                   float scale, DType out_type, void* out, std::size_t n) {
    if (is_fused(base_type) && base_type == out_type)
      return kernels().apply_merged[static_cast<int>(base_type)](base, merged, mask, scale, out, n);
    sum_.resize(n);
    kernels().widen[static_cast<int>(base_type)](base, sum_.data(), n);
    const std::int32_t largest =
        kernels().apply_merged[0](sum_.data(), merged, mask, scale, sum_.data(), n);
    kernels().narrow[static_cast<int>(out_type)](sum_.data(), out, n);
    return largest;
  }

 private:
  std::vector<float> sum_;
};

}  // namespace tallies
