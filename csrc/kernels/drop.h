// Entries of a task vector dropped at random, and the others scaled up (DARE, DELLA).
// Reference: tests/reference/dare.py, della.py.
#pragma once

#include "core/table.h"
#include "kernels/chance.h"
#include "kernels/stage.h"

namespace tallies {
namespace {

void drop(const DropArgs& args) {
  const Chances chances(args.draw.key, args.first);
  const U32s elements = elements_from(args.first);
  const I32s chance = all(args.draw.chance);
  const F32s factor = all(args.draw.factor);
  change<1>(
      {args.x}, args.x, args.n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t i) {
        const F32s x = load<F32s>(rows[0] + at);
        return keep_if(greater(chance, chances.of(elements + static_cast<std::uint32_t>(i))), x,
                       x * factor);
      });
}

// Both sums in one sweep: each alone waits for its own additions.
void sum_drawn(const DropArgs& args, double before[8], double after[8]) {
  constexpr std::size_t kDoubles = kLanes / 2, kVectors = 8 / kDoubles,
                        kBlock = kLanes < 8 ? 8 : kLanes;
  const Chances chances(args.draw.key, args.first);
  const U32s elements = elements_from(args.first);
  const I32s chance = all(args.draw.chance);
  const F32s factor = all(args.draw.factor);
  F64s whole[kVectors], kept[kVectors];
  __builtin_memcpy(whole, before, sizeof whole);
  __builtin_memcpy(kept, after, sizeof kept);
  const auto add = TALLIES_LAMBDA(F64s * sums, std::size_t vector, F32s x) {
    const Doubles sizes = to_doubles(floats_of(magnitude(x)));
    sums[vector % kVectors] = sums[vector % kVectors] + sizes.low;
    sums[(vector + 1) % kVectors] = sums[(vector + 1) % kVectors] + sizes.high;
  };
  for_each_block<kBlock>(
      &args.x, 1, args.n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t i, std::size_t) {
        for (std::size_t at = 0; at < kBlock; at += kLanes) {
          const F32s x = load<F32s>(rows[0] + first + at);
          const U32s here = elements + static_cast<std::uint32_t>(i + at);
          add(whole, at / kDoubles, x);
          add(kept, at / kDoubles, keep_if(greater(chance, chances.of(here)), x, x * factor));
        }
      });
  __builtin_memcpy(before, whole, sizeof whole);
  __builtin_memcpy(after, kept, sizeof kept);
}

void drop_by_rank(const DropByRankArgs& args) {
  const Chances chances(args.key, args.first);
  const U32s elements = elements_from(args.first);
  const F32s low = all(args.low), step = all(args.step), factor = all(args.factor);
  const bool own = args.own_factor;
  const auto* const ranks = reinterpret_cast<const float*>(args.ranks);
  change<2>(
      {args.x, ranks}, args.x, args.n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t i) {
        const F32s x = load<F32s>(rows[0] + at);
        const F32s chance = low + step * to_floats(load<I32s>(rows[1] + at));
        const I32s below = to_ints(chance * static_cast<float>(kCertain));
        return keep_if(greater(below, chances.of(elements + static_cast<std::uint32_t>(i))), x,
                       own ? x / chance : x * factor);
      });
}

}  // namespace
}  // namespace tallies
