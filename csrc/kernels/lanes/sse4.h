// x86-64-v2: 4 lanes (SSE4.1).
#pragma once

#include <smmintrin.h>

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
  return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)mask));
}

// The product of the two halves of each word; compilers multiply all 64 bits, ten times slower.
TALLIES_INLINE U64s product_of_halves(U64s a) {
  return (U64s)_mm_mul_epu32((__m128i)a, (__m128i)(a >> 32));
}

}  // namespace
}  // namespace tallies

#include "kernels/lanes/halved_doubles.h"
#include "kernels/lanes/soft_fused.h"
#include "kernels/lanes/vector_masks.h"

// Operations on masks first.
#include "kernels/lanes/soft_half.h"
