#include "engine/row_ranks.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <utility>

#include "core/magnitude.h"
#include "cpu/ops.h"
#include "engine/row_select.h"

namespace tallies {
namespace {

constexpr std::size_t kSample = 31;
constexpr std::int32_t kAbove = 128;         // slots above the largest of a sample: an octave
constexpr std::size_t kMostSlots = 1 << 22;  // that float32 numbers without a gap
constexpr std::size_t kFar = 64;             // places: farther, sorting is faster than moving

// Numbers the entries of each slot from 0 in the order of their indices; starts becomes how many a
// slot has. Two entries at a time, so that where most are in one slot not each waits for the one
// before it.
void number(const std::uint32_t* slots, std::size_t n, std::uint32_t* starts, std::int32_t* ranks) {
  std::size_t i = 0;
  for (; i + 2 <= n; i += 2) {
    const std::uint32_t a = slots[i], b = slots[i + 1];
    const std::uint32_t first = starts[a], second = starts[b] + (a == b);
    starts[a] = first + 1;
    starts[b] = second + 1;
    ranks[i] = static_cast<std::int32_t>(first);
    ranks[i + 1] = static_cast<std::int32_t>(second);
  }
  if (i < n) ranks[i] = static_cast<std::int32_t>(starts[slots[i]]++);
}

}  // namespace

const std::int32_t* RowRanks::of(const float* row, std::size_t n) {
  for (auto* words : {&patterns_, &slots_, &order_}) words->resize(n + kInteriorSlack);
  ranks_.resize(n);
  std::int32_t sample[kSample];
  std::int32_t* end = sample + sample_magnitudes(row, n, std::min(n / 32 + 1, kSample), sample);
  const auto n_long =
      std::count_if(sample, end, [](std::int32_t bits) { return (bits & 0xffff) != 0; });
  if (n >= kShortSlots / 2 && n_long <= 1) {
    rank_equal(row, n, *std::max_element(sample, end));
  } else {
    end = std::remove(sample, end, 0);
    std::int32_t* const middle = sample + (end - sample) * 3 / 4;
    std::nth_element(sample, middle, end);
    rank_distinct(row, n, *middle);
  }
  return ranks_.data();
}

// Nearly all are in a slot of equal ones, and so in order there. The others are put in order by
// themselves and come between the slots.
void RowRanks::rank_equal(const float* row, std::size_t n, std::int32_t large) {
  constexpr std::size_t kSlots = 2 + kShortSlots;
  const std::int32_t low = std::max((large >> 16) + kAbove - kShortSlots, 0);
  starts_.assign(kSlots, 0);
  const std::uint32_t* const slots = slots_.data();
  std::uint32_t* const starts = starts_.data();
  std::uint32_t* const others = order_.data();
  std::int32_t* const ranks = ranks_.data();
  const std::size_t n_others =
      kernels().short_slots(row, n, low, patterns_.data(), slots_.data(), others);
  number(slots, n, starts, ranks);
  sort(others, n_others);
  std::uint32_t start = 0;
  std::size_t slot = 1;
  const auto start_before = [&](std::size_t end) {
    for (; slot < end; ++slot) start += std::exchange(starts[slot], start);
  };
  for (std::size_t k = 0; k < n_others; ++k) {
    const std::int32_t above = static_cast<std::int32_t>(patterns_[others[k]] >> 16) + 1 - low;
    start_before(2 + static_cast<std::size_t>(std::clamp(above, 0, kShortSlots)));
    ranks[others[k]] = static_cast<std::int32_t>(start++);
  }
  start_before(kSlots);
  starts[0] = 0;
  for (std::size_t i = 0; i < n; ++i) ranks[i] += static_cast<std::int32_t>(starts[slots[i]]);
}

// With two slots an entry few slots have several. Entries after a larger one are then moved before
// it.
void RowRanks::rank_distinct(const float* row, std::size_t n, std::int32_t middle) {
  const std::size_t n_slots = std::min(2 * n, kMostSlots);
  starts_.assign(n_slots + 1, 0);
  // A product of `middle` with the number of slots neither overflows nor vanishes.
  middle =
      std::clamp(middle, std::bit_cast<std::int32_t>(1e-30f), std::bit_cast<std::int32_t>(1e30f));
  kernels().even_slots(row, n, std::bit_cast<float>(middle), n_slots, patterns_.data(),
                       slots_.data());
  const std::uint32_t* const patterns = patterns_.data();
  std::uint32_t* const slots = slots_.data();
  std::uint32_t* const starts = starts_.data();
  std::uint32_t* const order = order_.data();
  std::int32_t* const ranks = ranks_.data();
  const auto place = [=](std::size_t at, std::uint32_t entry) {
    order[at] = entry;
    ranks[entry] = static_cast<std::int32_t>(at);
  };
  const auto is_late = [=](std::size_t at) {
    return patterns[order[at - 1]] > patterns[order[at]];
  };
  number(slots, n, starts, ranks);
  std::exclusive_scan(starts, starts + n_slots + 1, starts, 0u);
  for (std::size_t i = 0; i < n; ++i)
    place(starts[slots[i]] + static_cast<std::uint32_t>(ranks[i]), static_cast<std::uint32_t>(i));
  // Listed first and without branches, in the memory of the slots.
  std::size_t n_late = 0;
  for (std::size_t at = 1; at < n; ++at) {
    slots[n_late] = static_cast<std::uint32_t>(at);
    n_late += is_late(at);
  }
  for (std::size_t k = 0; k < n_late; ++k)
    for (std::size_t from = slots[k]; from < n && is_late(from); ++from) {
      const std::uint32_t entry = order[from];
      std::size_t at = from;
      for (; at > 0 && patterns[order[at - 1]] > patterns[entry]; --at) place(at, order[at - 1]);
      place(at, entry);
      if (from - at > kFar) {
        sort(order, n);
        for (at = 0; at < n; ++at) place(at, order[at]);
        return;
      }
    }
}

void RowRanks::sort(std::uint32_t* entries, std::size_t n) const {
  std::sort(entries, entries + n, [this](std::uint32_t a, std::uint32_t b) {
    return std::pair(patterns_[a], a) < std::pair(patterns_[b], b);
  });
}

}  // namespace tallies
