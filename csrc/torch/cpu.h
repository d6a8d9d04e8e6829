// The kernels of the processor, as the operators call them.
#pragma once

#include "core/array.h"
#include "engine/arrays.h"
#include "engine/low_rank.h"
#include "torch/changes.h"

namespace tallies::torch {

struct Cpu {
  static constexpr const char* kName = "the CPU";
  static std::int32_t type() { return aoti_torch_device_type_cpu(); }

  // Calls run at once.
  struct Stream {
    explicit Stream(const Tensor&) {}
  };

  using Bytes = std::uint8_t*;
  using ConstBytes = const std::uint8_t*;
  using Views = std::vector<View>;
  using Weights = std::vector<float>;

  static void kth_magnitude(Stream&, View x, std::size_t n, std::size_t rank, float* out);
  static constexpr bool kCounts = true;
  // Returns the magnitude's bits, and how many are above and equal.
  static Threshold rank_magnitude(View x, std::size_t n, std::size_t rank);
  // Returns how many entries fail although they equal the threshold, which is not zero.
  static std::uint64_t trim(Stream&, const ArrayMerge&);
  // n_threads 0: as many as torch gives its own operators.
  static void merge(Stream&, const ArrayMerge&, int n_threads);
  static std::vector<Merged> merge_all(const std::vector<ArrayMerge>&, int n_threads);
  // The sum of the weighted entries that the masks have, over their number, at least 1.
  static void masked_mean(const Views& deltas, const std::vector<ConstBytes>& masks, const Weights&,
                          std::size_t n, void* out);
  static void magnitude_mask(Stream&, View x, std::size_t n, std::int32_t floor, Bytes out);
  static void tall_mask(Stream&, View x, View merged, std::size_t n, float lambda, Bytes out);
  static void consensus_mask(Stream&, const std::vector<ConstBytes>& masks, int at_least,
                             std::size_t n, Bytes out);
  static void pack_bits(Stream&, ConstBytes mask, std::size_t n, Bytes out);
  static void unpack_bits(Stream&, ConstBytes packed, std::size_t n, Bytes out);
  static void change_elements(Stream&, ElementChanges&);
  static void apply_mask(Stream&, View base, View shared, ConstBytes mask, float scale,
                         std::size_t n, void* out);
  static void elect_signs(Stream&, const Views& deltas, const Weights&, bool by_count,
                          int zero_sign, bool majority, std::size_t n, std::int8_t* out);
  static void disjoint_merge(Stream&, const Views& deltas, const Weights&, const std::int8_t* signs,
                             Blend, std::size_t n, void* out);
  static void low_rank(Stream&, const LowRankSum&);
  static void gram(Stream&, const Views& deltas, std::size_t n, double* out);
  static void block_dots(Stream&, View grad, const Views& deltas, std::size_t n, double* out);
};

}  // namespace tallies::torch
