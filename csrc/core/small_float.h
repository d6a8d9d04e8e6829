// Scalar conversions of floating-point types of one byte: widening is exact, narrowing rounds once,
// to nearest even.
#pragma once

#include "core/magnitude.h"

namespace tallies {

template <int kExponent, int kMantissa, bool kHasInfinity>
struct SmallFloat {
  static constexpr int kBias = (1 << (kExponent - 1)) - 1;
  static constexpr std::uint32_t kMagnitude = (1u << (kExponent + kMantissa)) - 1;
  static constexpr std::uint32_t kInfinity = ((1u << kExponent) - 1) << kMantissa;
  static constexpr std::uint32_t kLargest = (kHasInfinity ? kInfinity : kMagnitude) - 1;
  static constexpr std::uint32_t kNan =
      kHasInfinity ? kInfinity | (1u << (kMantissa - 1)) : kMagnitude;

  static constexpr float widen(std::uint8_t bits) {
    const std::uint32_t magnitude = bits & kMagnitude;
    const std::uint32_t sign = (bits & ~kMagnitude & 0xffu) << (31 - kExponent - kMantissa);
    if (kHasInfinity ? magnitude > kInfinity : magnitude == kNan)
      return __builtin_bit_cast(float, sign | kQuietNan);
    if (kHasInfinity && magnitude == kInfinity)
      return __builtin_bit_cast(float, sign | kInfinityBits);
    // The pattern read as a float32 is the value times 2^(kBias - 127), subnormals included.
    const float scaled = __builtin_bit_cast(float, magnitude << (23 - kMantissa));
    const float value = scaled * __builtin_bit_cast(float, std::uint32_t(127 + 127 - kBias) << 23);
    return __builtin_bit_cast(float, __builtin_bit_cast(std::uint32_t, value) | sign);
  }

  static constexpr std::uint8_t narrow(float x) {
    const std::uint32_t bits = __builtin_bit_cast(std::uint32_t, x);
    const std::uint32_t magnitude = bits & kMagnitudeMask;
    const std::uint32_t sign = (bits >> 31) << (kExponent + kMantissa);
    if (magnitude > kInfinityBits) return static_cast<std::uint8_t>(kNan);
    constexpr std::uint32_t smallest_normal = std::uint32_t(127 - kBias + 1) << 23;
    std::uint32_t rounded;
    if (magnitude < smallest_normal) {
      // Adding a power of two whose last place is the smallest subnormal lets the FPU round.
      constexpr std::uint32_t magic = std::uint32_t(127 - kBias + 1 + 23 - kMantissa) << 23;
      const float sum = __builtin_bit_cast(float, magnitude) + __builtin_bit_cast(float, magic);
      rounded = __builtin_bit_cast(std::uint32_t, sum) - magic;
    } else {
      constexpr int shift = 23 - kMantissa;
      const std::uint32_t even = (magnitude >> shift) & 1;
      const std::uint32_t half = (1u << (shift - 1)) - 1;
      rounded = (magnitude - (std::uint32_t(127 - kBias) << 23) + half + even) >> shift;
    }
    if (rounded > kLargest) {
      if (!kHasInfinity) return static_cast<std::uint8_t>(kNan);
      rounded = kInfinity;
    }
    return static_cast<std::uint8_t>(rounded | sign);
  }
};

}  // namespace tallies
