// Gate, vote and blend fused in registers: out = base + scale * blend(gate(weight * delta)).
// Reference: tests/reference/{task_arithmetic,linear,ties}.py.
#pragma once

#include "kernels/across.h"
#include "kernels/agree.h"
#include "kernels/blocks.h"
#include "kernels/entry.h"
#include "kernels/outputs.h"
#include "kernels/totals.h"

namespace tallies {
namespace {

// An election by the sum or the count of the weighted survivors, or by signs handed in. A value
// of zero never agrees. A sum that is NaN (a NaN, or both infinities) is the result, and no vote.
template <Vote kVote, class Agreeing>
struct Elected {
  static constexpr bool kBySum = kVote == Vote::sum || kVote == Vote::unweighted_sum;
  struct Acc {
    F32s sum{};
    I32s n_plus{}, n_minus{};
    typename Agreeing::Acc agreeing;
  };
  static TALLIES_INLINE void step(Acc& a, const Entry& entry, float weight) {
    a.sum = add_if(entry.passes, a.sum, entry.vote);
    a.n_plus = count_if(entry.plus, a.n_plus);
    a.n_minus = count_if(entry.minus, a.n_minus);
    Agreeing::step(a.agreeing, entry.plus, entry.minus, entry.value, weight);
  }
  static TALLIES_INLINE I32s vote(const Acc& a, I32s given) {
    if constexpr (kVote == Vote::given) return sign_of(given);
    // The sum is never -0, so its pattern has its sign.
    return sign_of(kBySum ? bits_of(a.sum) : a.n_plus - a.n_minus);
  }
  static TALLIES_INLINE I32s conflict(const Acc& a) {
    return smaller(smaller(a.n_plus, a.n_minus), all(1));
  }
  static TALLIES_INLINE F32s finish(const Acc& a, float, const ZeroSign& zero, I32s given,
                                    LaneTally& tally) {
    const I32s sign = vote(a, given), both_signs = conflict(a);
    tally.signs += sign;
    tally.conflicts += both_signs;
    tally.cancellations += both_signs & ~sign;
    const Mask plus = greater(sign, zero.plus_above), minus = greater(zero.minus_below, sign);
    const I32s n = larger(select(minus, a.n_minus, a.n_plus), all(1));
    return Agreeing::finish(a.agreeing, plus, minus, n);
  }
  static TALLIES_INLINE I32s watched(const Acc& a) { return magnitude(a.sum); }
  static TALLIES_INLINE F32s repair(const Acc& a, I32s given, F32s result, LaneTally& tally) {
    const Mask nan = unordered(a.sum);
    const I32s sign = select(nan, vote(a, given), I32s{});
    const I32s both_signs = select(nan, conflict(a), I32s{});
    tally.signs -= sign;
    tally.conflicts -= both_signs;
    tally.cancellations -= both_signs & ~sign;
    return select(nan, a.sum, result);
  }
};

template <Vote kVote, Blend kBlend>
struct RuleOf {
  using Type = Total<kBlend>;
};
template <>
struct RuleOf<Vote::none, Blend::score_weighted_mean> {
  using Type = VoteWeighted;
};
template <>
struct RuleOf<Vote::none, Blend::fused_sum> {
  using Type = FusedTotal<Blend::fused_sum>;
};
template <>
struct RuleOf<Vote::none, Blend::fused_mean> {
  using Type = FusedTotal<Blend::fused_mean>;
};
template <>
struct RuleOf<Vote::none, Blend::largest> {
  using Type = Largest;
};
template <>
struct RuleOf<Vote::none, Blend::swapped> {
  using Type = Swapped;
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
TALLIES_AGREEING(clamped_mean_of_agreeing, ClampedMeanOfAgreeing)
TALLIES_AGREEING(largest_agreeing, LargestAgreeing)
#undef TALLIES_AGREEING

template <Gate kGate, Vote kVote, Blend kBlend>
struct EntryOf {
  using Type = WeightedEntry<kGate>;
};
template <Gate kGate, Vote kVote, Blend kBlend>
  requires((kGate == Gate::all || kGate == Gate::magnitude) &&
           (kVote == Vote::unweighted_sum || kVote == Vote::unweighted_count))
struct EntryOf<kGate, kVote, kBlend> {
  using Type = UnweightedVoteEntry<kGate>;
};
template <Gate kGate>
struct EntryOf<kGate, Vote::none, Blend::alone_or_mean> {
  using Type = SharedEntry;
};
template <>
struct EntryOf<Gate::all, Vote::none, Blend::fused_sum> {
  using Type = BareEntry;
};
template <>
struct EntryOf<Gate::all, Vote::none, Blend::fused_mean> {
  using Type = BareEntry;
};
template <>
struct EntryOf<Gate::all, Vote::none, Blend::swapped> {
  using Type = SwappedEntry;
};
template <Vote kVote, Blend kBlend>
struct EntryOf<Gate::variance, kVote, kBlend> {
  using Type = VarianceEntry;
};
template <Vote kVote, Blend kBlend>
struct EntryOf<Gate::score, kVote, kBlend> {
  using Type = ScoreEntry;
};

template <Vote kVote, Blend kBlend>
struct EntryOf<Gate::random, kVote, kBlend> {
  using Type = RandomEntry<kVote>;
};

// True if an entry depends on all experts of its element.
template <class ToEntry>
concept Looks = requires { typename ToEntry::Seen; };

// True if `settle` may leave doubts, which the exact numbers of the block's deltas settle.
template <class ToEntry>
concept Doubts = Looks<ToEntry> && requires { typename ToEntry::Exact; };

template <class Seen, std::size_t kVectors>
TALLIES_INLINE Mask all_sure(const Seen (&seen)[kVectors]) {
  Mask sure = seen[0].is_sure;
  for (std::size_t k = 1; k < kVectors; ++k) sure = both(sure, seen[k].is_sure);
  return sure;
}

// True if the entries of a block are made together, because each takes long chains of operations.
template <class ToEntry>
concept Together = Looks<ToEntry> && ToEntry::kTogether;

// True if an entry depends on the number of its element.
template <class ToEntry>
concept Draws = requires(const ToEntry& entry) { entry.chances; };

template <class ToEntry, class Args>
TALLIES_INLINE ToEntry make_entry(const Args& args, int expert) {
  if constexpr (Looks<ToEntry> || Draws<ToEntry>)
    return ToEntry(args, expert);
  else
    return ToEntry(args.floors[expert], args.weights[expert]);
}

// True if zero votes take a sign.
template <class Rule>
concept Elects = requires { Rule::kBySum; };

// Merges kPairs pairs of elements from element i on, those of expert e from at(e) on and the base's
// from at(n_experts) on. Args are CombineArgs, with host or device pointers. Calls put(write):
// write(scale, out, lanes) writes the elements, and returns whether some may be NaN or infinite.
template <class T, bool kDelta, class ToEntry, class Rule, std::size_t kPairs, class Args, class At,
          class Put>
TALLIES_INLINE void merge_block(const Args& args, const ZeroSign& zero, std::size_t i, const At& at,
                                const std::int8_t* signs, LaneTally& lanes, const Put& put) {
  Pair base[kPairs] = {};
  typename Rule::Acc acc[kPairs][2] = {};
  if constexpr (kDelta) {
    const auto* p = at(args.n_experts);
    for (std::size_t u = 0; u < kPairs; ++u) base[u] = T::load2(p + u * kPair);
  }
  const auto for_each_delta = TALLIES_LAMBDA(const auto& step) {
    for (int e = 0; e < args.n_experts; ++e) {
      const auto* p = at(e);
      const ToEntry entry = make_entry<ToEntry>(args, e);
      for (std::size_t u = 0; u < kPairs; ++u) {
        const Pair x = T::load2(p + u * kPair);
        for (std::size_t h = 0; h < 2; ++h)
          step(entry, kDelta ? x.v[h] - base[u].v[h] : x.v[h], u, h);
      }
    }
  };
  if constexpr (Looks<ToEntry>) {
    typename ToEntry::Seen seen[2 * kPairs];
    for_each_delta(TALLIES_LAMBDA(const ToEntry& entry, F32s delta, auto u, auto h) {
      entry.see(seen[2 * u + h], delta);
    });
    for (auto& one : seen) ToEntry::settle(one, args);
    if constexpr (Doubts<ToEntry>) {
      if (any(but_not(all_if(true), all_sure(seen)))) [[unlikely]] {
        typename ToEntry::Exact exact[2 * kPairs];
        for_each_delta(TALLIES_LAMBDA(const ToEntry& entry, F32s delta, auto u, auto h) {
          entry.see(exact[2 * u + h], delta);
        });
        for (std::size_t k = 0; k < 2 * kPairs; ++k) ToEntry::settle(seen[k], exact[k], args);
      }
    }
    if constexpr (Together<ToEntry>) {
      F32s deltas[2 * kPairs];
      for_each_delta(TALLIES_LAMBDA(const ToEntry& entry, F32s delta, auto u, auto h) {
        deltas[2 * u + h] = delta;
        if (u < kPairs - 1 || h == 0) return;
        Entry entries[2 * kPairs];
        entry.entries(deltas, seen, entries);
        for (std::size_t k = 0; k < 2 * kPairs; ++k)
          Rule::step(acc[k / 2][k % 2], entries[k], entry.weight);
      });
    } else {
      for_each_delta(TALLIES_LAMBDA(const ToEntry& entry, F32s delta, auto u, auto h) {
        Rule::step(acc[u][h], entry(delta, seen[2 * u + h]), entry.weight);
      });
    }
  } else if constexpr (Draws<ToEntry>) {
    U32s elements[kPairs][2];
    for (std::size_t u = 0; u < kPairs; ++u)
      for (int h = 0; h < 2; ++h)
        elements[u][h] = unsigned_of(elements_of_half<T>(h)) +
                         static_cast<std::uint32_t>(args.first + i + u * kPair);
    for_each_delta(TALLIES_LAMBDA(const ToEntry& entry, F32s delta, auto u, auto h) {
      Rule::step(acc[u][h], entry(delta, elements[u][h]), entry.weight);
    });
  } else {
    for_each_delta(TALLIES_LAMBDA(const ToEntry& entry, F32s delta, auto u, auto h) {
      Rule::step(acc[u][h], entry(delta), entry.weight);
    });
  }
  F32s merged[kPairs][2];
  I32s watched{};
  const auto finish = TALLIES_LAMBDA(const ZeroSign& sign, LaneTally& tally) {
    for (std::size_t u = 0; u < kPairs; ++u) {
      const auto given = Signs<T>::load2(signs + u * kPair);
      for (int h = 0; h < 2; ++h)
        merged[u][h] = Rule::finish(acc[u][h], args.divisor, sign, given.v[h], tally);
    }
  };
  const auto write = TALLIES_LAMBDA(float scale, typename T::Word* out, LaneTally& tally) {
    Pair results[kPairs];
    I32s largest = watched;
    for (std::size_t u = 0; u < kPairs; ++u) {
      for (int h = 0; h < 2; ++h) {
        const F32s scaled = scale * merged[u][h];
        results[u].v[h] = kDelta ? base[u].v[h] + scaled : scaled;
        largest = larger(largest, magnitude(results[u].v[h]));
      }
      T::store2_numbers(out + u * kPair, results[u]);
    }
    const bool is_large = any(greater(largest, all(args.overflow - 1)));
    if (is_large) [[unlikely]] {
      for (std::size_t u = 0; u < kPairs; ++u) {
        const auto given = Signs<T>::load2(signs + u * kPair);
        for (int h = 0; h < 2; ++h) {
          F32s& result = results[u].v[h];
          result = Rule::repair(acc[u][h], given.v[h], result, tally);
          tally.largest = larger(tally.largest, magnitude(result));
        }
        T::store2(out + u * kPair, results[u]);
      }
    }
    return is_large;
  };
  for (std::size_t u = 0; u < kPairs; ++u)
    for (int h = 0; h < 2; ++h) watched = larger(watched, Rule::watched(acc[u][h]));
  finish(zero, lanes);
  put(write);
  if constexpr (Elects<Rule> && PutsOpposites<Put>) {
    if (!put.asks_opposites()) return;
    LaneTally ignored;
    finish(ZeroSign(-args.zero_sign), ignored);
    put.opposites(write);
  }
}

template <class T, bool kDelta, Vote kVote, class ToEntry, class Rule>
void combine_as(const CombineArgs& args, CombineTally& tally) {
  using Word = typename T::Word;
  // Two pairs in flight hide the latency of the accumulators; wider spills on 16 registers.
  constexpr std::size_t kPairs = kLanes == 16 && !Looks<ToEntry> ? 2 : 1;
  constexpr std::size_t kBlock = kPairs * kPair;
  const Word* inputs[kMaxExperts + 1];
  for (int e = 0; e < args.n_experts; ++e) inputs[e] = static_cast<const Word*>(args.experts[e]);
  inputs[args.n_experts] = static_cast<const Word*>(args.base);

  const ZeroSign zero(kVote == Vote::given ? 0 : args.zero_sign);
  LaneTally lanes;
  const auto body =
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
    std::int8_t signs[kBlock] = {};
    if constexpr (kVote == Vote::given) __builtin_memcpy(signs, args.signs + i, n);
    const auto at = TALLIES_LAMBDA(int row) {
      const Word* p = rows[row] + first;
      prefetch_block(p, kBlock);
      return p;
    };
    merge_block<T, kDelta, ToEntry, Rule, kPairs>(args, zero, i, at, signs, lanes,
                                                  Outputs<Word, kBlock>{args, i, n, lanes});
  };
  for_each_block<kBlock>(inputs, args.n_experts + (kDelta ? 1 : 0), args.n, body);
  lanes.add_to(tally, args.overflow);
}

template <class T, Gate kGate, Vote kVote, Blend kBlend>
void combine(const CombineArgs& args, CombineTally& tally) {
  using Rule = typename RuleOf<kVote, kBlend>::Type;
  using ToEntry = typename EntryOf<kGate, kVote, kBlend>::Type;
  if constexpr (kGate == Gate::magnitude && kVote == Vote::sum && kBlend == Blend::mean_of_agreeing)
    if (args.base != nullptr && UnweightedEntry::fits(args))
      return combine_as<T, true, kVote, UnweightedEntry, Rule>(args, tally);
  if (Draws<ToEntry> || args.base != nullptr)
    return combine_as<T, true, kVote, ToEntry, Rule>(args, tally);
  if constexpr (!Draws<ToEntry>) combine_as<T, false, kVote, ToEntry, Rule>(args, tally);
}

}  // namespace
}  // namespace tallies
