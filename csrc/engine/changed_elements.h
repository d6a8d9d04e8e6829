// Exact changes of the elements of a slice by their bytes: how they are laid out. All comparisons
// and values are of bit patterns, of elements of 1, 2, 4 or 8 bytes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "core/changes.h"

namespace tallies {

enum class Layout : std::uint8_t {
  none,   // no element is changed
  gaps,   // positions are gaps between changes, values those of the changes
  mask,   // positions are a packed mask, values those of the changes
  dense,  // no positions, values of all elements
};
inline constexpr int kLayouts = 4;

// Memory of bytes that nobody has set; copies share it.
class Blob {
 public:
  Blob() = default;
  explicit Blob(std::size_t n)
      : data_(std::make_shared_for_overwrite<std::uint8_t[]>(n)), size_(n) {}
  std::uint8_t* data() const { return data_.get(); }
  std::size_t size() const { return size_; }
  void shrink(std::size_t n) { size_ = n; }

 private:
  std::shared_ptr<std::uint8_t[]> data_;
  std::size_t size_ = 0;
};

// The ends of a block's positions, in bytes, and of its values, counted from the slice's first.
struct BlockEnds {
  std::uint32_t positions, values;
};

// Bytes that lie elsewhere. Blocks have kChangeBlock elements, but for the last.
struct ChangedElements {
  Layout layout = Layout::none;
  Coding coding = Coding::flip;
  std::uint64_t n_elements = 0;
  std::size_t unit = 1;  // bytes of an element
  std::span<const std::uint8_t> positions = {}, values = {};
  std::vector<BlockEnds> blocks = {};  // of gaps and masks
};

constexpr std::size_t n_blocks(std::uint64_t n_elements) {
  return static_cast<std::size_t>((n_elements + kChangeBlock - 1) / kChangeBlock);
}

// Throws an error of the request unless every position is one of its block and every change has a
// value: then the functions below touch nothing else.
void check(const ChangedElements&);

// Room for the positions of a block.
class Positions {
 public:
  Positions() : data_(kChangeBlock + kChangeBlock / kLongGap + kListSlack + 1) {}
  std::uint16_t* data() { return data_.data(); }

 private:
  std::vector<std::uint16_t> data_;
};

// Makes the changes of n elements from `first` of the slice on, which lie at `elements`; far ones
// are in no cache.
void apply(const ChangedElements&, std::uint64_t first, std::size_t n, Positions&, void* elements,
           bool are_far = false);

// Marks the pages in which changes of n elements from `first` on have bytes; the first of these
// elements lies so many bytes behind the beginning of page 0.
void mark(const ChangedElements&, std::uint64_t first, std::size_t n, Positions&,
          std::size_t n_before, std::size_t page_bytes, std::vector<bool>& pages);

// Lists the elements at the positions of these changes, for each where its value lies.
void gather(const ChangedElements&, std::uint64_t first, std::size_t n, Positions&,
            const void* elements, std::uint8_t* values);

}  // namespace tallies
