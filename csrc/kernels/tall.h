// The sum of the task vectors and the masks of where it stands for each of them, in one reading.
// Reference: tests/reference/tall.py.
#pragma once

#include "kernels/mask.h"

namespace tallies {
namespace {

// The same as subtract, combine(all, none, sum), narrow and tall_mask on float32, three times as
// fast: nothing but the inputs is read, twice, the second time from the first-level cache.
template <class T>
std::int32_t tall(const TallArgs& args) {
  using Word = typename T::Word;
  constexpr std::size_t kVectors = kMaskBlock / kLanes;
  const Word* inputs[kMaxExperts + 1];
  for (int e = 0; e < args.n_experts; ++e) inputs[e] = static_cast<const Word*>(args.experts[e]);
  inputs[args.n_experts] = static_cast<const Word*>(args.base);
  Word* const shared = static_cast<Word*>(args.shared);
  I32s largest{};
  for_each_block<kMaskBlock>(
      inputs, args.n_experts + 1, args.n,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        F32s base[kVectors], sum[kVectors] = {};
        prefetch_block(rows[args.n_experts] + first, kMaskBlock);
        for (std::size_t v = 0; v < kVectors; ++v)
          base[v] = T::in_order(rows[args.n_experts] + first + v * kLanes);
        for (int e = 0; e < args.n_experts; ++e) {
          prefetch_block(rows[e] + first, kMaskBlock);
          for (std::size_t v = 0; v < kVectors; ++v)
            sum[v] = sum[v] + (T::in_order(rows[e] + first + v * kLanes) - base[v]);
        }
        Word last[kMaskBlock];
        Word* const to = n == kMaskBlock ? shared + i : last;
        for (std::size_t v = 0; v < kVectors; ++v) {
          largest = larger(largest, magnitude(sum[v]));
          T::store_in_order(to + v * kLanes, canonical(sum[v]));
        }
        if (n != kMaskBlock) __builtin_memcpy(shared + i, last, n * sizeof(Word));
        for (int e = 0; e < args.n_experts; ++e) {
          F32s x[kVectors], rest[kVectors];
          for (std::size_t v = 0; v < kVectors; ++v) {
            x[v] = T::in_order(rows[e] + first + v * kLanes) - base[v];
            rest[v] = Tall::rest(x[v], sum[v]);
          }
          for (int k = e * args.n_lambdas; k < (e + 1) * args.n_lambdas; ++k) {
            std::uint64_t word = 0;
            for (std::size_t v = 0; v < kVectors; ++v) {
              const Mask set = Tall{args.lambdas[k]}.beside(x[v], rest[v]);
              word |= std::uint64_t(bits(set)) << v * kLanes;
            }
            store_bits(args.masks[k] + i / 8, word, n);
          }
        }
      });
  return largest_lane(largest);
}

}  // namespace
}  // namespace tallies
