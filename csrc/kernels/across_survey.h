// Numbers that surveys take from all experts of each element, in float32 deltas: the variance, the
// scores, and the entries that one expert has alone. Reference: tests/reference/{ram,sce,pcb}.py.
#pragma once

#include "kernels/across.h"
#include "kernels/stage.h"

namespace tallies {
namespace {

void variance(const float* const* deltas, int n_experts, float* out, std::size_t n_elements) {
  const double n = n_experts, reciprocal = 1 / (n * n);
  map_blocks<kLanes>(
      deltas, n_experts, out, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, float* to) {
        Variance variance;
        for (int e = 0; e < n_experts; ++e) variance.add(load<F32s>(rows[e] + first), e == 0);
        store(to, variance.value(n, reciprocal));
      });
}

void keep_where(const float* judge, std::int32_t floor, float* x, std::size_t n_elements) {
  const I32s low = all(floor);
  change<2>(
      {judge, x}, x, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t at, std::size_t) {
        const Mask passes = greater(magnitude(load<F32s>(rows[0] + at)), low);
        return select(passes, load<F32s>(rows[1] + at), F32s{});
      });
}

void scores(const ScoresArgs& args, std::int32_t* largest) {
  const F32s sign = all(args.positive ? 0.0f : -0.0f);
  I32s most[kMaxExperts];
  for (int e = 0; e < args.n_experts; ++e) most[e] = I32s{};
  for_each_block<kLanes>(
      args.deltas, args.n_experts, args.n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const auto scored = TALLIES_LAMBDA(int e) {
          return Scored{args.scores[e], args.agreement, static_cast<float>(args.n_experts)};
        };
        Scored::Seen seen;
        for (int e = 0; e < args.n_experts; ++e) scored(e).see(seen, load<F32s>(rows[e] + first));
        for (int e = 0; e < args.n_experts; ++e) {
          const Scored one = scored(e);
          const F32s delta = load<F32s>(rows[e] + first);
          F32s value = one(delta, one.size(delta), seen);
          value = floats_of(bits_of(value) ^ bits_of(sign));
          value = select(greater(value, F32s{}), value, F32s{});
          most[e] = larger(most[e], bits_of(value));
          float last[kLanes];
          float* const to = n == kLanes ? args.out[e] + i : last;
          store(to, value);
          if (n != kLanes) __builtin_memcpy(args.out[e] + i, last, n * sizeof(float));
        }
      });
  for (int e = 0; e < args.n_experts; ++e)
    if (largest_lane(most[e]) > largest[e]) largest[e] = largest_lane(most[e]);
}

void count_overlap(const float* const* deltas, std::int32_t floor, int n_experts,
                   std::size_t n_elements, std::uint64_t* alone, std::uint64_t* shared) {
  for_each_block<kLanes>(
      deltas, n_experts, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t, std::size_t) {
        I32s n{};
        for (int e = 0; e < n_experts; ++e)
          n = count_if(greater(magnitude(load<F32s>(rows[e] + first)), all(floor)), n);
        const Mask by_one = equal(n, all(1));
        for (int e = 0; e < n_experts; ++e) {
          const Mask passes = greater(magnitude(load<F32s>(rows[e] + first)), all(floor));
          alone[e] += __builtin_popcount(bits(both(passes, by_one)));
          shared[e] += __builtin_popcount(bits(but_not(passes, by_one)));
        }
      });
}

}  // namespace
}  // namespace tallies
