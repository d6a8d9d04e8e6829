// Packed masks: building them from float32 task vectors, counting votes, and applying them.
// Reference: tests/reference/masks.py, emr.py, bitdelta.py.
#pragma once

#include "kernels/blocks.h"
#include "kernels/membership.h"

namespace tallies {
namespace {

// Elements per block: a multiple of 8 in every target, so that blocks start on bytes.
constexpr std::size_t kMaskBlock = 64;

TALLIES_INLINE void store_bits(std::uint8_t* out, std::uint64_t bits, std::size_t n) {
  if (n < kMaskBlock) bits &= (std::uint64_t(1) << n) - 1;
  __builtin_memcpy(out, &bits, (n + 7) / 8);
}

// Up to n bits of a block of kBlock, a multiple of 8, at one constant size where it is whole.
template <std::size_t kBlock>
TALLIES_INLINE std::uint64_t load_bits(const std::uint8_t* in, std::size_t n) {
  std::uint64_t bits = 0;
  if (n == kBlock)
    __builtin_memcpy(&bits, in, kBlock / 8);
  else
    __builtin_memcpy(&bits, in, (n + 7) / 8);
  return bits;
}

// Packs test(x) or, of two inputs, test(x, y).
template <std::size_t kInputs, class Test>
TALLIES_INLINE void pack(const Test& test, const float* const (&inputs)[kInputs], std::uint8_t* out,
                         std::size_t n_elements) {
  for_each_block<kMaskBlock>(
      inputs, kInputs, n_elements,
      TALLIES_LAMBDA(const float* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        std::uint64_t word = 0;
        for (std::size_t lane = 0; lane < kMaskBlock; lane += kLanes) {
          const F32s x = load<F32s>(rows[0] + first + lane);
          Mask set;
          if constexpr (kInputs == 1)
            set = test(x);
          else
            set = test(x, load<F32s>(rows[1] + first + lane));
          word |= std::uint64_t(bits(set)) << lane;
        }
        store_bits(out + i / 8, word, n);
      });
}

void magnitude_mask(const float* x, std::int32_t floor, std::uint8_t* out, std::size_t n) {
  pack<1>(AboveFloor{floor}, {x}, out, n);
}

void tall_mask(const float* delta, const float* merged, float lambda, std::uint8_t* out,
               std::size_t n) {
  pack<2>(Tall{lambda}, {delta, merged}, out, n);
}

void same_sign_mask(const float* x, const float* u, std::uint8_t* out, std::size_t n) {
  pack<2>(SameSign{}, {x, u}, out, n);
}

void sign_mask(const float* x, std::uint8_t* out, std::size_t n) {
  pack<1>(NotNegative{}, {x}, out, n);
}

void consensus_mask(const std::uint8_t* const* masks, int n_masks, int at_least, std::uint8_t* out,
                    std::size_t n_elements) {
  const std::size_t n_bytes = (n_elements + 7) / 8;
  const Claimed<U64s> claimed(n_masks, at_least);
  map_blocks<sizeof(U64s)>(
      masks, n_masks, out, n_bytes,
      TALLIES_LAMBDA(const std::uint8_t* const* rows, std::size_t first, std::uint8_t* to) {
        store(to, claimed(TALLIES_LAMBDA(int row) { return load<U64s>(rows[row] + first); }));
      });
  if (n_elements % 8 != 0)
    out[n_bytes - 1] &= static_cast<std::uint8_t>((1u << n_elements % 8) - 1);
}

// Returns the bits of the largest magnitude of the float32 results. All arrays but the mask are of
// type T; the base comes first, the shared vector, if there is one, second.
template <class T, std::size_t kInputs, class Rebuild>
TALLIES_INLINE std::int32_t rebuild(const Rebuild& element, const void* const (&arrays)[kInputs],
                                    const std::uint8_t* mask, void* out, std::size_t n_elements) {
  using Word = typename T::Word;
  const LaneBits<T> lanes;
  I32s largest{};
  const Word* inputs[kInputs];
  for (std::size_t row = 0; row < kInputs; ++row)
    inputs[row] = static_cast<const Word*>(arrays[row]);
  Word* const to = static_cast<Word*>(out);
  for_each_block<kMaskBlock>(
      inputs, kInputs, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const std::uint64_t word = load_bits<kMaskBlock>(mask + i / 8, n);
        Word last[kMaskBlock];
        Word* const block = n == kMaskBlock ? to + i : last;
        for (std::size_t row = 0; row < kInputs; ++row)
          prefetch_block(rows[row] + first, kMaskBlock);
        for (std::size_t at = 0; at < kMaskBlock; at += kPair) {
          Pair result = T::load2(rows[0] + first + at), shared{};
          if constexpr (kInputs == 2) shared = T::load2(rows[1] + first + at);
          for (std::size_t h = 0; h < 2; ++h) {
            const Mask in = lanes.of(static_cast<std::uint32_t>(word >> at), h);
            result.v[h] = element(in, result.v[h], shared.v[h]);
            largest = larger(largest, magnitude(result.v[h]));
          }
          T::store2(block + at, result);
        }
        if (n != kMaskBlock) __builtin_memcpy(to + i, last, n * sizeof(Word));
      });
  return largest_lane(largest);
}

template <class T>
std::int32_t apply_mask(const void* base, const void* shared, const std::uint8_t* mask, float scale,
                        void* out, std::size_t n) {
  return rebuild<T, 2>(Masked{scale}, {base, shared}, mask, out, n);
}

// The same with a merged vector in float32, in the order of the elements; null is a full mask.
template <class T>
std::int32_t apply_merged(const void* base, const float* merged, const std::uint8_t* mask,
                          float scale, void* out, std::size_t n_elements) {
  using Word = typename T::Word;
  const LaneBits<Float32> lanes;
  const Masked element{scale};
  I32s largest{};
  const Word* input = static_cast<const Word*>(base);
  Word* const to = static_cast<Word*>(out);
  for_each_block<kPair>(
      &input, 1, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const std::uint64_t word =
            mask == nullptr ? ~std::uint64_t(0) : load_bits<kPair>(mask + i / 8, n);
        float padded[kPair] = {};
        if (n != kPair) __builtin_memcpy(padded, merged + i, n * sizeof(float));
        const float* const shared = n == kPair ? merged + i : padded;
        Word last[kPair];
        Word* const block = n == kPair ? to + i : last;
        for (std::size_t h = 0; h < 2; ++h) {
          const std::size_t at = h * kLanes;
          const F32s x = T::in_order(rows[0] + first + at);
          const F32s result =
              element(lanes.of(static_cast<std::uint32_t>(word), h), x, load<F32s>(shared + at));
          largest = larger(largest, magnitude(result));
          T::store_in_order(block + at, canonical(result));
        }
        if (n != kPair) __builtin_memcpy(to + i, last, n * sizeof(Word));
      });
  return largest_lane(largest);
}

template <class T>
std::int32_t apply_signs(const void* base, const std::uint8_t* mask, float size, void* out,
                         std::size_t n) {
  return rebuild<T, 1>(Signed{size}, {base}, mask, out, n);
}

}  // namespace
}  // namespace tallies
