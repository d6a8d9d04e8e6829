// Numbers that surveys take from all experts of each element, in float32 deltas: the variance, the
// scores, and the entries that one expert has alone. Reference: tests/reference/{ram,sce,pcb}.py.
#pragma once

#include "kernels/across.h"
#include "kernels/stage.h"

namespace tallies {
namespace {

TALLIES_INLINE F32s variance_of(const float* const* rows, int n_experts, std::size_t first) {
  Variance variance;
  for (int e = 0; e < n_experts; ++e) variance.add(load<F32s>(rows[e] + first), e == 0);
  return variance.value(n_experts);
}

void variance(const float* const* deltas, int n_experts, float* out, std::size_t n_elements) {
  map_blocks<kLanes>(
      deltas, n_experts, out, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, float* to) {
        store(to, variance_of(rows, n_experts, first));
      });
}

TALLIES_INLINE RoughVariance rough_variance_of(const float* const* rows, int n_experts,
                                               std::size_t first) {
  RoughVariance rough;
  for (int e = 0; e < n_experts; ++e) rough.add(load<F32s>(rows[e] + first), e == 0);
  return rough;
}

void variance_around(const float* const* deltas, int n_experts, std::int32_t low, std::int32_t high,
                     float* out, std::size_t n_elements) {
  const VarianceBracket bracket(low, high, n_experts);
  const F32s smallest = all(VarianceBracket::kSmallest);
  const F32s reciprocal = all(1 / static_cast<float>(n_experts * n_experts));
  map_blocks<kLanes>(
      deltas, n_experts, out, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, float* to) {
        const RoughVariance seen = rough_variance_of(rows, n_experts, first);
        const F32s rough = seen.value(n_experts);
        // A tiny number may have lost a square, though experts differ.
        const Mask same = equal(magnitude(floats_of(seen.differs)), I32s{});
        const Mask is_right = either(same, greater(rough, smallest));
        const Mask sure = either(bracket.is_above(rough), both(bracket.is_below(rough), is_right));
        store(to, any(but_not(all_if(true), sure)) ? variance_of(rows, n_experts, first)
                                                   : rough * reciprocal);
      });
}

void keep_varied(float* const* deltas, int n_experts, std::int32_t floor, std::size_t n_elements) {
  const VarianceBracket bracket(floor, floor, n_experts);
  for_each_block<kLanes>(
      deltas, n_experts, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const F32s rough = rough_variance_of(rows, n_experts, first).value(n_experts);
        Mask passes = bracket.is_above(rough);
        if (any(but_not(all_if(true), either(passes, bracket.is_below(rough)))))
          passes = greater(magnitude(variance_of(rows, n_experts, first)), all(floor));
        for (int e = 0; e < n_experts; ++e) {
          float last[kLanes];
          float* const to = n == kLanes ? deltas[e] + i : last;
          store(to, select(passes, load<F32s>(rows[e] + first), F32s{}));
          if (n != kLanes) __builtin_memcpy(deltas[e] + i, last, n * sizeof(float));
        }
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
  constexpr std::size_t kVectors = 2, kBlock = kVectors * kLanes;
  for_each_block<kBlock>(
      args.deltas, args.n_experts, args.n,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const auto scored = TALLIES_LAMBDA(int e) {
          return Scored{args.scores[e], args.agreement, static_cast<float>(args.n_experts)};
        };
        Scored::Seen seen[kVectors];
        for (int e = 0; e < args.n_experts; ++e)
          for (std::size_t k = 0; k < kVectors; ++k)
            scored(e).see(seen[k], load<F32s>(rows[e] + first + k * kLanes));
        for (int e = 0; e < args.n_experts; ++e) {
          const Scored one = scored(e);
          F32s deltas[kVectors], sizes[kVectors], values[kVectors];
          for (std::size_t k = 0; k < kVectors; ++k) {
            deltas[k] = load<F32s>(rows[e] + first + k * kLanes);
            sizes[k] = one.size(deltas[k]);
          }
          one.scores(deltas, sizes, seen, values);
          float last[kBlock];
          float* const to = n == kBlock ? args.out[e] + i : last;
          for (std::size_t k = 0; k < kVectors; ++k) {
            F32s value = floats_of(bits_of(values[k]) ^ bits_of(sign));
            value = select(greater(value, F32s{}), value, F32s{});
            most[e] = larger(most[e], bits_of(value));
            store(to + k * kLanes, value);
          }
          if (n != kBlock) __builtin_memcpy(args.out[e] + i, last, n * sizeof(float));
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
          alone[e] += count_of(both(passes, by_one));
          shared[e] += count_of(but_not(passes, by_one));
        }
      });
}

}  // namespace
}  // namespace tallies
