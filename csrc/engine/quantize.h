// Task vectors as int8 values times a float32 scale for each row.
#pragma once

#include <algorithm>
#include <bit>
#include <cmath>

#include "core/magnitude.h"

namespace tallies {

// Return the scale of a row whose largest magnitude has these bits; NaN if that is NaN.
inline float scale_of(std::int32_t largest) {
  if (largest > kInfinityBits) return std::bit_cast<float>(kQuietNan);
  return std::bit_cast<float>(largest) / 127.0f;
}

// Return x over a scale, rounded to nearest even; 0 where the scale is 0 or not finite.
inline std::int8_t quantize(float x, float scale) {
  if (!(scale > 0) || std::isinf(scale)) return 0;
  // Every float32 of this size is rounded to an integer by adding it, ties to even.
  constexpr float kWholeNumbers = 12582912.0f;
  const float clipped = std::min(std::max(-127.0f, x / scale), 127.0f);
  return static_cast<std::int8_t>(clipped + kWholeNumbers - kWholeNumbers);
}

}  // namespace tallies
