// Pairs of vectors in and out of memory, by element type. bfloat16 splits a vector of 32-bit words
// into its even and odd elements, one instruction each, instead of widening two halves in order:
// elementwise work does not care, and what does asks `kInterleaved` or loads `in_order`.
// Rounding is to nearest even. `store2` stores every NaN as the canonical one of the type;
// `store2_numbers` is for values that hold none, one comparison an element less.
#pragma once

#include "core/dtype.h"
#include "core/small_float.h"
#include "kernels/lanes.h"

namespace tallies {
namespace {

struct Pair {
  F32s v[2];
};
constexpr int kPair = 2 * kLanes;

TALLIES_INLINE F32s canonical(F32s x) {
  return floats_of(select(unordered(x), all(0x7fc00000), bits_of(x)));
}
TALLIES_INLINE Pair canonical(Pair x) { return {{canonical(x.v[0]), canonical(x.v[1])}}; }

struct Float32 {
  using Word = float;
  static constexpr DType kDType = DType::f32;
  static constexpr bool kInterleaved = false;
  static TALLIES_INLINE Pair load2(const Word* p) {
    return {{load<F32s>(p), load<F32s>(p + kLanes)}};
  }
  static TALLIES_INLINE F32s in_order(const Word* p) { return load<F32s>(p); }
  static TALLIES_INLINE void store_in_order(Word* p, F32s x) { store(p, x); }
  static TALLIES_INLINE void store2_numbers(Word* p, Pair x) {
    store(p, x.v[0]);
    store(p + kLanes, x.v[1]);
  }
  static TALLIES_INLINE void store2(Word* p, Pair x) { store2_numbers(p, canonical(x)); }
};

struct BFloat16 {
  using Word = std::uint16_t;
  static constexpr DType kDType = DType::bf16;
  static constexpr bool kInterleaved = true;
  static TALLIES_INLINE Pair load2(const Word* p) {
    const U32s words = load<U32s>(p);
    return {{floats_of(signed_of(words << 16)), floats_of(signed_of(words & 0xffff0000u))}};
  }
  static TALLIES_INLINE F32s in_order(const Word* p) {
    return floats_of(signed_of(to_words(load<U16s>(p)) << 16));
  }
  static TALLIES_INLINE void store_in_order(Word* p, F32s x) {
    store(p, to_halves(rounded(x) >> 16));
  }
  static TALLIES_INLINE void store2_numbers(Word* p, Pair x) {
    store(p, (rounded(x.v[0]) >> 16) | (rounded(x.v[1]) & 0xffff0000u));
  }
  static TALLIES_INLINE void store2(Word* p, Pair x) { store2_numbers(p, canonical(x)); }

 private:
  // The upper half of each word is the result.
  static TALLIES_INLINE U32s rounded(F32s x) {
    const U32s word = unsigned_of(bits_of(x));
    return word + 0x7fffu + ((word >> 16) & 1u);
  }
};

struct Float16 {
  using Word = std::uint16_t;
  static constexpr DType kDType = DType::f16;
  static constexpr bool kInterleaved = false;

  static TALLIES_INLINE F32s widen(U16s half) {
#if defined(__CUDA_ARCH__)
    F32s x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
    return x;
#elif defined(__AVX512F__)
    return _mm512_cvtph_ps((__m256i)half);
#elif defined(__F16C__)
    return _mm256_cvtph_ps((__m128i)half);
#else
    const U32s word = to_words(half);
    const I32s magnitude = signed_of((word & 0x7fffu) << 13);
    // Read as float32 the pattern is 2^-112 times the value, subnormals included.
    const I32s scaled = bits_of(floats_of(magnitude) * 0x1p112f);
    const I32s special = scaled | 0x7f800000;
    const I32s quiet = select(greater(magnitude, all(0x0f800000)), special | 0x00400000, special);
    const I32s value = select(greater(magnitude, all(0x0f7fffff)), quiet, scaled);
    return floats_of(value | signed_of((word & 0x8000u) << 16));
#endif
  }
  static TALLIES_INLINE U16s narrow(F32s x) {
#if defined(__CUDA_ARCH__)
    U16s half;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
    return unordered(x) ? U16s(0x7e00) : half;
#elif defined(__AVX512F__)
    return (U16s)_mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#elif defined(__F16C__)
    return (U16s)_mm256_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT);
#else
    const I32s size = magnitude(x);
    const I32s sign = signed_of(unsigned_of(bits_of(x)) >> 16) & 0x8000;
    // 0.5 has the smallest half subnormal as its last place, so the sum rounds to one.
    const I32s subnormal = bits_of(floats_of(size) + 0.5f) - 0x3f000000;
    const U32s even = (unsigned_of(size) >> 13) & 1u;
    const I32s normal = signed_of((unsigned_of(size) - 0x38000000u + 0xfffu + even) >> 13);
    const I32s finite = select(greater(all(0x38800000), size), subnormal, normal);
    const I32s special = select(greater(size, all(0x7f800000)), all(0x7e00), all(0x7c00));
    return to_halves(unsigned_of(select(greater(size, all(0x477fffff)), special, finite) | sign));
#endif
  }

  static TALLIES_INLINE Pair load2(const Word* p) {
    return {{widen(load<U16s>(p)), widen(load<U16s>(p + kLanes))}};
  }
  static TALLIES_INLINE F32s in_order(const Word* p) { return widen(load<U16s>(p)); }
  static TALLIES_INLINE void store_in_order(Word* p, F32s x) { store(p, narrow(x)); }
  static TALLIES_INLINE void store2_numbers(Word* p, Pair x) {
    store(p, narrow(x.v[0]));
    store(p + kLanes, narrow(x.v[1]));
  }
  static TALLIES_INLINE void store2(Word* p, Pair x) { store2_numbers(p, canonical(x)); }
};

// Which element of a pair each lane of half h is.
template <class T>
TALLIES_INLINE I32s elements_of_half(int h) {
  return T::kInterleaved ? 2 * lane_numbers() + h : lane_numbers() + h * kLanes;
}

// Which lane of a pair a bit of a packed mask belongs to: bits[h][lane] has that bit set.
template <class T>
struct LaneBits {
  I32s bits[2];
  TALLIES_INLINE LaneBits() {
    for (int h = 0; h < 2; ++h) bits[h] = all(1) << elements_of_half<T>(h);
  }
  // The mask of half h, from the bits of kPair elements.
  TALLIES_INLINE Mask of(std::uint32_t packed, int h) const {
    return common_bits(all(static_cast<std::int32_t>(packed)), bits[h]);
  }
};

// Signs as int8 in the lane order of T.
template <class T>
struct Signs {
  struct Halves {
    I32s v[2];
  };
  static TALLIES_INLINE Halves load2(const std::int8_t* p) {
    if constexpr (T::kInterleaved) {
      const I32s words = signed_of(to_words(load<U16s>(p)));
      return {{(words << 24) >> 24, (words << 16) >> 24}};
    } else {
      return {{to_ints(load<I8s>(p)), to_ints(load<I8s>(p + kLanes))}};
    }
  }
};

}  // namespace
}  // namespace tallies
