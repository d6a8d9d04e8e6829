// One expert's delta on its way to the vote: weighted, gated, and with the sign it votes for.
#pragma once

#include "core/table.h"
#include "kernels/chance.h"

namespace tallies {
namespace {

struct Entry {
  F32s value;
  F32s vote;                 // the term of a vote by sum
  Mask passes, plus, minus;  // a zero has no sign; NaN passes, and is the result whatever its sign
};

// Any weight and floor.
template <Gate kGate>
struct WeightedEntry {
  I32s floor;
  float weight;
  TALLIES_INLINE WeightedEntry(std::int32_t floor_, float weight_)
      : floor(all(floor_)), weight(weight_) {}
  TALLIES_INLINE Entry operator()(F32s delta) const {
    const Mask passes = kGate == Gate::all ? all_if(true) : greater(magnitude(delta), floor);
    const F32s y = delta * weight;
    return {y, y, passes, both(passes, greater(y, F32s{})), both(passes, greater(F32s{}, y))};
  }
};

// The delta itself, for a blend that multiplies by the weight.
struct BareEntry {
  float weight;
  TALLIES_INLINE BareEntry(std::int32_t, float weight_) : weight(weight_) {}
  TALLIES_INLINE Entry operator()(F32s delta) const {
    const Mask passes = all_if(true);
    return {delta, delta, passes, passes, passes};
  }
};

// The same with a vote that the weight does not change.
template <Gate kGate>
struct UnweightedVoteEntry : WeightedEntry<kGate> {
  using WeightedEntry<kGate>::WeightedEntry;
  TALLIES_INLINE Entry operator()(F32s delta) const {
    const Mask passes = kGate == Gate::all ? all_if(true) : greater(magnitude(delta), this->floor);
    return {delta * this->weight, delta, passes, both(passes, greater(delta, F32s{})),
            both(passes, greater(F32s{}, delta))};
  }
};

// Weight 1, as TIES was published: comparing with both ends of the gate gives the signs as well,
// two operations of twelve less.
struct UnweightedEntry {
  F32s least;  // magnitude that passes, above zero
  static constexpr float weight = 1.0f;
  TALLIES_INLINE UnweightedEntry(std::int32_t floor, float)
      : least(floats_of(all(floor < 0 ? 1 : floor + 1))) {}
  TALLIES_INLINE Entry operator()(F32s delta) const {
    const Mask plus = not_less(delta, least), minus = not_less(-least, delta);
    return {delta, delta, either(plus, minus), plus, minus};
  }
  template <class Args>
  static bool fits(const Args& args) {
    for (int e = 0; e < args.n_experts; ++e)
      if (args.weights[e] != 1.0f || args.floors[e] >= kInfinityBits) return false;
    return true;
  }
};

// DARE: entries that pass at random, NaN always, and that then exceed a floor.
template <Vote kVote>
struct RandomEntry {
  Chances chances;
  I32s chance, floor;
  float factor, weight;
  template <class Args>
  TALLIES_INLINE RandomEntry(const Args& args, int expert)
      : chances(args.draws[expert].key, args.first),
        chance(all(args.draws[expert].chance)),
        floor(all(args.floors[expert])),
        factor(args.draws[expert].factor),
        weight(args.weights[expert]) {}
  TALLIES_INLINE Entry operator()(F32s delta, U32s elements) const {
    const Mask drawn = either(greater(chance, chances.of(elements)), unordered(delta));
    const F32s x = delta * factor, y = x * weight;
    const Mask passes = both(drawn, greater(magnitude(x), floor));
    constexpr bool kUnweighted = kVote == Vote::unweighted_sum || kVote == Vote::unweighted_count;
    const F32s vote = kUnweighted ? x : y;
    return {y, vote, passes, both(passes, greater(vote, F32s{})),
            both(passes, greater(F32s{}, vote))};
  }
};

}  // namespace
}  // namespace tallies
