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
  pack(&x, 1, out, n, [&](const float* const* rows, std::size_t at) __attribute__((always_inline)) {
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

// Bit-sliced: counter[b] holds bit b of the number of masks that have each element.
void consensus_mask(const std::uint8_t* const* masks, int n_masks, int at_least, std::uint8_t* out,
                    std::size_t n_elements) {
  constexpr int kMostBits = 9;  // counts to 511, above kMaxExperts
  int n_bits = 1;
  while (n_masks >> n_bits != 0 || at_least >> n_bits != 0) ++n_bits;
  const std::size_t n_bytes = (n_elements + 7) / 8;
  map_blocks<static_cast<int>(sizeof(U64s))>(masks, n_masks, out, n_bytes,
                                             [&](const std::uint8_t* const* rows, std::size_t first,
                                                 std::uint8_t* to) __attribute__((always_inline)) {
                                               U64s counter[kMostBits] = {};
                                               for (int row = 0; row < n_masks; ++row) {
                                                 U64s carry = load<U64s>(rows[row] + first);
                                                 for (int b = 0; b < n_bits; ++b) {
                                                   const U64s sum = counter[b] ^ carry;
                                                   carry &= counter[b];
                                                   counter[b] = sum;
                                                 }
                                               }
                                               // counter >= at_least, from the highest bit down
                                               U64s above{}, same = ~U64s{};
                                               for (int b = n_bits - 1; b >= 0; --b) {
                                                 if ((at_least >> b) & 1) {
                                                   same &= counter[b];
                                                 } else {
                                                   above |= same & counter[b];
                                                   same &= ~counter[b];
                                                 }
                                               }
                                               store(to, above | same);
                                             });
  if (n_elements % 8 != 0) out[n_bytes - 1] &= (1u << n_elements % 8) - 1;
}

// out = base + scale * (mask ? shared : 0)
void apply_mask(const float* base, const float* shared, const std::uint8_t* mask, float scale,
                float* out, std::size_t n_elements) {
  const float* inputs[2] = {base, shared};
  for_each_block<kMaskBlock>(
      inputs, 2, n_elements,
      [&](const float* const* rows, std::size_t first, std::size_t i, std::size_t n)
          __attribute__((always_inline)) {
            std::uint64_t word = 0;
            __builtin_memcpy(&word, mask + i / 8, (n + 7) / 8);
            float last[kMaskBlock];
            float* const to = n == kMaskBlock ? out + i : last;
            for (int lane = 0; lane < kMaskBlock; lane += kLanes) {
              const Mask kept = from_bits(static_cast<std::uint32_t>(word >> lane));
              const F32s value = select(kept, load<F32s>(rows[1] + first + lane), F32s{});
              store(to + lane, load<F32s>(rows[0] + first + lane) + scale * value);
            }
            if (n != kMaskBlock) __builtin_memcpy(out + i, last, n * sizeof(float));
          });
}

}  // namespace
}  // namespace tallies
