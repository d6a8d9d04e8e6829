// One element at a time: threads of a GPU, and plain C++ in their stead.
#pragma once

#include <cstddef>
#include <cstdint>

#if defined(__CUDACC__)
#define TALLIES_INLINE __host__ __device__ __forceinline__
#else
#define TALLIES_INLINE inline __attribute__((always_inline))
#endif

namespace tallies {
namespace {

constexpr int kLanes = 1;

typedef float F32s;
typedef std::int32_t I32s;
typedef std::uint32_t U32s;
typedef std::uint16_t U16s;
typedef std::int8_t I8s;
typedef bool Mask;

TALLIES_INLINE float all(float x) { return x; }
TALLIES_INLINE std::int32_t all(std::int32_t x) { return x; }

TALLIES_INLINE I32s bits_of(F32s x) { return __builtin_bit_cast(I32s, x); }
TALLIES_INLINE F32s floats_of(I32s bits) { return __builtin_bit_cast(F32s, bits); }
TALLIES_INLINE U32s unsigned_of(I32s x) { return static_cast<U32s>(x); }
TALLIES_INLINE I32s signed_of(U32s x) { return static_cast<I32s>(x); }
TALLIES_INLINE F32s to_floats(I32s x) { return static_cast<F32s>(x); }
TALLIES_INLINE U32s to_words(U16s x) { return x; }
TALLIES_INLINE U16s to_halves(U32s x) { return static_cast<U16s>(x); }
TALLIES_INLINE I32s to_ints(I8s x) { return x; }
TALLIES_INLINE I32s to_ints(F32s x) { return static_cast<I32s>(x); }
TALLIES_INLINE I8s to_bytes(I32s x) { return static_cast<I8s>(x); }
TALLIES_INLINE std::int32_t lane_of(I32s x, int) { return x; }
TALLIES_INLINE void set_lane(F32s& v, int, float x) { v = x; }
TALLIES_INLINE void set_lane(I32s& v, int, std::int32_t x) { v = x; }

typedef double Doubles;
TALLIES_INLINE Doubles to_doubles(F32s x) { return x; }
TALLIES_INLINE F32s to_floats(Doubles x) { return static_cast<F32s>(x); }

TALLIES_INLINE Mask greater(I32s a, I32s b) { return a > b; }
TALLIES_INLINE Mask greater(F32s a, F32s b) { return a > b; }
TALLIES_INLINE Mask equal(I32s a, I32s b) { return a == b; }
TALLIES_INLINE Mask equal(F32s a, F32s b) { return a == b; }
TALLIES_INLINE Mask not_less(F32s a, F32s b) { return !(a < b); }
TALLIES_INLINE Mask unordered(F32s a) { return a != a; }
TALLIES_INLINE Mask both(Mask a, Mask b) { return a && b; }
TALLIES_INLINE Mask either(Mask a, Mask b) { return a || b; }
TALLIES_INLINE Mask but_not(Mask a, Mask b) { return a && !b; }
TALLIES_INLINE Mask all_if(bool set) { return set; }
TALLIES_INLINE bool any(Mask m) { return m; }
TALLIES_INLINE std::uint32_t bits(Mask m) { return m; }
TALLIES_INLINE std::uint32_t count_of(Mask m) { return m; }
TALLIES_INLINE Mask common_bits(I32s a, I32s b) { return (a & b) != 0; }
TALLIES_INLINE F32s select(Mask m, F32s yes, F32s no) { return m ? yes : no; }
TALLIES_INLINE I32s select(Mask m, I32s yes, I32s no) { return m ? yes : no; }
TALLIES_INLINE F32s add_if(Mask m, F32s sum, F32s x) { return m ? sum + x : sum; }
TALLIES_INLINE I32s count_if(Mask m, I32s n) { return n + m; }
TALLIES_INLINE I32s larger(I32s a, I32s b) { return a > b ? a : b; }
TALLIES_INLINE I32s smaller(I32s a, I32s b) { return a < b ? a : b; }
TALLIES_INLINE std::int32_t largest_lane(I32s v) { return v; }
template <class Total>
TALLIES_INLINE Total total(I32s v) {
  return static_cast<Total>(v);
}

// a * b + c with one rounding.
#if defined(__CUDA_ARCH__)
TALLIES_INLINE F32s fused(F32s a, F32s b, F32s c) { return __fmaf_rn(a, b, c); }
#else
TALLIES_INLINE F32s fused(F32s a, F32s b, F32s c) { return __builtin_fmaf(a, b, c); }
#endif

#if defined(__CUDA_ARCH__)
TALLIES_INLINE F32s widen_half(U16s half) {
  F32s x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
  return x;
}
TALLIES_INLINE U16s narrow_to_half(F32s x) {
  U16s half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return unordered(x) ? U16s(0x7e00) : half;
}
#endif

}  // namespace
}  // namespace tallies

#if !defined(__CUDA_ARCH__)
#include "kernels/lanes/soft_half.h"
#endif
