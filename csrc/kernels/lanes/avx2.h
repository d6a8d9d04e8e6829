// x86-64-v3: 8 lanes, conversions of half precision (F16C).
#pragma once

#include <immintrin.h>

namespace tallies {
namespace {
constexpr int kLanes = 8;
}
}  // namespace tallies

#include "kernels/lanes/vectors.h"

namespace tallies {
namespace {

// The first bit of each lane of a mask.
TALLIES_INLINE std::uint32_t bits(I32s mask) {
  return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)mask));
}

// True also where a or b is NaN.
TALLIES_INLINE I32s not_less(F32s a, F32s b) {
  return (I32s)_mm256_cmp_ps((__m256)a, (__m256)b, _CMP_NLT_UQ);
}

// a * b + c with one rounding.
TALLIES_INLINE F32s fused(F32s a, F32s b, F32s c) { return (F32s)_mm256_fmadd_ps(a, b, c); }

// The product of the two halves of each word; compilers multiply all 64 bits, ten times slower.
TALLIES_INLINE U64s product_of_halves(U64s a) {
  return (U64s)_mm256_mul_epu32((__m256i)a, (__m256i)(a >> 32));
}

// GCC makes __builtin_convertvector of narrower conversions, and halves of vectors by way of
// memory, from where two stores are not read back as one vector without a stall.
TALLIES_INLINE F64s to_doubles(HalfF32s x) { return (F64s)_mm256_cvtps_pd((__m128)x); }
TALLIES_INLINE Doubles to_doubles(F32s x) {
  return {to_doubles((HalfF32s)_mm256_castps256_ps128((__m256)x)),
          to_doubles((HalfF32s)_mm256_extractf128_ps((__m256)x, 1))};
}
TALLIES_INLINE F32s to_floats(Doubles x) {
  return (F32s)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)x.high), _mm256_cvtpd_ps((__m256d)x.low));
}

TALLIES_INLINE F32s widen_half(U16s half) { return _mm256_cvtph_ps((__m128i)half); }
TALLIES_INLINE U16s narrow_to_half(F32s x) {
  return (U16s)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

TALLIES_INLINE __m256i load256(const void* p) {
  return _mm256_loadu_si256(static_cast<const __m256i*>(p));
}
TALLIES_INLINE std::uint64_t bytes_set(__m256i mask) {
  return static_cast<std::uint32_t>(_mm256_movemask_epi8(mask));
}

// Bit i is set where elements i of two blocks differ: 64 elements, or 32 of eight bytes.
TALLIES_INLINE std::uint64_t differing(const std::uint8_t* a, const std::uint8_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 64; i += 32)
    same |= bytes_set(_mm256_cmpeq_epi8(load256(a + i), load256(b + i))) << i;
  return ~same;
}
TALLIES_INLINE std::uint64_t differing(const std::uint16_t* a, const std::uint16_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 64; i += 32) {
    const __m256i low = _mm256_cmpeq_epi16(load256(a + i), load256(b + i));
    const __m256i high = _mm256_cmpeq_epi16(load256(a + i + 16), load256(b + i + 16));
    // Halves of each 128 bits are packed; the middle ones change places.
    same |= bytes_set(_mm256_permute4x64_epi64(_mm256_packs_epi16(low, high), 0xd8)) << i;
  }
  return ~same;
}
TALLIES_INLINE std::uint64_t differing(const std::uint32_t* a, const std::uint32_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 64; i += 8)
    same |= std::uint64_t(bits((I32s)_mm256_cmpeq_epi32(load256(a + i), load256(b + i)))) << i;
  return ~same;
}
TALLIES_INLINE std::uint64_t differing(const std::uint64_t* a, const std::uint64_t* b) {
  std::uint64_t same = 0;
  for (int i = 0; i < 32; i += 4)
    same |= std::uint64_t(
                _mm256_movemask_pd((__m256d)_mm256_cmpeq_epi64(load256(a + i), load256(b + i))))
            << i;
  return same ^ 0xffffffffu;
}

}  // namespace
}  // namespace tallies

#include "kernels/lanes/vector_masks.h"
