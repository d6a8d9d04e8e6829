// Masks as vectors, all ones or all zeros a lane, for instruction sets without mask registers. The
// file of an instruction set defines bits(), the first bit of each lane, and not_less() first: GCC
// makes a blend of every ~(a < b) & c, which is three operations in the place of two.
#pragma once

#include "kernels/lanes/vectors.h"

namespace tallies {
namespace {

typedef I32s Mask;

TALLIES_INLINE Mask greater(I32s a, I32s b) { return a > b; }
TALLIES_INLINE Mask greater(F32s a, F32s b) { return a > b; }
TALLIES_INLINE Mask equal(I32s a, I32s b) { return a == b; }
TALLIES_INLINE Mask equal(F32s a, F32s b) { return a == b; }
TALLIES_INLINE Mask unordered(F32s a) { return a != a; }
TALLIES_INLINE Mask both(Mask a, Mask b) { return a & b; }
TALLIES_INLINE Mask either(Mask a, Mask b) { return a | b; }
TALLIES_INLINE Mask but_not(Mask a, Mask b) { return a & ~b; }
TALLIES_INLINE Mask all_if(bool set) { return all(set ? -1 : 0); }
TALLIES_INLINE Mask common_bits(I32s a, I32s b) { return (a & b) != 0; }
TALLIES_INLINE bool any(Mask m) { return bits(m) != 0; }
TALLIES_INLINE std::uint32_t count_of(Mask m) {
  return static_cast<std::uint32_t>(__builtin_popcount(bits(m)));
}
TALLIES_INLINE I32s select(Mask m, I32s yes, I32s no) { return (yes & m) | (no & ~m); }
TALLIES_INLINE F32s select(Mask m, F32s yes, F32s no) {
  return (F32s)select(m, (I32s)yes, (I32s)no);
}
// Sums start at +0 and so never become -0: adding +0 leaves every bit as it is.
TALLIES_INLINE F32s add_if(Mask m, F32s sum, F32s x) { return sum + (F32s)((I32s)x & m); }
TALLIES_INLINE I32s count_if(Mask m, I32s n) { return n - m; }
TALLIES_INLINE I32s larger(I32s a, I32s b) { return a > b ? a : b; }
TALLIES_INLINE I32s smaller(I32s a, I32s b) { return a < b ? a : b; }
TALLIES_INLINE int compress(std::uint32_t* out, Mask m, I32s v) {
  int n = 0;
  for (std::uint32_t left = bits(m); left != 0; left &= left - 1)
    out[n++] = static_cast<std::uint32_t>(v[__builtin_ctz(left)]);
  return n;
}

}  // namespace
}  // namespace tallies
