// Tests that put an element into a packed mask, and the results for elements in one.
// Reference: tests/reference/masks.py, tall.py, emr.py, bitdelta.py.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

struct AboveFloor {
  std::int32_t floor;
  TALLIES_INLINE Mask operator()(F32s x) const { return greater(magnitude(x), all(floor)); }
};

// x stands out of the rest of a merged vector.
struct Tall {
  float lambda;
  static TALLIES_INLINE F32s rest(F32s x, F32s merged) { return floats_of(magnitude(merged - x)); }
  TALLIES_INLINE Mask beside(F32s x, F32s rest) const {
    return greater(floats_of(magnitude(x)), lambda * rest);
  }
  TALLIES_INLINE Mask operator()(F32s x, F32s merged) const { return beside(x, rest(x, merged)); }
};

// Neither is zero or NaN.
struct SameSign {
  TALLIES_INLINE Mask operator()(F32s a, F32s b) const {
    return either(both(greater(a, F32s{}), greater(b, F32s{})),
                  both(greater(F32s{}, a), greater(F32s{}, b)));
  }
};

// Not below zero; NaN is not.
struct NotNegative {
  TALLIES_INLINE Mask operator()(F32s x) const { return not_less(x, F32s{}); }
};

// Finds the elements that at least so many masks have, as many elements as Words has bits.
// Bit-sliced: counter[b] holds bit b of the number of masks that have each element.
template <class Words>
struct Claimed {
  static constexpr int kMostBits = 9;  // counts to 511, above kMaxExperts
  int n_masks, at_least, n_bits = 1;
  TALLIES_INLINE Claimed(int n_masks_, int at_least_) : n_masks(n_masks_), at_least(at_least_) {
    while (n_masks >> n_bits != 0 || at_least >> n_bits != 0) ++n_bits;
  }
  // mask(row) gives that mask's bits.
  template <class Mask>
  TALLIES_INLINE Words operator()(const Mask& mask) const {
    Words counter[kMostBits] = {};
    for (int row = 0; row < n_masks; ++row) {
      Words carry = mask(row);
      for (int b = 0; b < n_bits; ++b) {
        const Words sum = counter[b] ^ carry;
        carry &= counter[b];
        counter[b] = sum;
      }
    }
    // counter >= at_least, from the highest bit down
    Words above{}, same = ~Words{};
    for (int b = n_bits - 1; b >= 0; --b) {
      if ((at_least >> b) & 1) {
        same &= counter[b];
      } else {
        above |= same & counter[b];
        same &= ~counter[b];
      }
    }
    return above | same;
  }
};

// base + scale * (in the mask ? shared : +0)
struct Masked {
  float scale;
  TALLIES_INLINE F32s operator()(Mask in, F32s base, F32s shared) const {
    return base + select(in, scale * shared, scale * F32s{});
  }
};

// base + (in the mask ? size : -size)
struct Signed {
  float size;
  TALLIES_INLINE F32s operator()(Mask in, F32s base, F32s) const {
    return base + select(in, all(size), -all(size));
  }
};

}  // namespace
}  // namespace tallies
