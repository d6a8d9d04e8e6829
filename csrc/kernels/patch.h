// Exact changes of elements by their bytes: found and listed, coded as gaps, and made.
// Reference: tests/reference/changed_elements.py.
#pragma once

#include "core/compared.h"
#include "kernels/change.h"
#include "kernels/sparse.h"

namespace tallies {
namespace {

// A line of elements; the compiler makes as many vectors of the target of it as it takes.
template <class Word>
struct Line {
  typedef Word Type __attribute__((vector_size(64)));
};

// Calls body(bit) for the bits that a word has set, in order, and returns how many there are. Words
// with few bits, most of those of a sparse change, take the same steps whatever they are: the body
// must allow for calls beyond the last bit, with bits below kBits.
template <int kBits, class Body>
TALLIES_INLINE int for_each_bit(std::uint64_t word, const Body& body) {
  constexpr int kFew = 4;
  constexpr std::uint64_t kLast = std::uint64_t(1) << (kBits - 1);
  const int n = __builtin_popcountll(word);
  for (int k = 0; k < kFew; ++k, word &= word - 1) body(k, __builtin_ctzll(word | kLast));
  for (int k = kFew; k < n; ++k, word &= word - 1) body(k, __builtin_ctzll(word));
  return n;
}

// Tells whether to skip a word, where n changes were found in the elements before it. A branch that
// many changes decide costs more than steps in vain.
TALLIES_INLINE bool is_worth_skipping(std::uint64_t word, std::ptrdiff_t n,
                                      std::size_t n_elements) {
  constexpr std::size_t kFew = 200;  // elements for a change
  return (word == 0) & (static_cast<std::size_t>(n) * kFew < n_elements);
}

// Prefetches into the second-level cache what lies as far ahead as a caller has elements that it
// takes together, for other reads of them as well: memory would be idle meanwhile.
template <class Word>
TALLIES_INLINE void prefetch_later(const Word* p, std::size_t n_elements) {
  for (std::size_t byte = 0; byte < n_elements * sizeof(Word); byte += 64)
    __builtin_prefetch(reinterpret_cast<const char*>(p) + kComparedTogether + byte, 0, 2);
}

template <class Word, Coding kCoding>
std::size_t compact_coded(const CompactArgs& args) {
  constexpr int kBlock = kDiffering<Word>;
  constexpr int kMany = kBlock / 3;
  const Word* const before = static_cast<const Word*>(args.before);
  const Word* const now = static_cast<const Word*>(args.now);
  Word* const values = static_cast<Word*>(args.values);
  Word* to = values;
  const auto list = TALLIES_LAMBDA(std::uint64_t word, std::size_t i, std::size_t n) {
    prefetch_later(before + i, kBlock);
    prefetch_later(now + i, kBlock);
    store_bits(args.mask + i / 8, word, n);
    if (is_worth_skipping(word, to - values, i)) return;
    const auto value = TALLIES_LAMBDA(int bit) {
      return value_of<kCoding, Word>(load<Word>(before + i + bit), load<Word>(now + i + bit));
    };
    if (n < kBlock) {
      for (; word != 0; word &= word - 1) *to++ = value(__builtin_ctzll(word));
    } else if (__builtin_popcountll(word) < kMany) {
      to += for_each_bit<kBlock>(word, TALLIES_LAMBDA(int k, int bit) { to[k] = value(bit); });
    } else {
      for (int bit = 0; bit < kBlock; ++bit) {
        *to = value(bit);
        to += word >> bit & 1;
      }
    }
  };
  compare<Word>(before, now, args.n, list);
  return static_cast<std::size_t>(to - values);
}

template <class Word>
std::size_t compact(const CompactArgs& args) {
  if (args.coding == Coding::flip) return compact_coded<Word, Coding::flip>(args);
  if (args.coding == Coding::difference) return compact_coded<Word, Coding::difference>(args);
  return compact_coded<Word, Coding::replacement>(args);
}

std::size_t mask_positions(const std::uint8_t* mask, std::size_t n_elements,
                           std::uint16_t* positions) {
  std::uint16_t* to = positions;
  for (std::size_t i = 0; i < n_elements; i += kMaskBlock) {
    const std::size_t n = n_elements - i < kMaskBlock ? n_elements - i : kMaskBlock;
    const std::uint64_t word = load_bits<kMaskBlock>(mask + i / 8, n);
    if (is_worth_skipping(word, to - positions, i)) continue;
    to += for_each_bit<kMaskBlock>(
        word, TALLIES_LAMBDA(int k, int bit) {
          to[k] = static_cast<std::uint16_t>(i + static_cast<std::size_t>(bit));
        });
  }
  return static_cast<std::size_t>(to - positions);
}

// Elements whose positions are listed at a time.
constexpr std::size_t kListed = 4096;

std::size_t encode_gaps(const std::uint8_t* mask, std::size_t n_elements, std::uint8_t* gaps) {
  std::uint16_t positions[kListed + kListSlack];
  std::uint8_t* to = gaps;
  std::size_t next = 0;  // the element after the last change
  for (std::size_t i = 0; i < n_elements; i += kListed) {
    const std::size_t n = n_elements - i < kListed ? n_elements - i : kListed;
    const std::size_t n_changed = mask_positions(mask + i / 8, n, positions);
    for (std::size_t k = 0; k < n_changed; ++k) {
      const std::size_t at = i + positions[k];
      std::size_t gap = at - next;
      for (; gap >= kLongGap; gap -= kLongGap) *to++ = kLongGap;
      *to++ = static_cast<std::uint8_t>(gap);
      next = at + 1;
    }
  }
  return static_cast<std::size_t>(to - gaps);
}

GapCounts count_gaps(const std::uint8_t* gaps, std::size_t n_bytes) {
  std::uint64_t sum = 0, n_changed = 0;
  for (std::size_t i = 0; i < n_bytes; ++i) {
    sum += gaps[i];
    n_changed += gaps[i] != kLongGap;
  }
  return {sum + n_changed, n_changed};
}

// Gaps whose positions are found together.
constexpr std::size_t kGaps = 16;
typedef std::uint8_t Gaps __attribute__((vector_size(kGaps)));
typedef std::uint16_t Sums __attribute__((vector_size(2 * kGaps)));

// Adds to every lane those before it.
TALLIES_INLINE Sums sums_to_each(Sums x) {
  const Sums zero = {};
  x += __builtin_shufflevector(zero, x, 0, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29,
                               30);
  x += __builtin_shufflevector(zero, x, 0, 1, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28,
                               29);
  x += __builtin_shufflevector(zero, x, 0, 1, 2, 3, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27);
  return x +
         __builtin_shufflevector(zero, x, 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23);
}

std::size_t gap_positions(const std::uint8_t* gaps, std::size_t n_bytes, std::uint16_t* positions) {
  std::uint16_t* to = positions;
  std::uint16_t next = 0;  // the element after those of all gaps before
  const auto list = TALLIES_LAMBDA(const std::uint8_t* bytes) {
    const Sums stay = __builtin_convertvector(load<Gaps>(bytes), Sums);
    const Sums ends = sums_to_each(stay - (Sums)(stay != kLongGap)) + next;  // true is -1
    std::uint16_t all_ends[kGaps];
    store(all_ends, ends - 1);
    for (std::size_t k = 0; k < kGaps; ++k) {
      *to = all_ends[k];
      to += bytes[k] != kLongGap;
    }
    next = ends[kGaps - 1];
  };
  std::size_t i = 0;
  for (; i + kGaps <= n_bytes; i += kGaps) list(gaps + i);
  if (i < n_bytes) {
    std::uint8_t last[kGaps];
    for (std::size_t k = 0; k < kGaps; ++k) last[k] = i + k < n_bytes ? gaps[i + k] : kLongGap;
    list(last);
  }
  return static_cast<std::size_t>(to - positions);
}

template <class Word, Coding kCoding>
void scatter(const std::uint16_t* positions, std::size_t n, const void* values, void* elements) {
  const Word* const from = static_cast<const Word*>(values);
  Word* const to = static_cast<Word*>(elements);
  for (std::size_t k = 0; k < n; ++k) {
    Word* const element = to + positions[k];
    store(element, changed<kCoding, Word>(load<Word>(element), load<Word>(from + k)));
  }
}

template <class Word>
void gather(const std::uint16_t* positions, std::size_t n, const void* elements, void* values) {
  const Word* const from = static_cast<const Word*>(elements);
  Word* const to = static_cast<Word*>(values);
  for (std::size_t k = 0; k < n; ++k) store(to + k, load<Word>(from + positions[k]));
}

template <class Word, Coding kCoding>
void change_all(const void* values, std::size_t n_elements, void* elements) {
  using Words = typename Line<Word>::Type;
  const Word* const inputs[2] = {static_cast<const Word*>(elements),
                                 static_cast<const Word*>(values)};
  map_blocks<64 / sizeof(Word)>(
      inputs, 2, static_cast<Word*>(elements), n_elements,
      TALLIES_LAMBDA(const Word* const* rows, std::size_t first, Word* to) {
        store(to,
              changed<kCoding, Words>(load<Words>(rows[0] + first), load<Words>(rows[1] + first)));
      });
}

}  // namespace
}  // namespace tallies
