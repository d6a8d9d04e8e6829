// A packed mask of the elements of two arrays that differ in a bit. Reference:
// tests/reference/sparse.py.
#pragma once

#include "kernels/mask.h"

namespace tallies {
namespace {

// Elements whose differences are one word.
template <class Word>
constexpr int kDiffering = sizeof(Word) == 8 ? 32 : 64;

// Calls body(word, i, n) for blocks of n elements from i on: bit j of word is set where element
// i + j differs.
template <class Word, class Body>
TALLIES_INLINE void compare(const void* a, const void* b, std::size_t n_elements,
                            const Body& body) {
  constexpr int kBlock = kDiffering<Word>;
  const Word* const inputs[2] = {static_cast<const Word*>(a), static_cast<const Word*>(b)};
  for_each_block<kBlock>(
      inputs, 2, n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        const Word *const x = rows[0] + first, *const y = rows[1] + first;
        prefetch_block(x, kBlock);
        prefetch_block(y, kBlock);
        body(differing(x, y), i, n);
      });
}

template <class Word>
void differ(const void* a, const void* b, std::uint8_t* out, std::size_t n_elements) {
  compare<Word>(
      a, b, n_elements, TALLIES_LAMBDA(std::uint64_t word, std::size_t i, std::size_t n) {
        store_bits(out + i / 8, word, n);
      });
}

}  // namespace
}  // namespace tallies
