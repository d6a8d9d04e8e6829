#include "engine/sorted_range.h"

#include <algorithm>
#include <bit>
#include <memory>
#include <utility>

#include "core/error.h"

namespace tallies {
namespace {

// A magnitude as the integer of its bits, complemented for a descending sort, and its element.
struct Entry {
  std::uint32_t key, element;
};

bool less(Entry a, Entry b) { return a.key < b.key; }

// Parts of up to so many entries are left to one insertion sort, which keeps equal ones in order.
constexpr std::ptrdiff_t kSmall = 16;
// Entries that are compared at once, so that swaps wait for no comparison.
constexpr std::ptrdiff_t kBlock = 128;

// Follows libstdc++'s introsort, entry by entry, into the parts that a border divides.
class Introsort {
 public:
  Introsort(Entry* begin, std::ptrdiff_t first, std::ptrdiff_t last)
      : begin_(begin), first_(first), last_(last) {}

  void run(std::ptrdiff_t n) {
    // A number of bits, of another type in older libraries.
    const auto n_bits = static_cast<int>(std::bit_width(static_cast<std::size_t>(n)));
    if (n > 1) descend(0, n, 2 * (n_bits - 1));
  }

 private:
  bool is_divided(std::ptrdiff_t from, std::ptrdiff_t to) const {
    return (from < first_ && first_ < to) || (from < last_ && last_ < to);
  }

  void descend(std::ptrdiff_t from, std::ptrdiff_t to, int depth) {
    if (!is_divided(from, to)) return;
    if (to - from <= kSmall) return insertion_sort(begin_ + from, begin_ + to);
    if (depth == 0) return std::partial_sort(begin_ + from, begin_ + to, begin_ + to, less);
    const std::ptrdiff_t cut = partition(begin_ + from, begin_ + to) - begin_;
    descend(cut, to, depth - 1);
    descend(from, cut, depth - 1);
  }

  static void insertion_sort(Entry* from, Entry* to) {
    for (Entry* one = from + 1; one < to; ++one) {
      const Entry moved = *one;
      Entry* place = one;
      for (; place > from && less(moved, place[-1]); --place) *place = place[-1];
      *place = moved;
    }
  }

  static void median_to_first(Entry* result, Entry* a, Entry* b, Entry* c) {
    if (less(*a, *b)) {
      std::swap(*result, *(less(*b, *c) ? b : (less(*a, *c) ? c : a)));
    } else {
      std::swap(*result, *(less(*a, *c) ? a : (less(*b, *c) ? c : b)));
    }
  }

  // Swaps the first entry from the left that is not less than the pivot with the first from the
  // right that is not greater, until they meet.
  static Entry* partition(Entry* from, Entry* to) {
    median_to_first(from, from + 1, from + (to - from) / 2, to - 1);
    const std::uint32_t pivot = from->key;
    Entry *left = from + 1, *right = to;
    by_blocks(left, right, pivot);
    for (;;) {
      while (left->key < pivot) ++left;
      --right;
      while (pivot < right->key) --right;
      if (left >= right) return left;
      std::swap(*left, *right);
      ++left;
    }
  }

  // Does the same swaps as long as two whole blocks lie between both ends.
  static void by_blocks(Entry*& left, Entry*& right, std::uint32_t pivot) {
    std::uint8_t lefts[kBlock], rights[kBlock];
    std::ptrdiff_t n_left = 0, n_right = 0, i_left = 0, i_right = 0;
    while (right - left > 2 * kBlock) {
      if (i_left == n_left) {
        n_left = i_left = 0;
        for (std::ptrdiff_t i = 0; i < kBlock; ++i) {
          lefts[n_left] = static_cast<std::uint8_t>(i);
          n_left += left[i].key >= pivot;
        }
      }
      if (i_right == n_right) {
        n_right = i_right = 0;
        for (std::ptrdiff_t i = 0; i < kBlock; ++i) {
          rights[n_right] = static_cast<std::uint8_t>(i);
          n_right += right[-1 - i].key <= pivot;
        }
      }
      const std::ptrdiff_t n = std::min(n_left - i_left, n_right - i_right);
      for (std::ptrdiff_t i = 0; i < n; ++i)
        std::swap(left[lefts[i_left + i]], right[-1 - rights[i_right + i]]);
      i_left += n;
      i_right += n;
      if (i_left == n_left) left += kBlock;
      if (i_right == n_right) right -= kBlock;
    }
    // The rest of a block begins behind its last swap.
    if (i_left < n_left) left += lefts[i_left];
    if (i_right < n_right) right -= rights[i_right];
  }

  Entry* begin_;
  std::ptrdiff_t first_, last_;
};

}  // namespace

std::uint64_t keep_sorted_range(const float* x, float* out, std::size_t n, std::size_t first,
                                std::size_t last, bool descending) {
  if (n >> 32 != 0 || first > last || last > n)
    throw Error(Error::Kind::request, "a range of places in fewer than 2^32 entries is expected");
  const std::uint32_t flip = descending ? 0xFFFFFFFFu : 0;
  const auto key_of = [flip](float value) {
    return (std::bit_cast<std::uint32_t>(value) & 0x7FFFFFFFu) ^ flip;
  };
  const auto entries = std::make_unique_for_overwrite<Entry[]>(n);
  for (std::size_t i = 0; i < n; ++i) entries[i] = {key_of(x[i]), static_cast<std::uint32_t>(i)};
  Introsort(entries.get(), static_cast<std::ptrdiff_t>(first), static_cast<std::ptrdiff_t>(last))
      .run(static_cast<std::ptrdiff_t>(n));
  if (first == last) {
    std::fill(out, out + n, 0.0f);
    return 0;
  }
  const Entry *const from = entries.get() + first, *const to = entries.get() + last;
  const auto [low, high] = std::minmax_element(from, to, less);
  const std::uint32_t low_key = low->key, high_key = high->key;
  for (std::size_t i = 0; i < n; ++i) {
    const std::uint32_t key = key_of(x[i]);
    out[i] = low_key <= key && key <= high_key ? x[i] : 0.0f;
  }
  // Entries equal to one of both keys are in only where the sort left them so.
  std::uint64_t n_left_out = 0;
  const auto leave_out = [&](const Entry* one, const Entry* end) {
    for (; one != end; ++one) {
      if (one->key != low_key && one->key != high_key) continue;
      out[one->element] = 0.0f;
      ++n_left_out;
    }
  };
  leave_out(entries.get(), from);
  leave_out(to, entries.get() + n);
  return n_left_out;
}

}  // namespace tallies
