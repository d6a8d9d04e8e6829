// Vectors of the target's own width. Every instruction set has a file with the same names:
// arithmetic through the compiler's vector types, casts and conversions by name, and the operations
// on masks that the compiler's types express badly. Nothing else knows an instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

#include "core/magnitude.h"

#if defined(__CUDACC__) || defined(TALLIES_ONE_LANE)
#include "kernels/lanes/one_lane.h"
#elif defined(__AVX512F__)
#include "kernels/lanes/avx512.h"
#elif defined(__AVX2__)
#include "kernels/lanes/avx2.h"
#elif defined(__SSE4_1__)
#include "kernels/lanes/sse4.h"
#else
#include "kernels/lanes/generic.h"
#endif

// A body for the loops of blocks.h, which it is compiled into: TALLIES_LAMBDA(int x) { ... }.
#define TALLIES_LAMBDA(...) [&](__VA_ARGS__) __attribute__((always_inline))

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

TALLIES_INLINE I32s magnitude(F32s x) { return bits_of(x) & kMagnitudeMask; }
TALLIES_INLINE I32s rank_of(I32s magnitude) { return smaller(magnitude, all(kTop)); }

// 0, 1, 2 and so on.
TALLIES_INLINE I32s lane_numbers() {
  I32s numbers = all(0);
  for (int lane = 0; lane < kLanes; ++lane) set_lane(numbers, lane, lane);
  return numbers;
}

}  // namespace
}  // namespace tallies
