// The element types that a checkpoint may hold, and the format of each.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tallies {

// X(name, bytes, bits of the exponent, bits of the mantissa, has infinity). The fused types come
// first. A float of one byte is an entry here, at the end, and one in Python's spec/dtypes.py: its
// conversions and its overflow follow.
#define TALLIES_DTYPES(X) \
  X(f32, 4, 8, 23, true)  \
  X(bf16, 2, 8, 7, true)  \
  X(f16, 2, 5, 10, true)  \
  X(f64, 8, 11, 52, true) \
  X(e4m3, 1, 4, 3, false) \
  X(e5m2, 1, 5, 2, true)

#define TALLIES_NAME(name, ...) name,
enum class DType : std::uint8_t { TALLIES_DTYPES(TALLIES_NAME) };
#undef TALLIES_NAME

struct Format {
  std::size_t n_bytes;
  int n_exponent_bits, n_mantissa_bits;
  bool has_infinity;  // without it, the pattern of all ones is NaN and every other one a number
};
#define TALLIES_FORMAT(name, ...) Format{__VA_ARGS__},
inline constexpr Format kFormats[] = {TALLIES_DTYPES(TALLIES_FORMAT)};
#undef TALLIES_FORMAT
inline constexpr int kDTypes = sizeof kFormats / sizeof kFormats[0];

constexpr const Format& format_of(DType dtype) { return kFormats[static_cast<int>(dtype)]; }
constexpr std::size_t size_of(DType dtype) { return format_of(dtype).n_bytes; }

// Types that the fused kernels read and write directly; the others pass through float32.
inline constexpr int kFusedDTypes = 3;
constexpr bool is_fused(DType dtype) { return static_cast<int>(dtype) < kFusedDTypes; }

}  // namespace tallies
