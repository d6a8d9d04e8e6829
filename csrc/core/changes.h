// The words of exact changes of elements: what their values are, and how they are coded.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tallies {

// The value of a changed element: old ^ new, new - old modulo the size of the elements, or new; for
// changes that are made, also old - new, by which a difference is undone.
enum class Coding : std::uint8_t { flip, difference, replacement, undone };
inline constexpr int kFoundCodings = 3, kCodings = 4;

// Elements whose changes can be decoded alone: positions count from the block's first.
inline constexpr std::size_t kChangeBlock = std::size_t(1) << 16;
// Values, positions or bytes that may be overwritten beyond the last of a list.
inline constexpr std::size_t kListSlack = 64;
// As a byte of gaps: so many elements that stay, and no change after them.
inline constexpr std::uint8_t kLongGap = 255;

// Elements of 1, 2, 4 and 8 bytes.
struct CompactArgs {
  const void* before;
  const void* now;
  std::size_t n;
  Coding coding;
  std::uint8_t* mask;  // of the elements that differ in a bit
  void* values;        // theirs, side by side: room for n and kListSlack
};

// The elements of a block that its gaps take, up to the last change, and the changes.
struct GapCounts {
  std::uint64_t n_elements = 0, n_changed = 0;
};

}  // namespace tallies
