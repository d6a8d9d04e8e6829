// Adds merged deltas to the base of a tile.
#pragma once

#include <vector>

#include "cpu/ops.h"
#include "engine/reader.h"

namespace tallies {

// out = base + scale * merged, rounded once; with a mask, merged counts only where the mask is set.
// Objects are one thread's.
class BaseAdder {
 public:
  // Returns the bits of the largest magnitude before the rounding.
  std::int32_t add(const Tile& tile, std::size_t first, std::size_t n, const Source& base,
                   const float* merged, const std::uint8_t* mask, float scale, DType out_type,
                   void* out) {
    std::int32_t largest = 0;
    const bool is_direct = is_fused(out_type) && stored_type({&base, 1}) == out_type;
    if (!is_direct) sum_.resize(n);
    reader_.for_each_rows(
        tile, first, n, {&base, 1}, is_direct ? As::as_stored : As::float32,
        [&](const Rows& rows, std::size_t, std::size_t) {
          largest = kernels().apply_merged[static_cast<int>(rows.type)](
              rows.values[0], merged, mask, scale, is_direct ? out : sum_.data(), n);
        },
        n);
    if (!is_direct) kernels().narrow[static_cast<int>(out_type)](sum_.data(), out, n);
    return largest;
  }

 private:
  Reader reader_;
  std::vector<float> sum_;
};

}  // namespace tallies
