// Sign election and the values that agree with it, as accumulators over the experts of an element.
// Reference: tests/reference/elect.py, tests/reference/blend.py.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// `finish` takes the sign elected of each element as two masks and how many values agree with it,
// at least 1. The result is +0 if neither sign is elected, or nothing agrees.

// Sums of both signs are kept apart: deriving one from the total would round differently.
struct SumOfAgreeing {
  struct Acc {
    F32s positive{}, negative{};
  };
  static TALLIES_INLINE void step(Acc& a, Mask plus, Mask minus, F32s y, float) {
    a.positive = add_if(plus, a.positive, y);
    a.negative = add_if(minus, a.negative, y);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, Mask plus, Mask minus, I32s) {
    return select(minus, a.negative, select(plus, a.positive, F32s{}));
  }
};

struct MeanOfAgreeing : SumOfAgreeing {
  static TALLIES_INLINE F32s finish(const Acc& a, Mask plus, Mask minus, I32s n) {
    return SumOfAgreeing::finish(a, plus, minus, n) / to_floats(n);
  }
};

// The divisor is the sum of the weights that agree, 1 where that is exactly zero.
struct WeightedMeanOfAgreeing {
  struct Acc {
    SumOfAgreeing::Acc values, weights;
  };
  static TALLIES_INLINE void step(Acc& a, Mask plus, Mask minus, F32s y, float weight) {
    SumOfAgreeing::step(a.values, plus, minus, y, weight);
    SumOfAgreeing::step(a.weights, plus, minus, all(weight), weight);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, Mask plus, Mask minus, I32s n) {
    const F32s divisor = SumOfAgreeing::finish(a.weights, plus, minus, n);
    return SumOfAgreeing::finish(a.values, plus, minus, n) /
           select(equal(divisor, F32s{}), all(1.0f), divisor);
  }
};

// Weights that are not negative; the divisor is at least 1e-6.
struct ClampedMeanOfAgreeing : WeightedMeanOfAgreeing {
  static TALLIES_INLINE F32s finish(const Acc& a, Mask plus, Mask minus, I32s n) {
    const I32s divisor = bits_of(SumOfAgreeing::finish(a.weights, plus, minus, n));
    return SumOfAgreeing::finish(a.values, plus, minus, n) /
           floats_of(larger(divisor, bits_of(all(1e-6f))));
  }
};

struct LargestAgreeing {
  using Acc = SumOfAgreeing::Acc;
  static TALLIES_INLINE void step(Acc& a, Mask plus, Mask minus, F32s y, float) {
    a.positive = select(both(plus, greater(y, a.positive)), y, a.positive);
    a.negative = select(both(minus, greater(a.negative, y)), y, a.negative);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, Mask plus, Mask minus, I32s n) {
    return SumOfAgreeing::finish(a, plus, minus, n);
  }
};

}  // namespace
}  // namespace tallies
