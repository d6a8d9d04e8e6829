// Packed masks: building them from float32 task vectors, counting votes, and applying them.
// Reference: tests/reference/masks.py, emr.py, bitdelta.py.
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

// Where x and u have the same sign and neither is zero or NaN.
void same_sign_mask(const float* x, const float* u, std::uint8_t* out, std::size_t n) {
  const float* inputs[2] = {x, u};
  pack(inputs, 2, out, n,
       [&](const float* const* rows, std::size_t at) __attribute__((always_inline)) {
         const F32s a = load<F32s>(rows[0] + at), b = load<F32s>(rows[1] + at);
         return either(both(greater(a, F32s{}), greater(b, F32s{})),
                       both(greater(F32s{}, a), greater(F32s{}, b)));
       });
}

// Where x is not below zero; NaN is not.
void sign_mask(const float* x, std::uint8_t* out, std::size_t n) {
  pack(&x, 1, out, n, [&](const float* const* rows, std::size_t at) __attribute__((always_inline)) {
    return not_less(load<F32s>(rows[0] + at), F32s{});
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

// out = base + (mask ? inside(rows, at) : outside); returns the bits of the largest magnitude of
// the float32 results. Base and out are of type T, base in the first row.
template <class T, class Inside>
TALLIES_INLINE std::int32_t add_masked(const typename T::Word* const* inputs, int n_inputs,
                                       const std::uint8_t* mask, F32s outside, void* out,
                                       std::size_t n_elements, const Inside& inside) {
  using Word = typename T::Word;
  const LaneBits<T> lanes;
  I32s largest{};
  Word* const to = static_cast<Word*>(out);
  for_each_block<kMaskBlock>(
      inputs, n_inputs, n_elements,
      [&](const Word* const* rows, std::size_t first, std::size_t i, std::size_t n)
          __attribute__((always_inline)) {
            std::uint64_t word = 0;
            if (n == kMaskBlock)
              __builtin_memcpy(&word, mask + i / 8, sizeof word);
            else
              __builtin_memcpy(&word, mask + i / 8, (n + 7) / 8);
            Word last[kMaskBlock];
            Word* const block = n == kMaskBlock ? to + i : last;
            for (int row = 0; row < n_inputs; ++row) prefetch_block(rows[row] + first, kMaskBlock);
            for (int at = 0; at < kMaskBlock; at += kPair) {
              Pair result = T::load2(rows[0] + first + at);
              const Pair in = inside(rows, first + at);
              for (int h = 0; h < 2; ++h) {
                const Mask kept = lanes.of(static_cast<std::uint32_t>(word >> at), h);
                result.v[h] = result.v[h] + select(kept, in.v[h], outside);
                largest = larger(largest, magnitude(result.v[h]));
              }
              T::store2(block + at, result);
            }
            if (n != kMaskBlock) __builtin_memcpy(to + i, last, n * sizeof(Word));
          });
  return largest_lane(largest);
}

// out = base + scale * (mask ? shared : +0)
template <class T>
std::int32_t apply_mask(const void* base, const void* shared, const std::uint8_t* mask, float scale,
                        void* out, std::size_t n) {
  using Word = typename T::Word;
  const Word* inputs[2] = {static_cast<const Word*>(base), static_cast<const Word*>(shared)};
  return add_masked<T>(inputs, 2, mask, scale * F32s{}, out, n,
                       [&](const Word* const* rows, std::size_t at) __attribute__((always_inline)) {
                         Pair x = T::load2(rows[1] + at);
                         for (F32s& v : x.v) v = scale * v;
                         return x;
                       });
}

// out = base + (mask ? magnitude : -magnitude)
template <class T>
std::int32_t apply_signs(const void* base, const std::uint8_t* mask, float magnitude, void* out,
                         std::size_t n) {
  using Word = typename T::Word;
  const Word* input = static_cast<const Word*>(base);
  const F32s plus = all(magnitude);
  return add_masked<T>(&input, 1, mask, -plus, out, n,
                       [&](const Word* const*, std::size_t)
                           __attribute__((always_inline)) { return Pair{{plus, plus}}; });
}

}  // namespace
}  // namespace tallies
