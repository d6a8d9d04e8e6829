// Pairs of vectors in and out of memory, by element type. bfloat16 splits a vector of 32-bit words
// into its even and odd elements, one instruction each, instead of widening two halves in order:
// elementwise work does not care, and what does asks `kInterleaved` or loads `in_order`.
// Rounding is to nearest even. `store2` stores every NaN as the canonical one of the type;
// `store2_numbers` is for values that hold none, one comparison an element less.
#pragma once

#include "core/dtype.h"
#include "kernels/lanes.h"

namespace tallies {
namespace {

struct Pair {
  F32s v[2];
};
constexpr int kPair = 2 * kLanes;

TALLIES_INLINE F32s canonical(F32s x) {
  return floats_of(select(unordered(x), all(kQuietNan), bits_of(x)));
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
  static TALLIES_INLINE Pair load2(const Word* p) {
    return {{widen_half(load<U16s>(p)), widen_half(load<U16s>(p + kLanes))}};
  }
  static TALLIES_INLINE F32s in_order(const Word* p) { return widen_half(load<U16s>(p)); }
  static TALLIES_INLINE void store_in_order(Word* p, F32s x) { store(p, narrow_to_half(x)); }
  static TALLIES_INLINE void store2_numbers(Word* p, Pair x) {
    store(p, narrow_to_half(x.v[0]));
    store(p + kLanes, narrow_to_half(x.v[1]));
  }
  static TALLIES_INLINE void store2(Word* p, Pair x) { store2_numbers(p, canonical(x)); }
};

// The element of a pair in each lane of half h.
template <class T>
TALLIES_INLINE I32s elements_of_half(int h) {
  return T::kInterleaved ? 2 * lane_numbers() + h : lane_numbers() + h * kLanes;
}

// The bit of a packed mask that belongs to each lane of a pair: bits[h][lane] has it set.
template <class T>
struct LaneBits {
  I32s bits[2];
  TALLIES_INLINE LaneBits() {
    for (int h = 0; h < 2; ++h) bits[h] = all(1) << elements_of_half<T>(h);
  }
  // The mask of half h, from the bits of kPair elements.
  TALLIES_INLINE Mask of(std::uint32_t packed, std::size_t h) const {
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
