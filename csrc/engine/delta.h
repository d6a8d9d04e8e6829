// A task vector of one tensor in memory, in the forms in which stores keep them, decoded to float32
// a chunk at a time.
#pragma once

#include <algorithm>

#include "engine/set_bits.h"

namespace tallies {

struct Delta {
  enum class Form : std::uint8_t {
    zero,
    dense,      // the values
    masked,     // scale * (mask ? value : +0)
    signs,      // mask ? scale : -scale
    sparse,     // mask ? the next value : +0
    quantized,  // the same with int8 values, times the scale of their row
    replaced,   // what takes the place of the base's elements where the mask, if any, is set
  };
  Form form = Form::zero;
  std::uint64_t n_elements = 0;
  DType type = DType::f32;  // of the values
  const void* values = nullptr;
  const std::uint8_t* mask = nullptr;
  float scale = 1.0f;
  const float* row_scales = nullptr;
  std::uint64_t n_rows = 1;
  std::vector<std::uint64_t> before;  // values of a sparse form before each chunk; at last, all

  // Elements from `first` on of values that lie as densely as those of the tensor.
  const void* values_at(std::uint64_t first) const {
    return static_cast<const char*>(values) + first * size_of(type);
  }
  const std::uint8_t* mask_at(std::uint64_t first) const { return mask + first / 8; }
  const void* kept_at(std::uint64_t first) const {
    return static_cast<const char*>(values) + before[first / kChunk] * size_of(type);
  }
};

inline std::vector<std::uint64_t> count_chunks(const std::uint8_t* mask, std::uint64_t n_elements) {
  std::vector<std::uint64_t> before{0};
  for (std::uint64_t first = 0; first < n_elements; first += kChunk)
    before.push_back(before.back() + count_set(mask + first / 8, std::min<std::uint64_t>(
                                                                     kChunk, n_elements - first)));
  return before;
}

struct DecodeScratch {
  float x[kChunk], wide[kChunk];
};

// The n elements, one chunk at most, from `first` on, a multiple of kChunk; valid until the next
// call. Never called for what replaces the base.
inline const float* decode(const Delta& delta, std::uint64_t first, std::size_t n,
                           DecodeScratch& scratch) {
  const int type = static_cast<int>(delta.type);
  float* const x = scratch.x;
  switch (delta.form) {
    case Delta::Form::dense:
      if (delta.type == DType::f32) return static_cast<const float*>(delta.values_at(first));
      kernels().widen[type](delta.values_at(first), x, n);
      break;
    case Delta::Form::masked:
      if (is_fused(delta.type)) {
        kernels().decode_masked[type](delta.values_at(first), delta.mask_at(first), delta.scale, x,
                                      n);
      } else {
        kernels().widen[type](delta.values_at(first), scratch.wide, n);
        kernels().decode_masked[0](scratch.wide, delta.mask_at(first), delta.scale, x, n);
      }
      break;
    case Delta::Form::signs:
      kernels().decode_signs(delta.mask_at(first), delta.scale, x, n);
      break;
    case Delta::Form::sparse: {
      const std::uint8_t* const mask = delta.mask_at(first);
      const auto n_set = static_cast<std::size_t>(count_set(mask, n));
      kernels().widen[type](delta.kept_at(first), scratch.wide, n_set);
      std::fill_n(x, n, 0.0f);
      scatter<float>(scratch.wide, mask, n, x);
      break;
    }
    case Delta::Form::quantized: {
      const auto* q = static_cast<const std::int8_t*>(delta.kept_at(first));
      Rows rows(delta.n_elements, delta.n_rows);
      std::fill_n(x, n, 0.0f);
      for_each_set(delta.mask_at(first), n, [&](std::size_t i) {
        x[i] = static_cast<float>(*q++) * delta.row_scales[rows.of(first + i)];
      });
      break;
    }
    case Delta::Form::zero:
    case Delta::Form::replaced:
      std::fill_n(x, n, 0.0f);
  }
  return x;
}

}  // namespace tallies
