// Packed masks: building them from float32 task vectors, counting votes, and applying them.
// Reference: tests/reference/masks.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Elements per block: a multiple of 8 in every target, so that blocks start on bytes.
constexpr int kMaskBlock = 64;

TALLIES_INLINE void store_bits(std::uint8_t* out, std::uint64_t bits, std::size_t n) {
  if (n < kMaskBlock) bits &= (std::uint64_t(1) << n) - 1;
  __builtin_memcpy(out, &bits, (n + 7) / 8);
}

// Packs test(rows, at) over blocks; test answers for kLanes elements.
template <class Test>
TALLIES_INLINE void pack(const float* const* inputs, int n_inputs, std::uint8_t* out,
                         std::size_t n_elements, const Test& test) {
  for_each_block<kMaskBlock>(inputs, n_inputs, n_elements,
                             [&](const float* const* rows, std::size_t first, std::size_t i,
                                 std::size_t n) __attribute__((always_inline)) {
                               std::uint64_t word = 0;
                               for (int lane = 0; lane < kMaskBlock; lane += kLanes)
                                 word |= std::uint64_t(bits(test(rows, first + lane))) << lane;
                               store_bits(out + i / 8, word, n);
                             });
}

void magnitude_mask(const float* x, std::int32_t floor, std::uint8_t* out, std::size_t n) {
  pack(&x, 1, out, n,
       [&](const float* const* rows, std::size_t at) __attribute__((always_inline)) {
         return greater(magnitude(load<F32s>(rows[0] + at)), all(floor));
       });
}

void tall_mask(const float* delta, const float* merged, float lambda, std::uint8_t* out,
               std::size_t n) {
  const float* inputs[2] = {delta, merged};
  pack(inputs, 2, out, n,
       [&](const float* const* rows, std::size_t at) __attribute__((always_inline)) {
         const F32s x = load<F32s>(rows[0] + at);
         const F32s rest = (F32s)magnitude(load<F32s>(rows[1] + at) - x);
         return greater((F32s)magnitude(x), lambda * rest);
       });
}

// Bit-sliced: counter[b] holds bit b of the number of masks that have each of 64 elements.
void consensus_mask(const std::uint8_t* const* masks, int n_masks, int at_least, std::uint8_t* out,
                    std::size_t n_elements) {
  constexpr int kCounterBits = 9;  // counts to 511, above kMaxExperts
  const std::size_t n_bytes = (n_elements + 7) / 8;
  for_each_block<8>(masks, n_masks, n_bytes,
                    [&](const std::uint8_t* const* rows, std::size_t first, std::size_t i,
                        std::size_t n) __attribute__((always_inline)) {
                      std::uint64_t counter[kCounterBits] = {};
                      for (int row = 0; row < n_masks; ++row) {
                        std::uint64_t carry = load<std::uint64_t>(rows[row] + first);
                        for (int b = 0; b < kCounterBits; ++b) {
                          const std::uint64_t sum = counter[b] ^ carry;
                          carry &= counter[b];
                          counter[b] = sum;
                        }
                      }
                      // counter >= at_least, from the highest bit down
                      std::uint64_t above = 0, same = ~std::uint64_t(0);
                      for (int b = kCounterBits - 1; b >= 0; --b) {
                        const std::uint64_t wanted = (at_least >> b) & 1 ? ~std::uint64_t(0) : 0;
                        above |= same & counter[b] & ~wanted;
                        same &= ~(counter[b] ^ wanted);
                      }
                      std::uint64_t word = above | same;
                      const std::size_t n_left = n_elements - 8 * i;
                      if (n_left < 64) word &= (std::uint64_t(1) << n_left) - 1;
                      __builtin_memcpy(out + i, &word, n);
                    });
}

// out = base + scale * (mask ? shared : 0)
void apply_mask(const float* base, const float* shared, const std::uint8_t* mask, float scale,
                float* out, std::size_t n_elements) {
  const float* inputs[2] = {base, shared};
  for_each_block<8>(inputs, 2, n_elements,
                    [&](const float* const* rows, std::size_t first, std::size_t i,
                        std::size_t n) __attribute__((always_inline)) {
                      const unsigned byte = mask[i / 8];
                      float block[8];
                      for (int j = 0; j < 8; ++j) {
                        const float kept = (byte >> j) & 1 ? rows[1][first + j] : 0.0f;
                        block[j] = rows[0][first + j] + scale * kept;
                      }
                      __builtin_memcpy(out + i, block, n * sizeof(float));
                    });
}

}  // namespace
}  // namespace tallies
