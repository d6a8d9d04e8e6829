// Any processor with vectors of 128 bits, NEON of AArch64 among them: 4 lanes, no intrinsics.
#pragma once

namespace tallies {
namespace {
constexpr int kLanes = 4;
}
}  // namespace tallies

#include "kernels/lanes/vectors.h"

namespace tallies {
namespace {

// The first bit of each lane of a mask.
TALLIES_INLINE std::uint32_t bits(I32s mask) {
  std::uint32_t out = 0;
  for (int lane = 0; lane < kLanes; ++lane)
    out |= (static_cast<std::uint32_t>(mask[lane]) & 1u) << lane;
  return out;
}

// True also where a or b is NaN.
TALLIES_INLINE I32s not_less(F32s a, F32s b) { return ~(a < b); }

// The product of the two halves of each word; compilers multiply all 64 bits, ten times slower.
TALLIES_INLINE U64s product_of_halves(U64s a) { return (a & 0xffffffffu) * (a >> 32); }

// Bit i is set where elements i of two blocks differ: 64 elements, or 32 of eight bytes.
template <class Word>
TALLIES_INLINE std::uint64_t differing(const Word* a, const Word* b) {
  constexpr int kBlock = sizeof(Word) == 8 ? 32 : 64;
  std::uint64_t word = 0;
  for (int i = 0; i < kBlock; ++i) word |= std::uint64_t(a[i] != b[i]) << i;
  return word;
}

}  // namespace
}  // namespace tallies

#include "kernels/lanes/halved_doubles.h"
#include "kernels/lanes/soft_fused.h"
#include "kernels/lanes/vector_masks.h"

// Operations on masks first.
#include "kernels/lanes/soft_half.h"
