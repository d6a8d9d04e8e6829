// Magnitudes as whole numbers: the bits of a float32 without its sign, which have the order of the
// numbers. Zero is 0, infinity is above every number, and NaN is above infinity.
#pragma once

#include <cstdint>

#include "core/dtype.h"

namespace tallies {

inline constexpr std::int32_t kMagnitudeMask = 0x7fffffff;  // all bits but the sign
inline constexpr std::int32_t kInfinityBits = 0x7f800000;
inline constexpr std::int32_t kQuietNan = 0x7fc00000;  // the NaN that every NaN is stored as

// The pattern that every NaN ranks as, whatever its payload: the largest that is ranked.
inline constexpr std::int32_t kTop = kInfinityBits + 1;

// Entries pass a floor if their magnitude is larger.
inline constexpr std::int32_t kKeepAll = -1, kKeepNone = kMagnitudeMask;

constexpr std::int32_t magnitude_of(float x) {
  return __builtin_bit_cast(std::int32_t, x) & kMagnitudeMask;
}

// The rank of a magnitude among others.
constexpr std::int32_t ranked(std::int32_t bits) { return bits < kTop ? bits : kTop; }

// The next larger rank; kTop is its own.
constexpr std::int32_t next_rank(std::int32_t rank) { return rank < kTop ? rank + 1 : kTop; }

// The floor that every entry of this rank fails and every larger one passes, NaN of any payload
// being one rank.
constexpr std::int32_t floor_at(std::int32_t rank) { return rank < kTop ? rank : kKeepNone; }

// The floor that also entries of the next rank fail: from a cut-off on, entries that equal the
// threshold are dropped.
constexpr std::int32_t raised(std::int32_t floor) {
  return floor < kInfinityBits ? floor + 1 : kKeepNone;
}

// The smallest magnitude that rounds to infinity in the type, or to NaN where it has no infinity:
// half way from its largest number to the next pattern, or one more where the tie rounds down to an
// even pattern.
constexpr std::int32_t overflow_bits(DType dtype) {
  const Format& format = format_of(dtype);
  const int shift = 23 - format.n_mantissa_bits;
  if (shift <= 0) return kInfinityBits;
  const std::int32_t n_patterns = 1 << (format.n_exponent_bits + format.n_mantissa_bits);
  const std::int32_t infinity = n_patterns - (1 << format.n_mantissa_bits);
  const std::int32_t largest = (format.has_infinity ? infinity : n_patterns - 1) - 1;
  const std::int32_t bias = (1 << (format.n_exponent_bits - 1)) - 1;
  return (largest << shift) + ((127 - bias) << 23) + (1 << (shift - 1)) + (largest % 2 == 0);
}

}  // namespace tallies
