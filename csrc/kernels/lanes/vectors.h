// Vectors of kLanes numbers through the compiler's vector types, the same for every instruction
// set; casts and conversions have names. The file of an instruction set defines kLanes first.
#pragma once

#include <cstddef>
#include <cstdint>

#define TALLIES_INLINE inline __attribute__((always_inline))

namespace tallies {
namespace {

typedef float F32s __attribute__((vector_size(4 * kLanes)));
typedef std::int32_t I32s __attribute__((vector_size(4 * kLanes)));
typedef std::uint32_t U32s __attribute__((vector_size(4 * kLanes)));
typedef std::uint16_t U16s __attribute__((vector_size(2 * kLanes)));
typedef std::int8_t I8s __attribute__((vector_size(kLanes)));
typedef std::uint64_t U64s __attribute__((vector_size(4 * kLanes)));

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

template <class Total>
TALLIES_INLINE Total total(I32s v) {
  Total sum = 0;
  for (int lane = 0; lane < kLanes; ++lane) sum += static_cast<Total>(v[lane]);
  return sum;
}

}  // namespace
}  // namespace tallies
