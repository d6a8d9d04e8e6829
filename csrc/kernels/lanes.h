// Vectors of the target's own width: arithmetic through the compiler's vector types, casts and
// conversions by name, and the few operations on masks that the compiler's types express badly
// (AVX-512 mask registers: 1.5x on the TIES combine). The only file, with half.h, that knows an
// instruction set. Where a kernel runs one element at a time, one_lane.h has the same words.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__) || defined(TALLIES_ONE_LANE)
#include "kernels/one_lane.h"
#else

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__SSE4_1__)
#include <smmintrin.h>
#endif

namespace tallies {
namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float F32s __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t I32s __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t U32s __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t U16s __attribute__((vector_size(2 * kLanes)));
typedef std::int8_t I8s __attribute__((vector_size(kLanes)));
typedef std::uint64_t U64s __attribute__((vector_size(4 * kLanes)));

#define TALLIES_INLINE inline __attribute__((always_inline))

TALLIES_INLINE F32s all(float x) { return x - F32s{}; }
TALLIES_INLINE I32s all(std::int32_t x) { return x - I32s{}; }

// The same bits as another type, and the same numbers as another type.
TALLIES_INLINE I32s bits_of(F32s x) { return (I32s)x; }
TALLIES_INLINE F32s floats_of(I32s bits) { return (F32s)bits; }
TALLIES_INLINE U32s unsigned_of(I32s x) { return (U32s)x; }
TALLIES_INLINE I32s signed_of(U32s x) { return (I32s)x; }
TALLIES_INLINE F32s to_floats(I32s x) { return __builtin_convertvector(x, F32s); }
TALLIES_INLINE U32s to_words(U16s x) { return __builtin_convertvector(x, U32s); }
TALLIES_INLINE U16s to_halves(U32s x) { return __builtin_convertvector(x, U16s); }
TALLIES_INLINE I32s to_ints(I8s x) { return __builtin_convertvector(x, I32s); }
TALLIES_INLINE I32s to_ints(F32s x) { return __builtin_convertvector(x, I32s); }
TALLIES_INLINE I8s to_bytes(I32s x) { return __builtin_convertvector(x, I8s); }
TALLIES_INLINE std::int32_t lane_of(I32s v, int lane) { return v[lane]; }
TALLIES_INLINE void set_lane(F32s& v, int lane, float x) { v[lane] = x; }
TALLIES_INLINE void set_lane(I32s& v, int lane, std::int32_t x) { v[lane] = x; }

#if defined(__AVX512F__)

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

#else

typedef I32s Mask;  // all ones or all zeros per lane

TALLIES_INLINE Mask greater(I32s a, I32s b) { return a > b; }
TALLIES_INLINE Mask greater(F32s a, F32s b) { return a > b; }
TALLIES_INLINE Mask equal(I32s a, I32s b) { return a == b; }
TALLIES_INLINE Mask equal(F32s a, F32s b) { return a == b; }
TALLIES_INLINE Mask not_less(F32s a, F32s b) { return ~(a < b); }
TALLIES_INLINE Mask unordered(F32s a) { return a != a; }
TALLIES_INLINE Mask both(Mask a, Mask b) { return a & b; }
TALLIES_INLINE Mask either(Mask a, Mask b) { return a | b; }
TALLIES_INLINE Mask but_not(Mask a, Mask b) { return a & ~b; }
TALLIES_INLINE Mask all_if(bool set) { return all(set ? -1 : 0); }
TALLIES_INLINE std::uint32_t bits(Mask m) {
#if defined(__AVX2__)
  return static_cast<std::uint32_t>(_mm256_movemask_ps((__m256)m));
#elif defined(__SSE4_1__)
  return static_cast<std::uint32_t>(_mm_movemask_ps((__m128)m));
#else
  std::uint32_t out = 0;
  for (int lane = 0; lane < kLanes; ++lane) out |= (m[lane] & 1u) << lane;
  return out;
#endif
}
TALLIES_INLINE Mask common_bits(I32s a, I32s b) { return (a & b) != 0; }
TALLIES_INLINE bool any(Mask m) { return bits(m) != 0; }
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

#endif

// The product of the two halves of each word; compilers multiply all 64 bits, ten times slower.
TALLIES_INLINE U64s product_of_halves(U64s a) {
#if defined(__AVX512F__)
  return (U64s)_mm512_mul_epu32((__m512i)a, (__m512i)(a >> 32));
#elif defined(__AVX2__)
  return (U64s)_mm256_mul_epu32((__m256i)a, (__m256i)(a >> 32));
#elif defined(__SSE4_1__)
  return (U64s)_mm_mul_epu32((__m128i)a, (__m128i)(a >> 32));
#else
  return (a & 0xffffffffu) * (a >> 32);
#endif
}

TALLIES_INLINE std::int32_t largest_lane(I32s v) {
  std::int32_t most = v[0];
  for (int lane = 1; lane < kLanes; ++lane) most = v[lane] > most ? v[lane] : most;
  return most;
}

// As many numbers in float64, in two vectors.
typedef double F64s __attribute__((vector_size(4 * kLanes)));
typedef float HalfF32s __attribute__((vector_size(2 * kLanes)));
struct Doubles {
  F64s low, high;
  friend TALLIES_INLINE Doubles operator+(Doubles a, Doubles b) {
    return {a.low + b.low, a.high + b.high};
  }
  friend TALLIES_INLINE Doubles operator-(Doubles a, Doubles b) {
    return {a.low - b.low, a.high - b.high};
  }
  friend TALLIES_INLINE Doubles operator*(Doubles a, Doubles b) {
    return {a.low * b.low, a.high * b.high};
  }
  friend TALLIES_INLINE Doubles operator*(Doubles a, double b) { return {a.low * b, a.high * b}; }
};

// GCC makes __builtin_convertvector of narrower conversions, and halves of vectors by way of
// memory, from where two stores are not read back as one vector without a stall.
#if defined(__AVX512F__)
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
#elif defined(__AVX2__)
TALLIES_INLINE F64s to_doubles(HalfF32s x) { return (F64s)_mm256_cvtps_pd((__m128)x); }
TALLIES_INLINE Doubles to_doubles(F32s x) {
  return {to_doubles((HalfF32s)_mm256_castps256_ps128((__m256)x)),
          to_doubles((HalfF32s)_mm256_extractf128_ps((__m256)x, 1))};
}
TALLIES_INLINE F32s to_floats(Doubles x) {
  return (F32s)_mm256_set_m128(_mm256_cvtpd_ps((__m256d)x.high), _mm256_cvtpd_ps((__m256d)x.low));
}
#else
TALLIES_INLINE F64s to_doubles(HalfF32s x) { return __builtin_convertvector(x, F64s); }
TALLIES_INLINE Doubles to_doubles(F32s x) {
  HalfF32s halves[2];
  __builtin_memcpy(halves, &x, sizeof x);
  return {to_doubles(halves[0]), to_doubles(halves[1])};
}
TALLIES_INLINE F32s to_floats(Doubles x) {
  const HalfF32s halves[2] = {__builtin_convertvector(x.low, HalfF32s),
                              __builtin_convertvector(x.high, HalfF32s)};
  F32s out;
  __builtin_memcpy(&out, halves, sizeof out);
  return out;
}
#endif

template <class Total>
TALLIES_INLINE Total total(I32s v) {
  Total sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += v[lane];
  return sum;
}

}  // namespace
}  // namespace tallies

#endif

namespace tallies {
namespace {

template <class V>
TALLIES_INLINE V load(const void* p) {
  V v;
  __builtin_memcpy(&v, p, sizeof v);
  return v;
}
template <class V>
TALLIES_INLINE void store(void* p, V v) {
  __builtin_memcpy(p, &v, sizeof v);
}

TALLIES_INLINE I32s magnitude(F32s x) { return bits_of(x) & 0x7fffffff; }

// 0, 1, 2 and so on.
TALLIES_INLINE I32s lane_numbers() {
  I32s numbers = all(0);
  for (int lane = 0; lane < kLanes; ++lane) set_lane(numbers, lane, lane);
  return numbers;
}

}  // namespace
}  // namespace tallies
