// Entries that depend on all experts of their element: a first sweep over an element's experts
// sees them all, a second one weighs each. Reference: tests/reference/{ram,nearswap,sce,pcb}.py.
#pragma once

#include "core/table.h"
#include "kernels/elementary.h"
#include "kernels/entry.h"

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

// The variance over the experts, in float64 and rounded once. Differences from the first expert
// keep it exactly zero where all agree, and the subtraction below from cancelling: it leaves at
// least `squares`.
struct Variance {
  Doubles first{}, sum{}, squares{};
  TALLIES_INLINE void add(F32s delta, bool is_first) {
    const Doubles x = to_doubles(delta);
    if (is_first) {
      first = x;
      sum = x - x;  // of NaN and infinity NaN
      return;
    }
    const Doubles d = x - first;
    sum = sum + d;
    squares = squares + d * d;
  }
  // With the reciprocal of the square of the number of experts.
  TALLIES_INLINE F32s value(double n, double reciprocal) const {
    return to_floats((squares * n - sum * sum) * reciprocal);
  }
};

// SCE: elements on which the experts differ most pass, for all experts.
struct VarianceEntry {
  struct Seen : Variance {
    Mask passes{};
  };
  float weight;
  bool is_first;
  template <class Args>
  TALLIES_INLINE VarianceEntry(const Args& args, int expert)
      : weight(args.weights[expert]), is_first(expert == 0) {}
  TALLIES_INLINE void see(Seen& seen, F32s delta) const { seen.add(delta, is_first); }
  template <class Args>
  static TALLIES_INLINE void settle(Seen& seen, const Args& args) {
    const double n = args.n_experts;
    seen.passes = greater(magnitude(seen.value(n, 1 / (n * n))), all(args.floors[0]));
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
  // Zero where the sum of the task vectors is not finite.
  TALLIES_INLINE F32s operator()(F32s delta, F32s size, const Seen& seen) const {
    const F32s m = share(size);
    const F32s value = exp_of(m * m * all(n)) * tanh_of(delta * seen.agreement);
    return select(is_finite(seen), value, F32s{});
  }
  static TALLIES_INLINE Mask is_finite(const Seen& seen) {
    return greater(all(kInfinityBits), magnitude(seen.sum));
  }
};

// Every entry is the sum of the task vectors if this sum is not finite.
struct ScoreEntry {
  using Seen = Scored::Seen;
  Scored scored;
  float weight;
  template <class Args>
  TALLIES_INLINE ScoreEntry(const Args& args, int expert)
      : scored{args.scores[expert], args.agreement, static_cast<float>(args.n_experts)},
        weight(args.weights[expert]) {}
  TALLIES_INLINE void see(Seen& seen, F32s delta) const { scored.see(seen, delta); }
  template <class Args>
  static TALLIES_INLINE void settle(Seen&, const Args&) {}
  TALLIES_INLINE Entry operator()(F32s delta, const Seen& seen) const {
    const F32s size = scored.size(delta);
    const F32s above = scored(delta, size, seen) - all(scored.score.threshold);
    const Mask finite = Scored::is_finite(seen);
    const F32s share = select(greater(above, F32s{}), above * all(scored.score.per_range), F32s{});
    const F32s y = with_sign_of(size, delta) * weight * share;
    const Mask passes = all_if(true);
    return {select(finite, y, seen.sum), select(finite, share, all(1.0f)), passes, passes, passes};
  }
};

}  // namespace
}  // namespace tallies
