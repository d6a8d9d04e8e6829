// Half precision in operations on whole numbers and float32, for instruction sets without its
// conversions.
#pragma once

#include "core/magnitude.h"

namespace tallies {
namespace {

TALLIES_INLINE F32s widen_half(U16s half) {
  const U32s word = to_words(half);
  const I32s magnitude = signed_of((word & 0x7fffu) << 13);
  // Read as float32 the pattern is 2^-112 times the value, subnormals included.
  const I32s scaled = bits_of(floats_of(magnitude) * 0x1p112f);
  const I32s special = scaled | kInfinityBits;
  const I32s quiet = select(greater(magnitude, all(0x0f800000)), special | 0x00400000, special);
  const I32s value = select(greater(magnitude, all(0x0f7fffff)), quiet, scaled);
  return floats_of(value | signed_of((word & 0x8000u) << 16));
}

TALLIES_INLINE U16s narrow_to_half(F32s x) {
  const I32s size = bits_of(x) & kMagnitudeMask;
  const I32s sign = signed_of(unsigned_of(bits_of(x)) >> 16) & 0x8000;
  // 0.5 has the smallest half subnormal as its last place, so the sum rounds to one.
  const I32s subnormal = bits_of(floats_of(size) + 0.5f) - 0x3f000000;
  const U32s even = (unsigned_of(size) >> 13) & 1u;
  const I32s normal = signed_of((unsigned_of(size) - 0x38000000u + 0xfffu + even) >> 13);
  const I32s finite = select(greater(all(0x38800000), size), subnormal, normal);
  const I32s special = select(greater(size, all(kInfinityBits)), all(0x7e00), all(0x7c00));
  return to_halves(unsigned_of(select(greater(size, all(0x477fffff)), special, finite) | sign));
}

}  // namespace
}  // namespace tallies
