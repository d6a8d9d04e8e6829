// x86-64-v4: 16 lanes and mask registers (the TIES combine is 1.5 times as fast with them).
#pragma once

#include <immintrin.h>

namespace tallies {
namespace {
constexpr int kLanes = 16;
}
}  // namespace tallies

#include "kernels/lanes/vectors.h"

namespace tallies {
namespace {

typedef __mmask16 Mask;

TALLIES_INLINE Mask greater(I32s a, I32s b) {
  return _mm512_cmpgt_epi32_mask((__m512i)a, (__m512i)b);
}
TALLIES_INLINE Mask greater(F32s a, F32s b) { return _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ); }
TALLIES_INLINE Mask equal(I32s a, I32s b) {
  return _mm512_cmpeq_epi32_mask((__m512i)a, (__m512i)b);
}
TALLIES_INLINE Mask equal(F32s a, F32s b) { return _mm512_cmp_ps_mask(a, b, _CMP_EQ_OQ); }
TALLIES_INLINE Mask not_less(F32s a, F32s b) { return _mm512_cmp_ps_mask(a, b, _CMP_NLT_UQ); }
TALLIES_INLINE Mask unordered(F32s a) { return _mm512_cmp_ps_mask(a, a, _CMP_UNORD_Q); }
// Plain C where the compiler can fold it into a comparison, else it would leave the mask registers.
TALLIES_INLINE Mask both(Mask a, Mask b) { return a & b; }
TALLIES_INLINE Mask either(Mask a, Mask b) { return _kor_mask16(a, b); }
TALLIES_INLINE Mask but_not(Mask a, Mask b) { return _kandn_mask16(b, a); }
TALLIES_INLINE Mask all_if(bool set) { return set ? 0xffff : 0; }
TALLIES_INLINE bool any(Mask m) { return m != 0; }
TALLIES_INLINE std::uint32_t bits(Mask m) { return m; }
TALLIES_INLINE std::uint32_t count_of(Mask m) {
  return static_cast<std::uint32_t>(__builtin_popcount(m));
}
TALLIES_INLINE Mask common_bits(I32s a, I32s b) {
  return _mm512_test_epi32_mask((__m512i)a, (__m512i)b);
}
TALLIES_INLINE F32s select(Mask m, F32s yes, F32s no) { return _mm512_mask_mov_ps(no, m, yes); }
TALLIES_INLINE I32s select(Mask m, I32s yes, I32s no) {
  return (I32s)_mm512_mask_mov_epi32((__m512i)no, m, (__m512i)yes);
}
TALLIES_INLINE F32s add_if(Mask m, F32s sum, F32s x) { return _mm512_mask_add_ps(sum, m, sum, x); }
TALLIES_INLINE I32s count_if(Mask m, I32s n) {
  return (I32s)_mm512_mask_add_epi32((__m512i)n, m, (__m512i)n, _mm512_set1_epi32(1));
}
TALLIES_INLINE I32s larger(I32s a, I32s b) {
  return (I32s)_mm512_max_epi32((__m512i)a, (__m512i)b);
}
TALLIES_INLINE I32s smaller(I32s a, I32s b) {
  return (I32s)_mm512_min_epi32((__m512i)a, (__m512i)b);
}
// Stores the lanes of v that m has set, side by side; returns how many. May write kLanes words:
// the instruction that stores only those set is microcode on AMD, 20 times slower.
TALLIES_INLINE int compress(std::uint32_t* out, Mask m, I32s v) {
  _mm512_storeu_si512(out, _mm512_maskz_compress_epi32(m, (__m512i)v));
  return __builtin_popcount(m);
}

// a * b + c with one rounding.
TALLIES_INLINE F32s fused(F32s a, F32s b, F32s c) { return _mm512_fmadd_ps(a, b, c); }

// The product of the two halves of each word; compilers multiply all 64 bits, ten times slower.
TALLIES_INLINE U64s product_of_halves(U64s a) {
  return (U64s)_mm512_mul_epu32((__m512i)a, (__m512i)(a >> 32));
}

// GCC makes __builtin_convertvector of narrower conversions, and halves of vectors by way of
// memory, from where two stores are not read back as one vector without a stall.
TALLIES_INLINE F64s to_doubles(HalfF32s x) { return (F64s)_mm512_cvtps_pd((__m256)x); }
TALLIES_INLINE Doubles to_doubles(F32s x) {
  const __m512d halves = (__m512d)x;
  return {to_doubles((HalfF32s)_mm512_castpd512_pd256(halves)),
          to_doubles((HalfF32s)_mm512_extractf64x4_pd(halves, 1))};
}
TALLIES_INLINE F32s to_floats(Doubles x) {
  const __m512d low = _mm512_castps_pd(_mm512_castps256_ps512(_mm512_cvtpd_ps((__m512d)x.low)));
  return (F32s)_mm512_insertf64x4(low, (__m256d)_mm512_cvtpd_ps((__m512d)x.high), 1);
}

TALLIES_INLINE F32s widen_half(U16s half) { return _mm512_cvtph_ps((__m256i)half); }
TALLIES_INLINE U16s narrow_to_half(F32s x) {
  return (U16s)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
}

// Bit i is set where elements i of two blocks differ: 64 elements, or 32 of eight bytes.
TALLIES_INLINE std::uint64_t differing(const std::uint8_t* a, const std::uint8_t* b) {
  return _mm512_cmpneq_epi8_mask(_mm512_loadu_si512(a), _mm512_loadu_si512(b));
}
TALLIES_INLINE std::uint64_t differing(const std::uint16_t* a, const std::uint16_t* b) {
  std::uint64_t word = 0;
  for (int i = 0; i < 64; i += 32)
    word |= std::uint64_t(
                _mm512_cmpneq_epi16_mask(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i)))
            << i;
  return word;
}
TALLIES_INLINE std::uint64_t differing(const std::uint32_t* a, const std::uint32_t* b) {
  std::uint64_t word = 0;
  for (int i = 0; i < 64; i += 16)
    word |= std::uint64_t(
                _mm512_cmpneq_epi32_mask(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i)))
            << i;
  return word;
}
TALLIES_INLINE std::uint64_t differing(const std::uint64_t* a, const std::uint64_t* b) {
  std::uint64_t word = 0;
  for (int i = 0; i < 32; i += 8)
    word |= std::uint64_t(
                _mm512_cmpneq_epi64_mask(_mm512_loadu_si512(a + i), _mm512_loadu_si512(b + i)))
            << i;
  return word;
}

}  // namespace
}  // namespace tallies
