// The election of signs alone, on float32 deltas. Reference: tests/reference/elect.py.
#pragma once

#include "kernels/combine.h"

namespace tallies {
namespace {

template <Vote kVote>
struct Election {
  F32s sum{};
  I32s n_plus{}, n_minus{};
  TALLIES_INLINE void step(F32s delta, float weight) {
    const F32s y = delta * weight;
    sum = sum + y;
    n_plus = count_if(greater(y, F32s{}), n_plus);
    n_minus = count_if(greater(F32s{}, y), n_minus);
  }
  // The signs, and in the tally those that were elected.
  TALLIES_INLINE I32s finish(int zero_sign, LaneTally& tally) const {
    const bool by_sum = kVote == Vote::sum;
    const Mask plus = by_sum ? greater(sum, F32s{}) : greater(n_plus, n_minus);
    const Mask minus = by_sum ? greater(F32s{}, sum) : greater(n_minus, n_plus);
    const I32s sign = select(plus, all(1), select(minus, all(-1), I32s{}));
    tally.signs += sign;
    const I32s filled = select(equal(sign, I32s{}), all(zero_sign), sign);
    return by_sum ? select(unordered(sum), I32s{}, filled) : filled;
  }
};

template <Vote kVote>
void elect_signs(const float* const* deltas, const float* weights, int n_experts, int zero_sign,
                 std::int8_t* out, std::size_t n, CombineTally& tally) {
  LaneTally lanes;
  const auto body =
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::int8_t* signs) {
    Election<kVote> election;
    for (int e = 0; e < n_experts; ++e) election.step(load<F32s>(rows[e] + first), weights[e]);
    store(signs, to_bytes(election.finish(zero_sign, lanes)));
  };
  map_blocks<kLanes>(deltas, n_experts, out, n, body);
  lanes.add_to(tally, kInfinityBits);
}

}  // namespace
}  // namespace tallies
