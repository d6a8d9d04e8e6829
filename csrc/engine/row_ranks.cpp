#include "engine/row_ranks.h"

#include <algorithm>
#include <bit>
#include <cstring>
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

// The same for both halves of a row, each with counters of its own, which need not wait for each
// other.
void number_halves(const std::uint16_t* slots, std::size_t n, std::uint32_t* first,
                   std::uint32_t* second, std::int32_t* ranks) {
  const std::size_t half = n / 2;
  const auto next = [](std::uint32_t* counts, std::uint32_t slot) {
    const std::uint32_t n_before = counts[slot];
    counts[slot] = n_before + 1;
    return std::uint64_t(n_before);
  };
  std::size_t i = 0;
  for (; i + 2 <= half; i += 2) {
    // Two ranks are one store.
    std::uint64_t a = next(first, slots[i]), b = next(second, slots[half + i]);
    a |= next(first, slots[i + 1]) << 32;
    b |= next(second, slots[half + i + 1]) << 32;
    std::memcpy(ranks + i, &a, sizeof a);
    std::memcpy(ranks + half + i, &b, sizeof b);
  }
  for (std::size_t at = i; at < half; ++at)
    ranks[at] = static_cast<std::int32_t>(next(first, slots[at]));
  for (std::size_t at = half + i; at < n; ++at)
    ranks[at] = static_cast<std::int32_t>(next(second, slots[at]));
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
// themselves and counted behind the equal ones of the largest slot that is not above them.
void RowRanks::rank_equal(const float* row, std::size_t n, std::int32_t large) {
  const std::int32_t low = std::max((large >> 16) + kAbove - kShortSlots, 1);
  short_slots_.resize(n + kInteriorSlack);
  starts_.assign(2 * kAllSlots, 0);
  std::uint16_t* const slots = short_slots_.data();
  std::uint32_t* const others = order_.data();
  std::uint32_t *const first = starts_.data(), *const second = first + kAllSlots;
  std::int32_t* const ranks = ranks_.data();
  ShortSlots found = kernels().short_slots(row, n, low, false, slots, others);
  if (found.has_negative_zero) found = kernels().short_slots(row, n, low, true, slots, others);
  number_halves(slots, n, first, second, ranks);
  first[kOtherSlot] = second[kOtherSlot] = 0;
  for (std::size_t k = 0; k < found.n_others; ++k)
    patterns_[others[k]] = static_cast<std::uint32_t>(ranked(magnitude_of(row[others[k]])));
  sort(others, found.n_others);
  std::uint32_t start = 0;
  for (std::int32_t slot = kZeroSlot; slot < kOtherSlot; ++slot) {
    start += std::exchange(first[slot], start);
    start += std::exchange(second[slot], start);
  }
  // Others below all slots, and then the places of the rest among the counts of the second half.
  std::size_t k = 0;
  const auto number_of = [&](std::uint32_t entry) {
    return static_cast<std::int32_t>(patterns_[entry] >> 16) - low;
  };
  for (; k < found.n_others && number_of(others[k]) < 0; ++k)
    ranks[others[k]] = static_cast<std::int32_t>(start++);
  const std::size_t n_below = k;
  const auto slot_of = [&](std::uint32_t entry) {
    return short_slot(std::min(number_of(entry), kShortSlots - 1));
  };
  for (; k < found.n_others; ++k)
    ranks[others[k]] = static_cast<std::int32_t>(second[slot_of(others[k])]++);
  kernels().short_starts(first, second, start);
  for (std::size_t i = 0; i < n / 2; ++i) ranks[i] += static_cast<std::int32_t>(first[slots[i]]);
  for (std::size_t i = n / 2; i < n; ++i) ranks[i] += static_cast<std::int32_t>(second[slots[i]]);
  for (k = n_below; k < found.n_others; ++k)
    ranks[others[k]] += static_cast<std::int32_t>(second[slot_of(others[k])]);
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
