// The element types a checkpoint may hold, and what the kernels need to know of each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tallies {

enum class DType : std::uint8_t { f32, bf16, f16, f64, e4m3, e5m2 };
inline constexpr int kDTypes = 6;

// Types that the fused kernels read and write directly; the others pass through float32.
inline constexpr int kFusedDTypes = 3;
constexpr bool is_fused(DType dtype) { return static_cast<int>(dtype) < kFusedDTypes; }

constexpr std::size_t size_of(DType dtype) {
  constexpr std::size_t n_bytes[kDTypes] = {4, 2, 2, 8, 1, 1};
  return n_bytes[static_cast<int>(dtype)];
}

// Smallest float32 magnitude, as bits, that rounds to infinity (e4m3: to NaN) in the type.
constexpr std::int32_t overflow_bits(DType dtype) {
  constexpr std::int32_t bits[kDTypes] = {
      0x7f800000,  // f32: infinity itself
      0x7f7f8000,  // bf16: half way between the largest value and 2^128
      0x477ff000,  // f16: 65520
      0x7f800000,  // f64 holds every float32
      0x43e80001,  // e4m3: just above 464, half way between 448 and the missing 480
      0x47700000,  // e5m2: 61440
  };
  return bits[static_cast<int>(dtype)];
}

}  // namespace tallies
