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
      [&](const float* const* rows, std::size_t at, std::size_t i) __attribute__((always_inline)) {
        const F32s x = load<F32s>(rows[0] + at);
        return keep_if(greater(chance, chances.of(elements + static_cast<std::uint32_t>(i))), x,
                       x * factor);
      });
}

void drop_by_rank(const DropByRankArgs& args) {
  const Chances chances(args.key, args.first);
  const U32s elements = elements_from(args.first);
  const F32s low = all(args.low), step = all(args.step), factor = all(args.factor);
  const bool own = args.own_factor;
  const auto* const ranks = reinterpret_cast<const float*>(args.ranks);
  change<2>(
      {args.x, ranks}, args.x, args.n,
      [&](const float* const* rows, std::size_t at, std::size_t i) __attribute__((always_inline)) {
        const F32s x = load<F32s>(rows[0] + at);
        const F32s chance = low + step * to_floats(load<I32s>(rows[1] + at));
        const I32s below = to_ints(chance * static_cast<float>(kCertain));
        return keep_if(greater(below, chances.of(elements + static_cast<std::uint32_t>(i))), x,
                       own ? x / chance : x * factor);
      });
}

}  // namespace
}  // namespace tallies
