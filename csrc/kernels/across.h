// Entries that depend on all experts of their element: a first sweep over an element's experts
// sees them all, a second one weighs each. Reference: tests/reference/{ram,nearswap,sce,pcb}.py.
#pragma once

#include "core/table.h"
#include "kernels/elementary.h"
#include "kernels/entry.h"
#include "kernels/variance.h"

namespace tallies {
namespace {

// `see` is called with each expert in turn, `settle` once after the last of them.

// RAM: what one expert alone changed is weighted, what several changed is divided by their number.
struct SharedEntry {
  struct Seen {
    I32s n{};
  };
  I32s floor;
  float weight;
  template <class Args>
  TALLIES_INLINE SharedEntry(const Args& args, int expert)
      : floor(all(args.floors[expert])), weight(args.weights[expert]) {}
  TALLIES_INLINE void see(Seen& seen, F32s delta) const {
    seen.n = count_if(greater(magnitude(delta), floor), seen.n);
  }
  template <class Args>
  static TALLIES_INLINE void settle(Seen&, const Args&) {}
  TALLIES_INLINE Entry operator()(F32s delta, const Seen& seen) const {
    const Mask passes = greater(magnitude(delta), floor);
    const F32s n = to_floats(larger(seen.n, all(1)));
    const F32s y = select(equal(seen.n, all(1)), delta * weight, delta / n);
    return {y, y, passes, passes, passes};
  }
};

// NearSwap: of two, w times the second and 1 - w times the first, w = t / |first - second|, from 0
// to 1, by the reciprocal of a distance of at least 1e-6. The weights are t.
struct SwappedEntry {
  struct Seen {
    F32s first{}, second{}, share{};
  };
  float weight;
  bool is_first;
  template <class Args>
  TALLIES_INLINE SwappedEntry(const Args& args, int expert)
      : weight(args.weights[expert]), is_first(expert == 0) {}
  TALLIES_INLINE void see(Seen& seen, F32s value) const {
    if (is_first)
      seen.first = value;
    else
      seen.second = value;
  }
  template <class Args>
  static TALLIES_INLINE void settle(Seen& seen, const Args& args) {
    const F32s zero{}, one = all(1.0f), least = all(1e-6f);
    F32s distance = floats_of(magnitude(seen.first - seen.second));
    distance = select(greater(least, distance), least, distance);
    F32s share = (one / distance) * all(args.weights[0]);
    share = select(greater(zero, share), zero, share);
    seen.share = select(greater(share, one), one, share);
  }
  TALLIES_INLINE Entry operator()(F32s value, const Seen& seen) const {
    const F32s y = (is_first ? all(1.0f) - seen.share : seen.share) * value;
    const Mask passes = all_if(true);
    return {y, y, passes, passes, passes};
  }
};

// SCE: elements on which the experts differ most pass, for all experts.
struct VarianceEntry {
  struct Seen : RoughVariance {
    Mask passes{}, is_sure{};
  };
  using Exact = Variance;
  float weight;
  bool is_first;
  template <class Args>
  TALLIES_INLINE VarianceEntry(const Args& args, int expert)
      : weight(args.weights[expert]), is_first(expert == 0) {}
  TALLIES_INLINE void see(Seen& seen, F32s delta) const { seen.add(delta, is_first); }
  TALLIES_INLINE void see(Exact& exact, F32s delta) const { exact.add(delta, is_first); }
  template <class Args>
  static TALLIES_INLINE void settle(Seen& seen, const Args& args) {
    const VarianceBracket floor(args.floors[0], args.floors[0], args.n_experts);
    const F32s rough = seen.value(args.n_experts);
    seen.passes = floor.is_above(rough);
    seen.is_sure = either(seen.passes, floor.is_below(rough));
  }
  template <class Args>
  static TALLIES_INLINE void settle(Seen& seen, const Exact& exact, const Args& args) {
    seen.passes = greater(magnitude(exact.value(args.n_experts)), all(args.floors[0]));
  }
  TALLIES_INLINE Entry operator()(F32s delta, const Seen& seen) const {
    return {delta * weight, delta, seen.passes, both(seen.passes, greater(delta, F32s{})),
            both(seen.passes, greater(F32s{}, delta))};
  }
};

// The larger and the smaller of two numbers that are not negative, by their patterns.
TALLIES_INLINE F32s clip(F32s size, float low, float high) {
  return floats_of(smaller(larger(bits_of(size), bits_of(all(low))), bits_of(all(high))));
}

TALLIES_INLINE F32s with_sign_of(F32s size, F32s x) {
  const I32s sign = bits_of(x) & bits_of(all(-0.0f));
  return select(equal(x, F32s{}), F32s{}, floats_of(bits_of(size) | sign));
}

// PCB: an entry's own size and its agreement with all experts.
struct Scored {
  struct Seen {
    F32s sum{}, agreement{};
  };
  Score score;
  Agreement agreement;
  float n;
  TALLIES_INLINE F32s size(F32s delta) const {
    return clip(floats_of(magnitude(delta)), score.low, score.high);
  }
  TALLIES_INLINE F32s share(F32s size) const {
    return (size - all(score.low)) * all(score.per_width);
  }
  TALLIES_INLINE void see(Seen& seen, F32s delta) const {
    seen.sum = seen.sum + delta;
    seen.agreement = agreement == Agreement::sum
                         ? seen.sum
                         : seen.agreement + with_sign_of(share(size(delta)), delta);
  }
  // The scores of an expert's deltas, of some vectors; zero where the sum of the task vectors is
  // not finite.
  template <std::size_t kVectors>
  TALLIES_INLINE void scores(const F32s (&delta)[kVectors], const F32s (&size)[kVectors],
                             const Seen (&seen)[kVectors], F32s (&out)[kVectors]) const {
    F32s z[kVectors];
    for (std::size_t i = 0; i < kVectors; ++i) {
      const F32s m = share(size[i]);
      out[i] = m * m * all(n);
      z[i] = delta[i] * seen[i].agreement;
    }
    exp_of(out);
    tanh_of(z);
    for (std::size_t i = 0; i < kVectors; ++i)
      out[i] = select(is_finite(seen[i]), out[i] * z[i], F32s{});
  }
  static TALLIES_INLINE Mask is_finite(const Seen& seen) {
    return greater(all(kInfinityBits), magnitude(seen.sum));
  }
};

// Every entry is the sum of the task vectors if this sum is not finite.
struct ScoreEntry {
  using Seen = Scored::Seen;
  static constexpr bool kTogether = true;
  Scored scored;
  float weight;
  template <class Args>
  TALLIES_INLINE ScoreEntry(const Args& args, int expert)
      : scored{args.scores[expert], args.agreement, static_cast<float>(args.n_experts)},
        weight(args.weights[expert]) {}
  TALLIES_INLINE void see(Seen& seen, F32s delta) const { scored.see(seen, delta); }
  template <class Args>
  static TALLIES_INLINE void settle(Seen&, const Args&) {}
  template <std::size_t kVectors>
  TALLIES_INLINE void entries(const F32s (&delta)[kVectors], const Seen (&seen)[kVectors],
                              Entry (&out)[kVectors]) const {
    F32s size[kVectors], score[kVectors];
    for (std::size_t i = 0; i < kVectors; ++i) size[i] = scored.size(delta[i]);
    scored.scores(delta, size, seen, score);
    for (std::size_t i = 0; i < kVectors; ++i) {
      const F32s above = score[i] - all(scored.score.threshold);
      const Mask finite = Scored::is_finite(seen[i]);
      const F32s share =
          select(greater(above, F32s{}), above * all(scored.score.per_range), F32s{});
      const F32s y = with_sign_of(size[i], delta[i]) * weight * share;
      const Mask passes = all_if(true);
      out[i] = {select(finite, y, seen[i].sum), select(finite, share, all(1.0f)), passes, passes,
                passes};
    }
  }
};

}  // namespace
}  // namespace tallies
