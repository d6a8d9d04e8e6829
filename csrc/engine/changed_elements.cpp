#include "engine/changed_elements.h"

#include <algorithm>
#include <cstring>
#include <string>

#include "core/error.h"
#include "cpu/ops.h"
#include "engine/set_bits.h"

namespace tallies {
namespace {

[[noreturn]] void refuse(const std::string& what, std::uint64_t found, std::uint64_t expected) {
  throw Error(Error::Kind::request, "damaged changes: found " + std::to_string(found) + " " + what +
                                        ", expected " + std::to_string(expected));
}

void require_equal(const std::string& what, std::uint64_t found, std::uint64_t expected) {
  if (found != expected) refuse(what, found, expected);
}

// One block: its elements, and where its positions and its values begin and end.
struct Block {
  std::size_t first, n_elements;
  BlockEnds begin, end;
};

Block block_of(const ChangedElements& changes, std::size_t number) {
  const std::size_t first = number * kChangeBlock;
  const auto n = std::min<std::uint64_t>(kChangeBlock, changes.n_elements - first);
  return {first, static_cast<std::size_t>(n),
          number == 0 ? BlockEnds{0, 0} : changes.blocks[number - 1], changes.blocks[number]};
}

void check_block(const ChangedElements& changes, std::size_t number) {
  const Block block = block_of(changes, number);
  const std::string where = "of block " + std::to_string(number);
  if (block.end.positions < block.begin.positions || block.end.values < block.begin.values ||
      block.end.positions > changes.positions.size() ||
      block.end.values > changes.values.size() / changes.unit)
    throw Error(Error::Kind::request, "damaged changes: the ends " + where + " are " +
                                          std::to_string(block.end.positions) + " and " +
                                          std::to_string(block.end.values) + ", expected " +
                                          std::to_string(block.begin.positions) + " to " +
                                          std::to_string(changes.positions.size()) + " and " +
                                          std::to_string(block.begin.values) + " to " +
                                          std::to_string(changes.values.size() / changes.unit));
  const std::uint8_t* const positions = changes.positions.data() + block.begin.positions;
  const std::size_t n_bytes = block.end.positions - block.begin.positions;
  const std::uint64_t n_values = block.end.values - block.begin.values;
  if (changes.layout == Layout::mask) {
    require_equal("bytes of the mask " + where, n_bytes, (block.n_elements + 7) / 8);
    if (const std::size_t n_last = block.n_elements % 8; n_last != 0)
      if (positions[n_bytes - 1] >> n_last != 0)
        throw Error(Error::Kind::request, "damaged changes: the mask " + where +
                                              " has bits set beyond its " +
                                              std::to_string(block.n_elements) + " elements");
    require_equal("values " + where, n_values, count_set(positions, block.n_elements));
    return;
  }
  const GapCounts counts = kernels().count_gaps(positions, n_bytes);
  if (counts.n_elements > block.n_elements)
    throw Error(Error::Kind::request, "damaged changes: the gaps " + where + " reach element " +
                                          std::to_string(counts.n_elements) +
                                          ", expected at most " + std::to_string(block.n_elements));
  if (n_bytes > 0 && positions[n_bytes - 1] == kLongGap)
    throw Error(Error::Kind::request, "damaged changes: the gaps " + where +
                                          " end with elements that stay, expected a change");
  require_equal("values " + where, n_values, counts.n_changed);
}

// Calls body(positions, n, first value, elements before the tile's) for the changes of each block
// that lie among n_elements from `first` on.
template <class Body>
void for_each_block(const ChangedElements& changes, std::uint64_t first, std::size_t n_elements,
                    Positions& room, const Body& body) {
  const std::uint64_t end = first + n_elements;
  for (std::uint64_t at = first / kChangeBlock * kChangeBlock; at < end; at += kChangeBlock) {
    const Block block = block_of(changes, static_cast<std::size_t>(at / kChangeBlock));
    const std::uint8_t* const coded = changes.positions.data() + block.begin.positions;
    const std::uint16_t* const positions = room.data();
    const std::size_t n = changes.layout == Layout::gaps
                              ? kernels().gap_positions(
                                    coded, block.end.positions - block.begin.positions, room.data())
                              : kernels().mask_positions(coded, block.n_elements, room.data());
    const auto* const begin =
        at >= first ? positions : std::lower_bound(positions, positions + n, first - at);
    const auto* const behind = at + block.n_elements <= end
                                   ? positions + n
                                   : std::lower_bound(begin, positions + n, end - at);
    body(begin, static_cast<std::size_t>(behind - begin),
         block.begin.values + static_cast<std::size_t>(begin - positions),
         static_cast<std::ptrdiff_t>(at) - static_cast<std::ptrdiff_t>(first));
  }
}

// Has the lines of changed elements fetched into the second-level cache, all at once: one after the
// other, each would be waited for.
void fetch(const std::uint16_t* positions, std::size_t n, const char* elements, std::size_t unit) {
  for (std::size_t k = 0; k < n; ++k) __builtin_prefetch(elements + positions[k] * unit, 0, 2);
}

}  // namespace

void check(const ChangedElements& changes) {
  const std::uint64_t n_bytes = changes.n_elements * changes.unit;
  if (changes.layout == Layout::none || changes.layout == Layout::dense) {
    require_equal("bytes of positions", changes.positions.size(), 0);
    require_equal("blocks", changes.blocks.size(), 0);
    require_equal("bytes of values", changes.values.size(),
                  changes.layout == Layout::dense ? n_bytes : 0);
    return;
  }
  require_equal("blocks", changes.blocks.size(), n_blocks(changes.n_elements));
  for (std::size_t number = 0; number < changes.blocks.size(); ++number)
    check_block(changes, number);
  const BlockEnds end = changes.blocks.empty() ? BlockEnds{0, 0} : changes.blocks.back();
  require_equal("bytes of positions", changes.positions.size(), end.positions);
  require_equal("bytes of values", changes.values.size(), end.values * std::uint64_t(changes.unit));
}

void apply(const ChangedElements& changes, std::uint64_t first, std::size_t n, Positions& room,
           void* elements, bool are_far) {
  const std::size_t unit = by_size(changes.unit);
  const auto coding = static_cast<std::size_t>(changes.coding);
  const std::uint8_t* const values = changes.values.data();
  if (changes.layout == Layout::none) return;
  if (changes.layout == Layout::dense)
    return kernels().change_all[unit][coding](values + first * changes.unit, n, elements);
  for_each_block(changes, first, n, room,
                 [&](const std::uint16_t* positions, std::size_t n_changed, std::size_t first_value,
                     std::ptrdiff_t before) {
                   char* const block = static_cast<char*>(elements) +
                                       before * static_cast<std::ptrdiff_t>(changes.unit);
                   if (are_far) fetch(positions, n_changed, block, changes.unit);
                   kernels().scatter[unit][coding](positions, n_changed,
                                                   values + first_value * changes.unit, block);
                 });
}

void mark(const ChangedElements& changes, std::uint64_t first, std::size_t n, Positions& room,
          std::size_t n_before, std::size_t page_bytes, std::vector<bool>& pages) {
  if (changes.layout == Layout::none) return;
  if (changes.layout == Layout::dense) return std::fill(pages.begin(), pages.end(), true);
  for_each_block(changes, first, n, room,
                 [&](const std::uint16_t* positions, std::size_t n_changed, std::size_t,
                     std::ptrdiff_t before) {
                   for (std::size_t k = 0; k < n_changed; ++k) {
                     const auto element = static_cast<std::size_t>(before + positions[k]);
                     const std::size_t byte = n_before + element * changes.unit;
                     pages[byte / page_bytes] = true;
                     pages[(byte + changes.unit - 1) / page_bytes] = true;
                   }
                 });
}

void gather(const ChangedElements& changes, std::uint64_t first, std::size_t n, Positions& room,
            const void* elements, std::uint8_t* values) {
  if (changes.layout == Layout::none) return;
  if (changes.layout == Layout::dense) {
    std::memcpy(values + first * changes.unit, elements, n * changes.unit);
    return;
  }
  for_each_block(
      changes, first, n, room,
      [&](const std::uint16_t* positions, std::size_t n_changed, std::size_t first_value,
          std::ptrdiff_t before) {
        kernels().gather[by_size(changes.unit)](
            positions, n_changed,
            static_cast<const char*>(elements) + before * static_cast<std::ptrdiff_t>(changes.unit),
            values + first_value * changes.unit);
      });
}

}  // namespace tallies
