// An operand of a job: some of the job's arrays, and how float32 values are made of them. A new
// form is a line here, its arrays below, and a function in decode.cpp.
#pragma once

#include <cstdint>
#include <limits>
#include <memory>
#include <span>
#include <vector>

#include "core/dtype.h"
#include "engine/change.h"
#include "stream/array.h"

namespace tallies {

struct Source {
  enum class Form : std::uint8_t {
    plain,      // values
    scaled,     // values, scales: value * scale, rounded once
    zero,       // no arrays
    masked,     // values, mask: scale * (mask ? value : +0)
    signs,      // mask: mask ? scale : -scale
    sparse,     // values, mask: mask ? the next value : +0
    quantized,  // values, mask, scales: mask ? the next int8 value * the scale of its row : +0
  };
  Form form = Form::plain;
  DType type = DType::f32;            // of the values
  std::uint16_t array = 0;            // the first of its arrays among the inputs of the job
  float scale = 1.0f;                 // masked, signs
  bool replaces = false;              // plain, sparse: the values replace the base's, bit for bit
  DType scale_type = DType::f32;      // scaled
  std::uint64_t row_length = kWhole;  // scaled, quantized
  std::uint64_t block_rows = kWhole;  // scaled: elements that share a scale, down and across
  std::uint64_t block_columns = kWhole;
  Changes changes = {};      // of the values, in order; null if there are none
  std::uint64_t before = 0;  // elements of the changed tensor before the job's first

  std::uint64_t blocks_across() const { return (row_length - 1) / block_columns + 1; }
  // Elements whose scales are one record: those of block_rows rows.
  std::uint64_t per() const {
    const bool is_whole = row_length > kWhole / block_rows;
    return is_whole ? kWhole : block_rows * row_length;
  }
};

constexpr std::size_t n_arrays(Source::Form form) {
  constexpr std::size_t n[] = {1, 2, 0, 2, 1, 2, 3};
  return n[static_cast<int>(form)];
}

// Those of its values, then those of its changes.
inline std::size_t n_arrays(const Source& source) {
  return n_arrays(source.form) + (source.changes == nullptr ? 0 : source.changes->n_arrays);
}

// A source and the arrays that it is made of, before a job has them.
struct Operand {
  Source source;
  std::vector<Array> arrays;
  Starts starts;  // to which a sparse array points
};

// Return the type in which kernels read all these sources as they are stored; f64 if there is none.
inline DType stored_type(std::span<const Source> sources) {
  for (const Source& source : sources)
    if (source.form != Source::Form::plain || source.changes || source.type != sources[0].type)
      return DType::f64;
  return sources.empty() || !is_fused(sources[0].type) ? DType::f64 : sources[0].type;
}

}  // namespace tallies
