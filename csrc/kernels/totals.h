// Blends without an election, as accumulators over the experts of an element, and what all rules
// share: the sign of a zero vote, and tallies. Reference: tests/reference/{linear,fused,magmax}.py.
#pragma once

#include "core/table.h"
#include "kernels/entry.h"

namespace tallies {
namespace {

// Signs as whole numbers: -1, 0 or +1.
TALLIES_INLINE I32s sign_of(I32s x) { return larger(smaller(x, all(1)), all(-1)); }

// The sign that a zero vote takes, as the bounds beyond which a vote elects a sign.
struct ZeroSign {
  I32s plus_above, minus_below;
  explicit TALLIES_INLINE ZeroSign(int sign)
      : plus_above(all(sign > 0 ? -1 : 0)), minus_below(all(sign < 0 ? 1 : 0)) {}
};

// The counts of a block of elements, lane by lane, for the CombineTally.
struct LaneTally {
  I32s signs{}, conflicts{}, cancellations{}, largest{};

  // Lanes count up to 2^31, far above the blocks in a call.
  TALLIES_INLINE void add_to(CombineTally& t, std::int32_t overflow) const {
    t.sign_sum += total<std::int64_t>(signs);
    t.conflicts += total<std::uint64_t>(conflicts);
    t.cancellations += total<std::uint64_t>(cancellations);
    t.overflow |= any(greater(largest, all(overflow - 1)));
  }
};

// A rule accumulates an element over the experts (`step`) and ends with the merged value
// (`finish`), which may ignore NaN and infinity: blocks in which `watched` or a result is that
// large pass through `repair` as well. It is rare, and checking once a block is cheaper.

// No election: every survivor counts.
template <Blend kBlend>
struct Total {
  struct Acc {
    F32s sum{};
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float) {
    a.sum = add_if(entry.passes, a.sum, entry.value);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float divisor, const ZeroSign&, I32s,
                                    LaneTally&) {
    return kBlend == Blend::mean ? a.sum / divisor : a.sum;
  }
  static TALLIES_INLINE I32s watched(const Acc&) { return I32s{}; }
  static TALLIES_INLINE F32s repair(const Acc&, I32s, F32s result, LaneTally&) { return result; }
};

// The same with each product fused into the sum. The values are without their weights.
template <Blend kBlend>
struct FusedTotal : Total<kBlend> {
  struct Acc {
    F32s sum{};
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float weight) {
    a.sum = fused(entry.value, all(weight), a.sum);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float divisor, const ZeroSign&, I32s,
                                    LaneTally&) {
    return kBlend == Blend::fused_mean ? a.sum / divisor : a.sum;
  }
  static TALLIES_INLINE I32s watched(const Acc&) { return I32s{}; }
  static TALLIES_INLINE F32s repair(const Acc&, I32s, F32s result, LaneTally&) { return result; }
};

// The value of largest magnitude, the last one of equal ones; a NaN is larger than any number.
struct Largest : Total<Blend::largest> {
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float) {
    a.sum = select(greater(magnitude(a.sum), magnitude(entry.value)), a.sum, entry.value);
  }
};

// The sum of two values, a zero with the sign that the two have.
struct Swapped : Total<Blend::swapped> {
  struct Acc {
    F32s sum = all(-0.0f);
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float) {
    a.sum = a.sum + entry.value;
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float, const ZeroSign&, I32s, LaneTally&) {
    return a.sum;
  }
  static TALLIES_INLINE I32s watched(const Acc&) { return I32s{}; }
  static TALLIES_INLINE F32s repair(const Acc&, I32s, F32s result, LaneTally&) { return result; }
};

// The mean of the values, each already times its vote, over the sum of their votes.
struct VoteWeighted : Total<Blend::score_weighted_mean> {
  struct Acc {
    F32s sum{}, votes{};
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float) {
    a.sum = a.sum + entry.value;
    a.votes = a.votes + entry.vote;
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float, const ZeroSign&, I32s, LaneTally&) {
    return a.sum / select(greater(all(1e-12f), a.votes), all(1e-12f), a.votes);
  }
  static TALLIES_INLINE I32s watched(const Acc&) { return I32s{}; }
  static TALLIES_INLINE F32s repair(const Acc&, I32s, F32s result, LaneTally&) { return result; }
};

}  // namespace
}  // namespace tallies
