// A packed mask of the elements of two arrays that differ in a bit. Reference:
// tests/reference/sparse.py.
#pragma once

#include "kernels/mask.h"

namespace tallies {
namespace {

TALLIES_INLINE bool same_block(const void* a, const void* b, std::size_t n_bytes) {
  U32s differing{};
  for (std::size_t byte = 0; byte < n_bytes; byte += sizeof(U32s))
    differing |= load<U32s>(static_cast<const char*>(a) + byte) ^
                 load<U32s>(static_cast<const char*>(b) + byte);
  return !any(common_bits((I32s)differing, (I32s)differing));
}

// Calls body(word, i, n) for blocks of n elements from i on: bit j of word is set where element
// i + j differs. Vector holds kLanes elements.
template <class Word, class Vector, class Body>
TALLIES_INLINE void compare(const void* a, const void* b, std::size_t n_elements,
                            const Body& body) {
  const Word* const inputs[2] = {static_cast<const Word*>(a), static_cast<const Word*>(b)};
  for_each_block<kMaskBlock>(
      inputs, 2, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const Word *const x = rows[0] + first, *const y = rows[1] + first;
        prefetch_block(x, kMaskBlock);
        prefetch_block(y, kMaskBlock);
        std::uint64_t word = 0;
        if (!same_block(x, y, kMaskBlock * sizeof(Word))) {
          for (int lane = 0; lane < kMaskBlock; lane += kLanes) {
            const I32s differing = (I32s) __builtin_convertvector(
                load<Vector>(x + lane) ^ load<Vector>(y + lane), U32s);
            word |= std::uint64_t(bits(common_bits(differing, differing))) << lane;
          }
        }
        body(word, i, n);
      });
}

template <class Word, class Vector>
void differ(const void* a, const void* b, std::uint8_t* out, std::size_t n_elements) {
  compare<Word, Vector>(
      a, b, n_elements, TALLIES_LAMBDA(std::uint64_t word, std::size_t i, std::size_t n) {
        store_bits(out + i / 8, word, n);
      });
}

// Elements of eight bytes, compared by halves.
void differ8(const void* a, const void* b, std::uint8_t* out, std::size_t n_elements) {
  compare<std::uint32_t, U32s>(
      a, b, 2 * n_elements, TALLIES_LAMBDA(std::uint64_t word, std::size_t i, std::size_t n) {
        word = (word | word >> 1) & 0x5555555555555555u;
        word = (word | word >> 1) & 0x3333333333333333u;
        word = (word | word >> 2) & 0x0f0f0f0f0f0f0f0fu;
        word = (word | word >> 4) & 0x00ff00ff00ff00ffu;
        word = (word | word >> 8) & 0x0000ffff0000ffffu;
        word = (word | word >> 16) & 0x00000000ffffffffu;
        store_bits(out + i / 16, word, n / 2);
      });
}

}  // namespace
}  // namespace tallies
