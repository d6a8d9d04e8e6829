#include "engine/search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

namespace tallies {
namespace {

// So many errors of the sample to either side of its rank.
constexpr double kDeviations = 6;

// The value of a given rank, from 0 and the largest down, among patterns; several ranks cost little
// more than one. Half the time of std::nth_element for each.
class Ranked {
 public:
  explicit Ranked(const std::vector<std::uint32_t>& patterns) : patterns_(patterns), bins_(kBins) {
    for (const std::uint32_t pattern : patterns) ++bins_[pattern >> kShift];
  }
  std::uint32_t at(std::size_t rank) const {
    std::size_t bin = kBins - 1;
    for (; rank >= bins_[bin]; --bin) rank -= bins_[bin];
    std::vector<std::uint32_t> same;
    same.reserve(bins_[bin]);
    for (const std::uint32_t pattern : patterns_)
      if (pattern >> kShift == bin) same.push_back(pattern);
    const auto nth = same.begin() + static_cast<std::ptrdiff_t>(rank);
    std::nth_element(same.begin(), nth, same.end(), std::greater<>());
    return *nth;
  }

 private:
  static constexpr int kShift = 16;
  static constexpr std::size_t kBins = std::size_t(1) << (31 - kShift);
  const std::vector<std::uint32_t>& patterns_;
  std::vector<std::uint32_t> bins_;
};

// How many patterns are above one, and how many are equal to it.
std::pair<std::uint64_t, std::uint64_t> count_from(const std::vector<std::uint32_t>& patterns,
                                                   std::uint32_t bits) {
  std::uint64_t n_above = 0, n_equal = 0;
  for (const std::uint32_t pattern : patterns) {
    n_above += pattern > bits;
    n_equal += pattern == bits;
  }
  return {n_above, n_equal};
}

// Standard error of the share of patterns that are at or above one, over the runs of a sample.
double error_of_share(const std::vector<std::uint32_t>& patterns, std::uint32_t pattern) {
  const std::size_t n_runs = patterns.size() / kRun;
  double sum = 0, squares = 0;
  for (std::size_t run = 0; run < n_runs; ++run) {
    std::uint32_t n_from = 0;
    for (std::size_t i = 0; i < kRun; ++i) n_from += patterns[run * kRun + i] >= pattern;
    const double share = n_from / double(kRun);
    sum += share;
    squares += share * share;
  }
  const double n = static_cast<double>(n_runs), mean = sum / n;
  return std::sqrt(std::max(squares / n - mean * mean, 0.0) / (n - 1));
}

}  // namespace

void Search::aim(std::int32_t from, std::int32_t to) {
  try_low = std::clamp(from, low, high);
  try_high = std::clamp(to, try_low, high);
  inside_.clear();
  bins_.clear();
  tally = {};
}

void Search::count_nonzero(std::uint64_t n) {
  const std::lock_guard lock(mutex);
  n_nonzero += n;
}

void Search::learn_rank() {
  rank = std::min(n_nonzero, static_cast<std::uint64_t>(static_cast<float>(n_nonzero) * share));
  share = 0;
  done = rank == 0;
}

Tried Search::add(const SurveyTally& part, const std::uint32_t* interior, std::int32_t largest) {
  Tried tried{static_cast<std::uint32_t>(part.from_low - part.above_low),
              static_cast<std::uint32_t>(part.from_high - part.above_high)};
  const std::uint32_t first = static_cast<std::uint32_t>(try_low) + 1;
  const auto count = [&](std::uint32_t pattern) { ++bins_[(pattern - first) >> shift_]; };
  const std::lock_guard lock(mutex);
  found.largest = std::max(found.largest, largest);
  tally += part;
  if (bins_.empty() && inside_.size() + part.n_interior > room) {
    const std::int64_t n_inside = std::int64_t(try_high) - try_low - 1;
    const auto most_bins =
        static_cast<std::int64_t>(room * sizeof(std::uint32_t) / sizeof(std::uint64_t));
    for (shift_ = 0; n_inside > (most_bins << shift_);) ++shift_;
    bins_.assign(static_cast<std::size_t>((n_inside - 1) >> shift_) + 1, 0);
    std::ranges::for_each(inside_, count);
    std::vector<std::uint32_t>().swap(inside_);
  }
  if (bins_.empty()) {
    tried.first = static_cast<std::uint32_t>(inside_.size());
    tried.n = static_cast<std::uint32_t>(part.n_interior);
    inside_.insert(inside_.end(), interior, interior + part.n_interior);
  } else {
    std::for_each(interior, interior + part.n_interior, count);
  }
  return tried;
}

void Search::settle(std::int32_t bits, std::uint64_t n_above, std::uint64_t n_equal) {
  found.bits = bits;
  found.rank = rank;
  found.n_above = n_above;
  found.n_equal = n_equal;
  done = true;
}

void Search::learn() {
  if (share > 0) learn_rank();
  if (done) return;
  if (rank <= tally.above_high) {
    low = try_high + 1;
  } else if (rank <= tally.from_high) {
    settle(try_high, tally.above_high, tally.from_high - tally.above_high);
  } else if (rank <= tally.above_low && bins_.empty()) {
    const std::uint64_t n_wanted = rank - tally.from_high;
    const std::uint32_t bits = Ranked(inside_).at(static_cast<std::size_t>(n_wanted - 1));
    const auto [n_above, n_equal] = count_from(inside_, bits);
    settle(static_cast<std::int32_t>(bits), tally.from_high + n_above, n_equal);
  } else if (rank <= tally.above_low) {
    std::uint64_t above = tally.from_high;
    std::size_t bin = bins_.size() - 1;
    while (above + bins_[bin] < rank) above += bins_[bin--];
    const std::int64_t first = std::int64_t(try_low) + 1 + (std::int64_t(bin) << shift_);
    const std::int64_t last = first + (std::int64_t(1) << shift_) - 1;
    if (shift_ == 0) {
      settle(static_cast<std::int32_t>(first), above, bins_[bin]);
    } else {
      low = static_cast<std::int32_t>(first);
      high = static_cast<std::int32_t>(std::min<std::int64_t>(last, try_high - 1));
    }
  } else if (rank <= tally.from_low) {
    settle(try_low, tally.above_low, tally.from_low - tally.above_low);
  } else {
    high = try_low - 1;
  }
  if (!done) aim(low, high);
}

bool Search::knows_equal() const {
  return found.bits == try_low || found.bits == try_high || bins_.empty();
}

std::uint64_t Search::n_equal(const Tried& part) const {
  if (found.bits == try_low) return part.n_low;
  if (found.bits == try_high) return part.n_high;
  const auto* const first = inside_.data() + part.first;
  return static_cast<std::uint64_t>(
      std::count(first, first + part.n, static_cast<std::uint32_t>(found.bits)));
}

void Search::forget() {
  std::vector<std::uint32_t>().swap(inside_);
  std::vector<std::uint64_t>().swap(bins_);
}

// From all patterns of the unit.
void Search::learn_from_all(const std::vector<std::uint32_t>& patterns) {
  if (share > 0) {
    n_nonzero = patterns.size() - static_cast<std::size_t>(std::ranges::count(patterns, 0u));
    learn_rank();
    if (done) return;
  }
  const std::uint32_t bits = Ranked(patterns).at(static_cast<std::size_t>(rank - 1));
  const auto [n_above, n_equal] = count_from(patterns, bits);
  found.largest = static_cast<std::int32_t>(std::ranges::max(patterns));
  settle(static_cast<std::int32_t>(bits), n_above, n_equal);
}

// From a sample of n_all elements.
void Search::guess_from(const std::vector<std::uint32_t>& patterns, std::uint64_t n_all) {
  const Ranked ranked(patterns);
  const double n = static_cast<double>(patterns.size());
  const auto at = [&](double share) {
    return ranked.at(static_cast<std::size_t>(std::clamp(share * n, 0.0, n - 1)));
  };
  double part = static_cast<double>(rank) / static_cast<double>(n_all);
  if (share > 0) part = share * (1 - static_cast<double>(std::ranges::count(patterns, 0u)) / n);
  const double margin = kDeviations * (error_of_share(patterns, at(part)) + 1 / n);
  aim(part + margin < 1 ? static_cast<std::int32_t>(at(part + margin)) : 0,
      part > margin ? static_cast<std::int32_t>(at(part - margin)) : kTop);
}

}  // namespace tallies
