#include "engine/row_ranks.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>
#include <utility>

#include "cpu/ops.h"
#include "engine/engine.h"

namespace tallies {
namespace {

constexpr std::int32_t kWidest = 1 << 28;  // reach of a bracket of patterns
constexpr std::size_t kFew = 64;           // that are put in order
constexpr std::size_t kShared = 8;         // equal entries from which they are likely in others
constexpr std::size_t kSample = 31;

// Of the ranking of all.
constexpr std::int32_t kAbove = 128;  // slots above the largest of a sample
constexpr std::size_t kMostSlots = 1 << 22;  // float32 numbers them and what is between
constexpr std::size_t kFar = 64;  // places that entries move while most are where they belong

// Patterns of magnitudes at even distances; returns how many.
std::size_t sample_of(const float* x, std::size_t n, std::int32_t* sample) {
  std::size_t n_sample = 0;
  const std::size_t stride = std::max<std::size_t>(n / kSample, 1);
  for (std::size_t at = stride / 2; at < n && n_sample < kSample; at += stride)
    sample[n_sample++] = std::min(std::bit_cast<std::int32_t>(x[at]) & 0x7fffffff, kTop);
  return n_sample;
}

struct Bracket {
  std::int32_t from, to;
};

// What is left to look at: entries between two patterns, among others.
struct Rest {
  const float* data;
  std::size_t n;
  std::int32_t low, high;
  std::size_t n_above_high, n_from_low;
};

// Around the rank-th largest of `rest`, by a sample: two deviations to either side.
Bracket sampled(const Rest& rest, std::size_t rank) {
  std::int32_t sample[kSample];
  std::size_t n = sample_of(rest.data, rest.n, sample);
  n = static_cast<std::size_t>(
      std::remove_if(sample, sample + n,
                     [&](std::int32_t bits) { return bits < rest.low || rest.high < bits; }) -
      sample);
  if (n == 0) return {rest.low, rest.high};
  std::sort(sample, sample + n, std::greater<>());
  const double share = (static_cast<double>(rank - rest.n_above_high) - 0.5) /
                       static_cast<double>(rest.n_from_low - rest.n_above_high);
  const double middle = share * static_cast<double>(n);
  const double reach = 2 * std::sqrt(middle * (1 - share)) + 0.5;
  const auto last = static_cast<double>(n - 1);
  const auto at = [&](double x) {
    return sample[static_cast<std::size_t>(std::clamp(x, 0.0, last))];
  };
  return {at(middle + reach), at(middle - reach)};
}

}  // namespace

// A bracket is counted, and what lies strictly inside is listed and looked at further. Its ends are
// magnitudes that occur, where many are equal.
RowRanks::Found RowRanks::select(const float* row, std::size_t n, std::size_t rank, Guess& guess) {
  patterns_.resize(n + kInteriorSlack);
  others_.resize(n + kInteriorSlack);
  std::uint32_t* list = patterns_.data();
  std::uint32_t* next = others_.data();
  Rest rest{row, n, 0, kTop, 0, n};
  std::size_t n_above = 0;  // of the row, not in the rest
  const auto found = [&](std::int32_t bits, std::size_t above, std::size_t equal) {
    guess.is_shared = equal >= kShared;
    guess.bits = guess.bits < 0 || guess.is_shared ? bits : guess.bits + (bits - guess.bits) / 4;
    return Found{bits, n_above + above, equal};
  };
  Bracket bracket;
  if (guess.bits < 0)
    bracket = sampled(rest, rank);
  else if (guess.is_shared)
    bracket = {guess.bits, guess.bits};
  else
    bracket = {std::max(guess.bits - guess.reach, 0),
               guess.bits < kTop - guess.reach ? guess.bits + guess.reach : kTop};
  for (bool is_first = true;; is_first = false) {
    SurveyTally tally;
    kernels().survey[static_cast<int>(DType::f32)](
        {nullptr, rest.data, rest.n, bracket.from, bracket.to, list, true}, tally);
    const std::size_t wanted = rank - n_above;
    if (wanted <= tally.above_high) {
      rest.low = bracket.to + 1;
      rest.n_from_low = tally.above_high;
    } else if (wanted <= tally.from_high) {
      return found(bracket.to, tally.above_high, tally.from_high - tally.above_high);
    } else if (wanted <= tally.above_low) {
      if (is_first) {
        // Wide enough to miss seldom: three deviations of a rank to either side.
        const auto share = static_cast<double>(rank) / static_cast<double>(n);
        const double enough = 6 * std::sqrt(static_cast<double>(rank) * (1 - share)) + 8;
        const auto listed = static_cast<double>(tally.n_interior);
        if (listed > 1.5 * enough && guess.reach > 64) guess.reach -= guess.reach / 4;
        if (listed < enough && guess.reach < kWidest) guess.reach += guess.reach / 4;
      }
      n_above += tally.from_high;
      rest = {reinterpret_cast<const float*>(list),
              tally.n_interior,
              bracket.from + 1,
              bracket.to - 1,
              0,
              tally.n_interior};
      if (rest.n <= kFew) break;
      std::swap(list, next);
    } else if (wanted <= tally.from_low) {
      return found(bracket.from, tally.above_low, tally.from_low - tally.above_low);
    } else {
      rest.high = bracket.from - 1;
      rest.n_above_high = tally.from_low;
    }
    if (is_first && rest.data == row && !guess.is_shared && guess.reach < kWidest)
      guess.reach += guess.reach / 4;
    bracket = sampled(rest, rank - n_above);
  }
  const std::size_t wanted = rank - n_above - 1;
  std::nth_element(list, list + wanted, list + rest.n, std::greater<>());
  const std::uint32_t bits = list[wanted];
  const auto n_larger =
      std::count_if(list, list + wanted, [=](std::uint32_t other) { return other > bits; });
  return found(static_cast<std::int32_t>(bits), static_cast<std::size_t>(n_larger),
               static_cast<std::size_t>(std::count(list, list + rest.n, bits)));
}

// Each magnitude of few significant bits has a counter, which numbers its entries from the first to
// the last. The rest are put in order by themselves and merged with them.
void RowRanks::rank_equal(const float* row, std::size_t n, std::int32_t largest) {
  constexpr std::size_t kSlots = 2 + kShortSlots;
  const std::int32_t low = std::max((largest >> 16) + kAbove - kShortSlots, 0);
  starts_.assign(kSlots, 0);
  const std::uint32_t* const slots = slots_.data();
  std::uint32_t* const starts = starts_.data();
  std::int32_t* const ranks = ranks_.data();
  std::uint32_t* const others = others_.data();
  const std::size_t n_others =
      kernels().short_slots(row, n, low, patterns_.data(), slots_.data(), others);
  for (std::size_t i = 0; i < n; ++i) ranks[i] = static_cast<std::int32_t>(starts[slots[i]]++);
  std::sort(others, others + n_others,
            [this](std::uint32_t a, std::uint32_t b) { return is_before(a, b); });
  std::uint32_t start = 0;
  std::size_t slot = 1;
  const auto start_until = [&](std::size_t end) {
    for (; slot < end; ++slot) start += std::exchange(starts[slot], start);
  };
  for (std::size_t k = 0; k < n_others; ++k) {
    const std::int32_t next = static_cast<std::int32_t>(patterns_[others[k]] >> 16) - low + 3;
    start_until(std::clamp<std::size_t>(std::max(next, 2), 2, kSlots));
    ranks[others[k]] = static_cast<std::int32_t>(start++);
  }
  start_until(kSlots);
  starts[0] = 0;
  for (std::size_t i = 0; i < n; ++i) ranks[i] += static_cast<std::int32_t>(starts[slots[i]]);
}

// Two slots an entry, so that few hold two. Entries that are after a larger one are moved before it.
void RowRanks::rank_distinct(const float* row, std::size_t n, std::int32_t middle) {
  const std::size_t n_slots = std::min(2 * n, kMostSlots);
  starts_.assign(n_slots + 1, 0);
  // No product with it is infinite or zero.
  middle = std::clamp(middle, std::bit_cast<std::int32_t>(1e-30f), std::bit_cast<std::int32_t>(1e30f));
  kernels().even_slots(row, n, std::bit_cast<float>(middle), n_slots, patterns_.data(),
                       slots_.data());
  const std::uint32_t* const patterns = patterns_.data();
  std::uint32_t* const slots = slots_.data();
  std::uint32_t* const starts = starts_.data();
  std::uint32_t* const order = others_.data();
  std::int32_t* const ranks = ranks_.data();
  const auto place = [=](std::size_t at, std::uint32_t entry) {
    order[at] = entry;
    ranks[entry] = static_cast<std::int32_t>(at);
  };
  for (std::size_t i = 0; i < n; ++i) ranks[i] = static_cast<std::int32_t>(starts[slots[i]]++);
  std::exclusive_scan(starts, starts + n_slots + 1, starts, 0u);
  for (std::size_t i = 0; i < n; ++i)
    place(starts[slots[i]] + static_cast<std::uint32_t>(ranks[i]), static_cast<std::uint32_t>(i));
  const auto is_late = [=](std::size_t at) {
    return patterns[order[at - 1]] > patterns[order[at]];
  };
  // Listed first, without branches, where the slots were.
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
        std::sort(order, order + n,
                  [this](std::uint32_t a, std::uint32_t b) { return is_before(a, b); });
        for (at = 0; at < n; ++at) place(at, order[at]);
        return;
      }
    }
}

const std::int32_t* RowRanks::all(const float* row, std::size_t n) {
  for (auto* words : {&patterns_, &others_, &slots_}) words->resize(n + kInteriorSlack);
  ranks_.resize(n);
  std::int32_t sample[kSample];
  const std::size_t n_sample = sample_of(row, n, sample);
  std::sort(sample, sample + n_sample);
  const auto n_long = std::count_if(sample, sample + n_sample,
                                    [](std::int32_t bits) { return (bits & 0xffff) != 0; });
  if (n >= kShortSlots / 2 && n_long <= 1)
    rank_equal(row, n, sample[n_sample - 1]);
  else
    rank_distinct(row, n, sample[n_sample * 3 / 4]);
  return ranks_.data();
}

}  // namespace tallies
