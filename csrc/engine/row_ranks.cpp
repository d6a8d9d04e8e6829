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
  std::size_t n = 0;
  const std::size_t stride = std::max<std::size_t>(rest.n / kSample, 1);
  for (std::size_t at = stride / 2; at < rest.n && n < kSample; at += stride) {
    const std::int32_t bits =
        std::min(std::bit_cast<std::int32_t>(rest.data[at]) & 0x7fffffff, kTop);
    if (rest.low <= bits && bits <= rest.high) sample[n++] = bits;
  }
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

// Magnitudes fall into as many bins as the row has entries, evenly up to the largest, in the order
// of their indices, and are put in order there: a bin of a smooth distribution holds one or two of
// them, and one of few distinct magnitudes is in order.
const std::int32_t* RowRanks::all(const float* row, std::size_t n) {
  constexpr std::uint32_t kFull = 16;
  constexpr std::size_t kMostBins = 1 << 13;  // 32 KiB, which stay in the first-level cache
  const std::size_t n_bins = std::min(std::bit_ceil(n), kMostBins);
  patterns_.resize(n + kInteriorSlack);
  bin_of_.assign(n, 0);
  bins_.assign(n_bins, 0);
  sorted_.resize(n);
  ranks_.resize(n);
  // Held apart from the members, so that stores into one are known not to move another.
  std::uint32_t* const patterns = patterns_.data();
  std::uint32_t* const bins = bins_.data();
  std::int32_t* const bin_of = bin_of_.data();
  std::uint64_t* const sorted = sorted_.data();
  std::int32_t* const ranks = ranks_.data();
  kernels().magnitudes[static_cast<int>(DType::f32)](nullptr, row, n, patterns);
  const std::uint32_t largest = *std::max_element(patterns, patterns + n);
  // Of an infinite or a tiny magnitude there is no such share; all then are in one bin.
  const float share = static_cast<float>(n_bins - 1) / std::bit_cast<float>(largest);
  if (share > 0 && share < 1e30f)
    for (std::size_t i = 0; i < n; ++i)
      bin_of[i] = static_cast<std::int32_t>(std::bit_cast<float>(patterns[i]) * share);
  for (std::size_t i = 0; i < n; ++i) ++bins[bin_of[i]];
  std::exclusive_scan(bins, bins + n_bins, bins, 0u);
  for (std::size_t i = 0; i < n; ++i)
    sorted[bins[bin_of[i]]++] = std::uint64_t(patterns[i]) << 32 | i;
  for (std::size_t bin = 0, first = 0; bin < n_bins; first = bins[bin++])
    if (bins[bin] - first > kFull && !std::is_sorted(sorted + first, sorted + bins[bin]))
      std::sort(sorted + first, sorted + bins[bin]);
  for (std::size_t i = 1; i < n; ++i) {
    const std::uint64_t entry = sorted[i];
    std::size_t at = i;
    for (; at > 0 && sorted[at - 1] > entry; --at) sorted[at] = sorted[at - 1];
    sorted[at] = entry;
  }
  for (std::size_t i = 0; i < n; ++i)
    ranks[static_cast<std::uint32_t>(sorted[i])] = static_cast<std::int32_t>(i);
  return ranks;
}

}  // namespace tallies
