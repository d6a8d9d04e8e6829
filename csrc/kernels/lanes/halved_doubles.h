// Conversions of float64 by halves of a vector of float32, as the compiler makes them.
#pragma once

#include "kernels/lanes/vectors.h"

namespace tallies {
namespace {

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

}  // namespace
}  // namespace tallies
