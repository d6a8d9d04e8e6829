// Exact changes of elements on the device. A block of threads makes the changes of a block of
// elements: the threads take the next coded bytes together, and sums over the threads before say
// where the changes of each begin.
#include "cuda/chunk.h"
#include "cuda/families.h"
#include "cuda/launch.h"
#include "cuda/ranking.h"
#include "kernels/change.h"

namespace tallies::cuda {
namespace {

// Coded bytes of a thread at a time: a block of a sparse patch has some hundreds.
constexpr int kEach = 4;

// A number of elements in the upper half, and of changes in the lower.
TALLIES_INLINE Count pair_of(unsigned n_elements, unsigned n_changed) {
  return Count(n_elements) << 32 | n_changed;
}

// The meaning of a byte: how many elements and changes it stands for, and which elements change.
struct Gap {
  TALLIES_INLINE static Count size(std::uint8_t gap) {
    const unsigned is_change = gap != kLongGap;
    return pair_of(gap + is_change, is_change);
  }
  template <class Body>
  TALLIES_INLINE static void for_each(std::uint8_t gap, const Body& body) {
    if (gap != kLongGap) body(gap);
  }
};
struct EightBits {
  TALLIES_INLINE static Count size(std::uint8_t bits) {
    unsigned n = 0;
    for (unsigned bit = 0; bit < 8; ++bit) n += unsigned(bits) >> bit & 1u;
    return pair_of(8, n);
  }
  template <class Body>
  TALLIES_INLINE static void for_each(std::uint8_t bits, const Body& body) {
    for (unsigned bit = 0; bit < 8; ++bit)
      if (bits >> bit & 1) body(bit);
  }
};

template <class Word, Coding kCoding, class Coded>
__global__ void __launch_bounds__(kThreads) scatter(CodedChanges all_changes) {
  __shared__ Count all;
  const auto& [coded, ends, values, n_coded, n_values, n_elements, elements] = all_changes;
  const Word* const from = static_cast<const Word*>(values);
  const std::size_t n_blocks = (n_elements + kChangeBlock - 1) / kChangeBlock;
  for (std::size_t block = blockIdx.x; block < n_blocks; block += gridDim.x) {
    Word* const to = static_cast<Word*>(elements) + block * kChangeBlock;
    const std::size_t left = n_elements - block * kChangeBlock;
    const std::size_t n_here = left < kChangeBlock ? left : kChangeBlock;
    std::size_t first = block == 0 ? 0 : ends[2 * block - 2];
    const std::size_t end = ends[2 * block] < n_coded ? ends[2 * block] : n_coded;
    Count before = pair_of(0, block == 0 ? 0 : ends[2 * block - 1]);
    for (; first < end; first += kThreads * kEach) {
      const std::size_t mine_first = first + threadIdx.x * kEach;
      Count mine = 0;
      for (std::size_t i = mine_first; i < mine_first + kEach && i < end; ++i)
        mine += Coded::size(coded[i]);
      const Count from_here = sum_of_later(mine);
      if (threadIdx.x == 0) all = from_here;
      __syncthreads();
      Count at = before + all - from_here;
      for (std::size_t i = mine_first; i < mine_first + kEach && i < end; ++i) {
        std::size_t value = at & 0xffffffffu;
        Coded::for_each(coded[i], [&](unsigned behind) {
          const std::size_t element = (at >> 32) + behind;
          if (element < n_here && value < n_values)
            to[element] = changed<kCoding, Word>(to[element], from[value]);
          ++value;
        });
        at += Coded::size(coded[i]);
      }
      before += all;
      __syncthreads();
    }
  }
}

template <class Word, Coding kCoding>
__global__ void __launch_bounds__(kThreads)
    change_all(const void* values, std::size_t n_elements, void* elements) {
  constexpr int kWords = kLoadBytes / sizeof(Word);
  const Word* const from = static_cast<const Word*>(values);
  Word* const to = static_cast<Word*>(elements);
  for_each_chunk<kWords>(n_elements, [&](std::size_t i, int n) {
    Chunk<Word, kWords> chunk = load_chunk<Word, kWords>(to + i, n);
    const Chunk<Word, kWords> value = load_chunk<Word, kWords>(from + i, n);
    for (int j = 0; j < kWords; ++j) chunk.v[j] = changed<kCoding, Word>(chunk.v[j], value.v[j]);
    store_chunk(to + i, chunk, n);
  });
}

template <class Word, Coding kCoding, class Coded>
Failure run_scatter(const CodedChanges& changes, Stream stream) {
  if (changes.n_elements == 0) return nullptr;
  unsigned n_blocks = 0;
  if (const Failure wrong = grid_for(changes.n_elements, kChangeBlock, &n_blocks)) return wrong;
  return launch(&scatter<Word, kCoding, Coded>, n_blocks, stream, changes);
}

template <class Word, Coding kCoding>
Failure run_change_all(const void* values, std::size_t n_elements, void* elements, Stream stream) {
  return launch_over(n_elements, kLoadBytes / static_cast<int>(sizeof(Word)),
                     &change_all<Word, kCoding>, stream, values, n_elements, elements);
}

template <class Word, Coding kCoding>
void fill_coding(Table& table, int unit) {
  constexpr int kCode = static_cast<int>(kCoding);
  table.scatter_gaps[unit][kCode] = &run_scatter<Word, kCoding, Gap>;
  table.scatter_mask[unit][kCode] = &run_scatter<Word, kCoding, EightBits>;
  table.change_all[unit][kCode] = &run_change_all<Word, kCoding>;
}

template <class Word>
void fill_unit(Table& table, int unit) {
  fill_coding<Word, Coding::flip>(table, unit);
  fill_coding<Word, Coding::difference>(table, unit);
  fill_coding<Word, Coding::replacement>(table, unit);
  fill_coding<Word, Coding::undone>(table, unit);
}

}  // namespace

void fill_patch(Table& table) {
  fill_unit<std::uint8_t>(table, 0);
  fill_unit<std::uint16_t>(table, 1);
  fill_unit<std::uint32_t>(table, 2);
  fill_unit<std::uint64_t>(table, 3);
}

}  // namespace tallies::cuda
