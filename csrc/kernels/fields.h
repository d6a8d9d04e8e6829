// Planes of bytes: byte p of every element side by side, so that each plane is coded by itself.
// Before that an element loses what a base tells of it, and fields that cross bytes are moved.
// Reference: tests/reference/fields.py.
#pragma once

#include "kernels/blocks.h"

namespace tallies {
namespace {

// Elements per block: planes of a block fill vectors of every target.
constexpr std::size_t kFieldBlock = 64;

template <class Word>
constexpr int kBits = 8 * sizeof(Word);

// How far a pattern is from another, nearest first: 0, 1, -1, 2, -2 and so on, as a number.
template <class Word>
TALLIES_INLINE Word zigzag(Word x) {
  return Word(Word(x << 1) ^ Word(0 - (x >> (kBits<Word> - 1))));
}
template <class Word>
TALLIES_INLINE Word unzigzag(Word x) {
  return Word(Word(x >> 1) ^ Word(0 - (x & 1)));
}

// The bits that are split of an element, and the element of such bits; without a base, that is 0.
template <Fields kFields, class Word>
TALLIES_INLINE Word encoded(Word x, Word base) {
  if constexpr (kFields == Fields::difference) return zigzag(Word(x - base));
  const Word bits = x ^ base;
  return kFields == Fields::bytes ? bits : Word(bits << 1 | bits >> (kBits<Word> - 1));
}
template <Fields kFields, class Word>
TALLIES_INLINE Word decoded(Word x, Word base) {
  if constexpr (kFields == Fields::difference) return Word(unzigzag(x) + base);
  const Word bits = kFields == Fields::bytes ? x : Word(x >> 1 | x << (kBits<Word> - 1));
  return bits ^ base;
}

template <class Word, Fields kFields, bool kHasBase>
TALLIES_INLINE void split_elements(const SplitArgs& args) {
  const Word* const inputs[2] = {static_cast<const Word*>(args.values),
                                 static_cast<const Word*>(args.base)};
  for_each_block<kFieldBlock>(
      inputs, 1 + kHasBase, args.n,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, std::size_t i, std::size_t n) {
        Word words[kFieldBlock];
        for (std::size_t lane = 0; lane < kFieldBlock; ++lane)
          words[lane] = encoded<kFields>(rows[0][first + lane],
                                         kHasBase ? rows[kHasBase][first + lane] : Word(0));
        for (int plane = 0; plane < int(sizeof(Word)); ++plane) {
          std::uint8_t bytes[kFieldBlock];
          for (std::size_t lane = 0; lane < kFieldBlock; ++lane)
            bytes[lane] = static_cast<std::uint8_t>(words[lane] >> 8 * plane);
          std::uint8_t* const to = args.planes[plane] + i;
          if (n == kFieldBlock)
            __builtin_memcpy(to, bytes, kFieldBlock);
          else
            __builtin_memcpy(to, bytes, n);
        }
      });
}

template <class Word, Fields kFields, bool kHasBase>
TALLIES_INLINE void join_elements(const JoinArgs& args) {
  const Word* const base = static_cast<const Word*>(args.base);
  Word* const out = static_cast<Word*>(args.out);
  for_each_block<kFieldBlock>(
      args.planes, int(sizeof(Word)), args.n,
      TALLIES_LAMBDA(const std::uint8_t* const* rows, std::size_t first, std::size_t i,
                     std::size_t n) {
        Word words[kFieldBlock], bases[kFieldBlock] = {};
        if (kHasBase && n == kFieldBlock)
          __builtin_memcpy(bases, base + i, sizeof bases);
        else if (kHasBase)
          __builtin_memcpy(bases, base + i, n * sizeof(Word));
        for (std::size_t lane = 0; lane < kFieldBlock; ++lane) {
          Word word = 0;
          for (int plane = 0; plane < int(sizeof(Word)); ++plane)
            word |= Word(Word(rows[plane][first + lane]) << 8 * plane);
          words[lane] = decoded<kFields>(word, bases[lane]);
        }
        if (n == kFieldBlock)
          __builtin_memcpy(out + i, words, sizeof words);
        else
          __builtin_memcpy(out + i, words, n * sizeof(Word));
      });
}

// Calls body.operator()<fields, has_base>() with those of a call.
template <class Body>
TALLIES_INLINE void with_fields(Fields fields, bool has_base, const Body& body) {
  const auto pick = [&]<Fields kFields>() __attribute__((always_inline)) {
    if (has_base)
      body.template operator()<kFields, true>();
    else
      body.template operator()<kFields, false>();
  };
  if (fields == Fields::bytes) return pick.template operator()<Fields::bytes>();
  if (fields == Fields::rotated) return pick.template operator()<Fields::rotated>();
  pick.template operator()<Fields::difference>();
}

template <class Word>
void split_fields(const SplitArgs& args) {
  with_fields(args.fields, args.base != nullptr,
              [&]<Fields kFields, bool kHasBase>() __attribute__((always_inline)) {
                split_elements<Word, kFields, kHasBase>(args);
              });
}

template <class Word>
void join_fields(const JoinArgs& args) {
  with_fields(args.fields, args.base != nullptr,
              [&]<Fields kFields, bool kHasBase>()
                  __attribute__((always_inline)) { join_elements<Word, kFields, kHasBase>(args); });
}

}  // namespace
}  // namespace tallies
