// The places of a combine's results: one output, one for each scale, and those of the other sign.
#pragma once

#include "kernels/totals.h"

namespace tallies {
namespace {

// True if results of the other sign for zero votes may be asked for.
template <class Put>
concept PutsOpposites = requires(const Put& put) { put.asks_opposites(); };

// Puts a block of which n elements count into one output, or into one for each scale.
template <class Word, std::size_t kBlock>
struct Outputs {
  const CombineArgs& args;
  std::size_t i, n;
  LaneTally& lanes;

  template <class Write>
  TALLIES_INLINE bool put(const Write& write, float scale, void* to, LaneTally& tally) const {
    Word* const out = static_cast<Word*>(to) + i;
    if (n == kBlock) return write(scale, out, tally);
    Word last[kBlock];
    const bool is_large = write(scale, last, tally);
    __builtin_memcpy(out, last, n * sizeof(Word));
    return is_large;
  }

  template <class Write>
  TALLIES_INLINE void operator()(const Write& write) const {
    if (args.n_multiples == 0) {
      put(write, args.scale, args.out, lanes);
      return;
    }
    for (int m = 0; m < args.n_multiples; ++m) {
      Multiple& multiple = args.multiples[m];
      // A vote that is no number is one of all multiples, and counts with the first.
      LaneTally own;
      if (!put(write, multiple.scale, multiple.out, own)) continue;
      multiple.overflow |= any(greater(own.largest, all(args.overflow - 1)));
      if (m > 0) continue;
      lanes.signs += own.signs;
      lanes.conflicts += own.conflicts;
      lanes.cancellations += own.cancellations;
    }
  }

  TALLIES_INLINE bool asks_opposites() const { return args.n_opposites > 0; }
  template <class Write>
  TALLIES_INLINE void opposites(const Write& write) const {
    for (int m = 0; m < args.n_opposites; ++m) {
      Multiple& opposite = args.opposites[m];
      LaneTally own;
      if (put(write, opposite.scale, opposite.out, own))
        opposite.overflow |= any(greater(own.largest, all(args.overflow - 1)));
    }
  }
};

}  // namespace
}  // namespace tallies
