// Gate, vote and blend fused in registers: out = base + scale * blend(gate(weight * delta)).
// Reference: tests/reference/{task_arithmetic,linear,ties}.py.
#pragma once

#include "kernels/agree.h"
#include "kernels/blocks.h"
#include "kernels/entry.h"

namespace tallies {
namespace {

// The sign that a cancelled vote takes, as masks of all lanes or none.
struct ZeroSign {
  Mask plus, minus;
  explicit TALLIES_INLINE ZeroSign(int sign) : plus(all_if(sign > 0)), minus(all_if(sign < 0)) {}
};

// What a block of elements adds to the CombineTally, lane by lane.
struct LaneTally {
  I32s plus{}, minus{}, conflicts{}, cancellations{}, largest{};

  // Lanes count up to 2^31, far above the blocks in a call.
  TALLIES_INLINE void add_to(CombineTally& t, std::int32_t overflow) const {
    t.sign_sum += total<std::int64_t>(plus) - total<std::int64_t>(minus);
    t.conflicts += total<std::uint64_t>(conflicts);
    t.cancellations += total<std::uint64_t>(cancellations);
    t.overflow |= any(greater(largest, all(overflow - 1)));
  }
};

// No election: every survivor counts.
template <Blend kBlend>
struct Total {
  struct Acc {
    F32s sum{};
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float) {
    a.sum = add_if(entry.stays, a.sum, entry.value);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float divisor, const ZeroSign&, I32s,
                                    LaneTally&) {
    return kBlend == Blend::mean ? a.sum / divisor : a.sum;
  }
};

// An election by the sum or the count of the weighted survivors, or by signs handed in. A value
// of zero never agrees. A sum that is NaN (a NaN, or both infinities) is the result.
template <Vote kVote, class Agreeing>
struct Elected {
  struct Acc {
    F32s sum{};
    I32s n_plus{}, n_minus{};
    typename Agreeing::Acc agreeing;
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float weight) {
    a.sum = add_if(entry.stays, a.sum, entry.value);
    a.n_plus = count_if(entry.plus, a.n_plus);
    a.n_minus = count_if(entry.minus, a.n_minus);
    Agreeing::step(a.agreeing, entry.plus, entry.minus, entry.value, weight);
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float, const ZeroSign& zero, I32s signs,
                                    LaneTally& tally) {
    const Mask both_signs = both(greater(a.n_plus, I32s{}), greater(a.n_minus, I32s{}));
    const Mask conflict = but_not(both_signs, unordered(a.sum));
    Mask plus, minus;
    if constexpr (kVote == Vote::sum) {
      plus = greater(a.sum, F32s{});
      minus = greater(F32s{}, a.sum);
    } else if constexpr (kVote == Vote::count) {
      plus = greater(a.n_plus, a.n_minus);
      minus = greater(a.n_minus, a.n_plus);
    } else {
      plus = greater(signs, I32s{});
      minus = greater(I32s{}, signs);
    }
    tally.plus = count_if(plus, tally.plus);
    tally.minus = count_if(minus, tally.minus);
    tally.conflicts = count_if(conflict, tally.conflicts);
    if constexpr (kVote != Vote::given) {
      const Mask tie = kVote == Vote::sum ? equal(a.sum, F32s{}) : equal(a.n_plus, a.n_minus);
      const Mask cancelled = both(conflict, tie);
      tally.cancellations = count_if(cancelled, tally.cancellations);
      plus = either(plus, both(cancelled, zero.plus));
      minus = either(minus, both(cancelled, zero.minus));
    }
    I32s n = select(plus, a.n_plus, select(minus, a.n_minus, all(1)));
    if constexpr (kVote == Vote::given) n = larger(n, all(1));
    // Where a sum elects no sign it is zero or NaN, and so the result as it stands.
    if constexpr (kVote == Vote::sum)
      return Agreeing::finish(a.agreeing, plus, minus, n, a.sum);
    else
      return select(unordered(a.sum), a.sum, Agreeing::finish(a.agreeing, plus, minus, n, F32s{}));
  }
};

template <Vote kVote, Blend kBlend>
struct RuleOf {
  using Type = Total<kBlend>;
};
#define TALLIES_AGREEING(blend, Agreeing)  \
  template <Vote kVote>                    \
    requires(kVote != Vote::none)          \
  struct RuleOf<kVote, Blend::blend> {     \
    using Type = Elected<kVote, Agreeing>; \
  };
TALLIES_AGREEING(sum_of_agreeing, SumOfAgreeing)
TALLIES_AGREEING(mean_of_agreeing, MeanOfAgreeing)
TALLIES_AGREEING(weighted_mean_of_agreeing, WeightedMeanOfAgreeing)
TALLIES_AGREEING(largest_agreeing, LargestAgreeing)
#undef TALLIES_AGREEING

template <class T, bool kDelta, Vote kVote, class ToEntry, class Rule>
void combine_as(const CombineArgs& args, CombineTally& tally) {
  using Word = typename T::Word;
  // Two pairs in flight hide the latency of the accumulators; wider spills on 16 registers.
  constexpr int kPairs = kLanes == 16 ? 2 : 1;
  constexpr int kBlock = kPairs * kPair;
  const Word* inputs[kMaxExperts + 1];
  for (int e = 0; e < args.n_experts; ++e) inputs[e] = static_cast<const Word*>(args.experts[e]);
  inputs[args.n_experts] = static_cast<const Word*>(args.base);

  const ZeroSign zero(args.zero_sign);
  const float divisor = args.divisor, scale = args.scale;
  LaneTally lanes;
  Word* const out = static_cast<Word*>(args.out);
  const auto body = [&](const Word* const* rows, std::size_t first, std::size_t i,
                        std::size_t n) __attribute__((always_inline)) {
    Pair base[kPairs] = {};
    typename Rule::Acc acc[kPairs][2] = {};
    if constexpr (kDelta) {
      const Word* p = rows[args.n_experts] + first;
      prefetch_block(p, kBlock);
      for (int u = 0; u < kPairs; ++u) base[u] = T::load2(p + u * kPair);
    }
    for (int e = 0; e < args.n_experts; ++e) {
      const Word* p = rows[e] + first;
      prefetch_block(p, kBlock);
      const ToEntry entry(args, e);
      for (int u = 0; u < kPairs; ++u) {
        const Pair x = T::load2(p + u * kPair);
        for (int h = 0; h < 2; ++h) {
          const F32s delta = kDelta ? x.v[h] - base[u].v[h] : x.v[h];
          Rule::step(acc[u][h], entry(delta), entry.weight);
        }
      }
    }
    std::int8_t signs[kBlock] = {};
    if constexpr (kVote == Vote::given) __builtin_memcpy(signs, args.signs + i, n);
    Word last[kBlock];
    Word* const to = n == kBlock ? out + i : last;
    for (int u = 0; u < kPairs; ++u) {
      const auto given = Signs<T>::load2(signs + u * kPair);
      Pair result;
      for (int h = 0; h < 2; ++h) {
        const F32s merged = Rule::finish(acc[u][h], divisor, zero, given.v[h], lanes);
        const F32s scaled = scale * merged;
        result.v[h] = kDelta ? base[u].v[h] + scaled : scaled;
        lanes.largest = larger(lanes.largest, magnitude(result.v[h]));
      }
      T::store2(to + u * kPair, result);
    }
    if (n != kBlock) __builtin_memcpy(out + i, last, n * sizeof(Word));
  };
  for_each_block<kBlock>(inputs, args.n_experts + (kDelta ? 1 : 0), args.n, body);
  lanes.add_to(tally, args.overflow);
}

template <class T, Gate kGate, Vote kVote, Blend kBlend>
void combine(const CombineArgs& args, CombineTally& tally) {
  using Rule = typename RuleOf<kVote, kBlend>::Type;
  if constexpr (kVote == Vote::sum && kBlend == Blend::mean_of_agreeing)
    if (args.base != nullptr && UnweightedEntry::fits(args))
      return combine_as<T, true, kVote, UnweightedEntry, Rule>(args, tally);
  if (args.base != nullptr)
    combine_as<T, true, kVote, WeightedEntry<kGate>, Rule>(args, tally);
  else
    combine_as<T, false, kVote, WeightedEntry<kGate>, Rule>(args, tally);
}

// The election alone, on float32 deltas. Reference: tests/reference/elect.py.
template <Vote kVote>
void elect_signs(const float* const* deltas, const float* weights, int n_experts, int zero_sign,
                 std::int8_t* out, std::size_t n, CombineTally& tally) {
  LaneTally lanes;
  const auto body = [&](const float* const* rows, std::size_t first,
                        std::int8_t* signs) __attribute__((always_inline)) {
    F32s sum{};
    I32s n_plus{}, n_minus{};
    for (int e = 0; e < n_experts; ++e) {
      const F32s y = load<F32s>(rows[e] + first) * weights[e];
      sum = sum + y;
      n_plus = count_if(greater(y, F32s{}), n_plus);
      n_minus = count_if(greater(F32s{}, y), n_minus);
    }
    const bool by_sum = kVote == Vote::sum;
    const Mask plus = by_sum ? greater(sum, F32s{}) : greater(n_plus, n_minus);
    const Mask minus = by_sum ? greater(F32s{}, sum) : greater(n_minus, n_plus);
    lanes.plus = count_if(plus, lanes.plus);
    lanes.minus = count_if(minus, lanes.minus);
    I32s sign = select(plus, all(1), select(minus, all(-1), all(zero_sign)));
    if (by_sum) sign = select(unordered(sum), I32s{}, sign);
    store(signs, __builtin_convertvector(sign, I8s));
  };
  map_blocks<kLanes>(deltas, n_experts, out, n, body);
  lanes.add_to(tally, 0x7f800000);
}

}  // namespace
}  // namespace tallies
