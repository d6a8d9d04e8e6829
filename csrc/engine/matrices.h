// Reads the task vectors of one tensor, or of a slice of one, into memory for methods that work on
// whole matrices, and adds the merged one to the base.
#pragma once

#include <array>

#include "engine/restore.h"

namespace tallies {

struct DeltaRead {
  std::array<Lanes, 2> inputs{};  // content fingerprints of base and expert
  bool nonfinite = false;
  static auto fields(auto& part) { return std::tie(part.inputs, part.nonfinite); }
};

// Writes expert - base of one expert of a slice to `out`, as float32.
DeltaRead read_delta(const Plan&, const Slice&, std::size_t expert, float* out, const Limits&,
                     const Progress&);

// Writes base + scale * merged to the outputs of a slice: product and sum rounded in float32, the
// result once more to the outputs' type.
Restored write_merged(const Plan&, const Slice&, const float* merged, float scale, const Limits&,
                      const Progress&);

}  // namespace tallies
