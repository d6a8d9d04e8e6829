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

// True also where a or b is NaN.
TALLIES_INLINE I32s not_less(F32s a, F32s b) { return (I32s)_mm_cmpnlt_ps((__m128)a, (__m128)b); }

// The product of the two halves of each word; compilers multiply all 64 bits, ten times slower.
TALLIES_INLINE U64s product_of_halves(U64s a) {
  return (U64s)_mm_mul_epu32((__m128i)a, (__m128i)(a >> 32));
}

TALLIES_INLINE __m128i load128(const void* p) {
  return _mm_loadu_si128(static_cast<const __m128i*>(p));
}
TALLIES_INLINE std::uint64_t bytes_set(__m128i mask) {
  return static_cast<std::uint32_t>(_mm_movemask_epi8(mask));
}

// Bit i is set where elements i of two blocks differ: 64 elements, or 32 of eight bytes.
TALLIES_INLINE std::uint64_t differing(const std::uint8_t* a, const std::uint8_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 64; i += 16)
    same |= bytes_set(_mm_cmpeq_epi8(load128(a + i), load128(b + i))) << i;
  return ~same;
}
TALLIES_INLINE std::uint64_t differing(const std::uint16_t* a, const std::uint16_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 64; i += 16) {
    const __m128i low = _mm_cmpeq_epi16(load128(a + i), load128(b + i));
    const __m128i high = _mm_cmpeq_epi16(load128(a + i + 8), load128(b + i + 8));
    same |= bytes_set(_mm_packs_epi16(low, high)) << i;
  }
  return ~same;
}
TALLIES_INLINE std::uint64_t differing(const std::uint32_t* a, const std::uint32_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 64; i += 4)
    same |= std::uint64_t(bits((I32s)_mm_cmpeq_epi32(load128(a + i), load128(b + i)))) << i;
  return ~same;
}
TALLIES_INLINE std::uint64_t differing(const std::uint64_t* a, const std::uint64_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 32; i += 2)
    same |= std::uint64_t(_mm_movemask_pd((__m128d)_mm_cmpeq_epi64(load128(a + i), load128(b + i))))
            << i;
  return same ^ 0xffffffffu;
}

}  // namespace
}  // namespace tallies

#include "kernels/lanes/halved_doubles.h"
#include "kernels/lanes/soft_fused.h"
#include "kernels/lanes/vector_masks.h"

// Operations on masks first.
#include "kernels/lanes/soft_half.h"
