#include "engine/stages.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <functional>
#include <numeric>

#include "engine/views.h"

namespace tallies {
namespace {

constexpr std::uint64_t kPeriod = std::uint64_t(1) << 32;  // of the random numbers' counter
constexpr std::int32_t kTop = 0x7f800001;                  // of every NaN, above infinity

constexpr std::int32_t kWidest = 1 << 28;  // reach of a bracket of patterns

// Calls body(at, n) for parts that do not pass a multiple of kPeriod.
template <class Body>
void split_at_periods(std::uint64_t first, std::size_t n, const Body& body) {
  for (std::size_t at = 0, part; at < n; at += part) {
    part =
        static_cast<std::size_t>(std::min<std::uint64_t>(n - at, kPeriod - (first + at) % kPeriod));
    body(at, part);
  }
}

// One pattern above a floor or ceiling, which lets all that are equal to it pass.
std::int32_t above(std::int32_t bits) { return bits < kTop ? bits + 1 : bits; }

void keep_band(const StageRule& rule, float* delta, std::uint64_t first, std::size_t n) {
  const std::uint64_t end = first + n;
  for (std::uint64_t at = first; at < end;) {
    std::uint64_t to = end;
    std::int32_t floor = rule.floor, ceiling = rule.ceiling;
    if (at < rule.floor_cutoff)
      to = std::min(to, rule.floor_cutoff);
    else
      floor = above(floor);
    if (at < rule.ceiling_cutoff)
      to = std::min(to, rule.ceiling_cutoff);
    else
      ceiling = above(ceiling);
    kernels().keep_band(delta + (at - first), static_cast<std::size_t>(to - at), floor, ceiling,
                        rule.factor);
    at = to;
  }
}

}  // namespace

std::size_t chunk_elements(const JobRule& rule) {
  if (rule.row_length == 0) return kChunk;
  const std::uint64_t n_rows = std::max<std::uint64_t>(kChunk / rule.row_length, 1);
  return static_cast<std::size_t>(n_rows * rule.row_length);
}

Job stretch_of(const Job& job, const JobRule& rule) {
  Job stretch = job;
  stretch.n_elements = rule.n_elements;
  if (rule.row_length != 0) stretch.grain = std::lcm(chunk_elements(rule), kGrain);
  for (Array& array : stretch.inputs) array.offset = array.at(rule.first);
  for (Array& array : stretch.outputs) array.offset = array.at(rule.first);
  return stretch;
}

void Stages::run(Stage stage, const StageRule& rule, std::uint64_t row_length, float* delta,
                 std::uint64_t first, std::size_t n) {
  const auto length = static_cast<std::size_t>(row_length);
  switch (stage) {
    case Stage::none:
      break;
    case Stage::drop:
      split_at_periods(first, n, [&](std::size_t at, std::size_t part) {
        kernels().drop({delta + at, part, rule.key, first + at, rule.chance, rule.factor});
      });
      break;
    case Stage::drop_by_rank:
      for (std::size_t row = 0; row < n; row += length) {
        const std::int32_t* const ranks = rank(delta + row, length);
        split_at_periods(first + row, length, [&](std::size_t at, std::size_t part) {
          kernels().drop_by_rank({delta + row + at, ranks + at, part, rule.key, first + row + at,
                                  rule.low, rule.step, rule.own_factor, rule.factor});
        });
      }
      break;
    case Stage::band:
      keep_band(rule, delta, first, n);
      break;
    case Stage::row_band:
      for (std::size_t row = 0; row < n; row += length) keep_rows(rule, delta + row, length);
      break;
  }
}

void Stages::keep_rows(const StageRule& rule, float* row, std::size_t n) {
  // What is equal to a threshold is taken lowest index first, from the largest magnitude down.
  StageRule band;
  band.factor = rule.factor;
  band.ceiling = kTop;
  band.ceiling_cutoff = n;
  const auto n_outliers = static_cast<std::size_t>(rule.n_outliers);
  const auto last = static_cast<std::size_t>(rule.n_outliers + rule.n_kept);
  if (n_outliers > 0) {
    const Rank found = select(row, n, n_outliers, outlier_);
    band.ceiling = found.bits - 1;
    if (n_outliers < found.n_above + found.n_equal)
      band.ceiling_cutoff = kernels().count_to(row, n, found.bits, n_outliers - found.n_above);
  }
  band.floor = kTop;
  band.floor_cutoff = n;
  if (last >= n) {
    band.floor = -1;
  } else if (rule.n_kept > 0) {
    const Rank found = select(row, n, last, kept_);
    band.floor = found.bits - 1;
    if (last < found.n_above + found.n_equal)
      band.floor_cutoff = kernels().count_to(row, n, found.bits, last - found.n_above);
  }
  keep_band(band, row, 0, n);
}

// A bracket around what the row before had is counted, and what lies inside is listed; where that
// misses, the rest of the range.
Stages::Rank Stages::select(const float* row, std::size_t n, std::size_t rank, Guess& guess) {
  std::int32_t low = 0, high = kTop;  // proven
  std::int32_t from = low, to = high;
  if (guess.bits >= 0) {
    from = std::max(guess.bits - guess.reach, low);
    to = guess.bits < high - guess.reach ? guess.bits + guess.reach : high;
  }
  patterns_.resize(n + kInteriorSlack);
  const auto found = [&](std::int32_t bits, std::size_t n_above, std::size_t n_equal) {
    guess.bits = guess.bits < 0 ? bits : guess.bits + (bits - guess.bits) / 4;
    return Rank{bits, n_above, n_equal};
  };
  for (;;) {
    SurveyTally tally;
    kernels().survey[static_cast<int>(DType::f32)]({nullptr, row, n, from, to, patterns_.data()},
                                                   tally);
    if (rank <= tally.above_high) {
      low = to + 1;
    } else if (rank <= tally.from_high) {
      return found(to, tally.above_high, tally.from_high - tally.above_high);
    } else if (rank <= tally.above_low) {
      const auto begin = patterns_.begin();
      const auto end = begin + static_cast<std::ptrdiff_t>(tally.n_interior);
      const auto nth = begin + static_cast<std::ptrdiff_t>(rank - tally.from_high - 1);
      std::nth_element(begin, nth, end, std::greater<>());
      const std::uint32_t bits = *nth;
      const auto n_above = static_cast<std::size_t>(
          std::count_if(begin, nth, [&](std::uint32_t x) { return x > bits; }));
      const auto n_equal = static_cast<std::size_t>(std::count(begin, end, bits));
      // Wide enough to miss seldom: three deviations of a rank to either side.
      const auto share = static_cast<double>(rank) / static_cast<double>(n);
      const double wanted = 6 * std::sqrt(static_cast<double>(rank) * (1 - share)) + 8;
      const auto listed = static_cast<double>(tally.n_interior);
      if (listed > 1.5 * wanted && guess.reach > 64) guess.reach -= guess.reach / 4;
      if (listed < wanted && guess.reach < kWidest) guess.reach += guess.reach / 4;
      return found(static_cast<std::int32_t>(bits), tally.from_high + n_above, n_equal);
    } else if (rank <= tally.from_low) {
      return found(from, tally.above_low, tally.from_low - tally.above_low);
    } else {
      high = from - 1;
    }
    if (guess.reach < kWidest) guess.reach += guess.reach / 4;
    from = low;
    to = high;
  }
}

// Ranks from 0 for the smallest magnitude, the lowest index first among equal ones. Magnitudes fall
// into as many bins as the row has entries, evenly up to the largest, and are put in order there: a
// bin of a smooth distribution holds one or two of them. The few fuller ones are sorted.
const std::int32_t* Stages::rank(const float* row, std::size_t n) {
  constexpr std::uint32_t kFull = 16;
  constexpr std::size_t kMostBins = 1 << 13;  // 32 KiB, which stay in the first-level cache
  const std::size_t n_bins = std::min(std::bit_ceil(n), kMostBins);
  patterns_.resize(n + kInteriorSlack);
  kernels().magnitudes[static_cast<int>(DType::f32)](nullptr, row, n, patterns_.data());
  const std::uint32_t largest =
      *std::max_element(patterns_.begin(), patterns_.begin() + static_cast<std::ptrdiff_t>(n));
  sorted_.resize(n);
  ranks_.resize(n);
  // Of an infinite or a tiny magnitude there is no such share; all then are in one bin.
  const float share = static_cast<float>(n_bins - 1) / std::bit_cast<float>(largest);
  bin_of_.assign(n, 0);
  bins_.assign(n_bins + 1, 0);
  if (share > 0 && share < 1e30f)
    for (std::size_t i = 0; i < n; ++i)
      bin_of_[i] = static_cast<std::int32_t>(std::bit_cast<float>(patterns_[i]) * share);
  for (std::size_t i = 0; i < n; ++i) ++bins_[static_cast<std::size_t>(bin_of_[i]) + 1];
  for (std::size_t bin = 1; bin <= n_bins; ++bin) bins_[bin] += bins_[bin - 1];
  for (std::size_t i = 0; i < n; ++i)
    sorted_[bins_[static_cast<std::size_t>(bin_of_[i])]++] = std::uint64_t(patterns_[i]) << 32 | i;
  for (std::size_t bin = 0, first = 0; bin < n_bins; first = bins_[bin++])
    if (bins_[bin] - first > kFull)
      std::sort(sorted_.begin() + static_cast<std::ptrdiff_t>(first),
                sorted_.begin() + static_cast<std::ptrdiff_t>(bins_[bin]));
  for (std::size_t i = 1; i < n; ++i) {
    const std::uint64_t entry = sorted_[i];
    std::size_t at = i;
    for (; at > 0 && sorted_[at - 1] > entry; --at) sorted_[at] = sorted_[at - 1];
    sorted_[at] = entry;
  }
  for (std::size_t i = 0; i < n; ++i)
    ranks_[static_cast<std::uint32_t>(sorted_[i])] = static_cast<std::int32_t>(i);
  return ranks_.data();
}

}  // namespace tallies
