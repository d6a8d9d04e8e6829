#include "engine/search.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <utility>

#include "core/error.h"

namespace tallies {
namespace {

// Errors of the sample to either side of its rank.
constexpr double kDeviations = 6;
// The value of a rank, from 0 and the largest down, among patterns; several ranks cost little
// more than one. Half the time of std::nth_element for each.
class Ranked {
 public:
  explicit Ranked(const Patterns& patterns) : patterns_(patterns), bins_(kBins) {
    for (const std::uint32_t pattern : patterns) ++bins_[pattern >> kShift];
  }
  std::uint32_t at(std::size_t rank) const {
    std::size_t bin = kBins - 1;
    for (; rank >= bins_[bin]; --bin) rank -= bins_[bin];
    Patterns same;
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
  const Patterns& patterns_;
  std::vector<std::uint32_t> bins_;
};

// Returns how many patterns are above one, and how many are equal to that one.
std::pair<std::uint64_t, std::uint64_t> count_from(const Patterns& patterns, std::uint32_t bits) {
  std::uint64_t n_above = 0, n_equal = 0;
  for (const std::uint32_t pattern : patterns) {
    n_above += pattern > bits;
    n_equal += pattern == bits;
  }
  return {n_above, n_equal};
}

// Standard error of the share of patterns that are at or above one, over the runs of a sample.
double error_of_share(const Patterns& patterns, std::uint32_t pattern) {
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
  tried.low = std::clamp(from, proven.low, proven.high);
  tried.high = std::clamp(to, tried.low, proven.high);
}

void Search::learn_rank(std::uint64_t n_nonzero) {
  rank = std::min(n_nonzero, static_cast<std::uint64_t>(static_cast<float>(n_nonzero) * share));
  share = 0;
  done = rank == 0;
}

void Search::settle(std::int32_t bits, std::uint64_t n_above, std::uint64_t n_equal) {
  found.bits = bits;
  found.rank = rank;
  found.n_above = n_above;
  found.n_equal = n_equal;
  done = true;
}

Search start_search(std::uint64_t rank, float share) {
  Search search;
  search.rank = share > 0 ? 1 : rank;
  search.share = share;
  search.done = search.rank == 0;
  return search;
}

Counted Search::start(std::size_t most_listed) const {
  Counted part;
  part.tried = tried;
  part.most_listed = most_listed;
  return part;
}

void Search::learn(const Counted& counted) {
  const SurveyTally& tally = counted.tally;
  const Patterns& inside = counted.inside;
  const std::vector<std::uint64_t>& bins = counted.bins;
  const std::int32_t shift = counted.shift;
  found.largest = std::max(found.largest, counted.largest);
  if (share > 0) learn_rank(counted.n_nonzero);
  if (done) return;
  if (rank <= tally.above_high) {
    proven.low = tried.high + 1;
  } else if (rank <= tally.from_high) {
    settle(tried.high, tally.above_high, tally.from_high - tally.above_high);
  } else if (rank <= tally.above_low && bins.empty()) {
    const std::uint64_t n_wanted = rank - tally.from_high;
    const std::uint32_t bits = Ranked(inside).at(static_cast<std::size_t>(n_wanted - 1));
    const auto [n_above, n_equal] = count_from(inside, bits);
    settle(static_cast<std::int32_t>(bits), tally.from_high + n_above, n_equal);
  } else if (rank <= tally.above_low) {
    std::uint64_t above = tally.from_high;
    std::size_t bin = bins.size() - 1;
    while (above + bins[bin] < rank) above += bins[bin--];
    const std::int64_t first = std::int64_t(tried.low) + 1 + (std::int64_t(bin) << shift);
    const std::int64_t last = first + (std::int64_t(1) << shift) - 1;
    if (shift == 0) {
      settle(static_cast<std::int32_t>(first), above, bins[bin]);
    } else {
      proven.low = static_cast<std::int32_t>(first);
      proven.high = static_cast<std::int32_t>(std::min<std::int64_t>(last, tried.high - 1));
    }
  } else if (rank <= tally.from_low) {
    settle(tried.low, tally.above_low, tally.from_low - tally.above_low);
  } else {
    proven.high = tried.low - 1;
  }
  if (proven.low > proven.high)
    throw Error(Error::Kind::request,
                "a round has too few numbers for the rank, expected those of all parts");
  if (!done) aim(proven.low, proven.high);
}

bool Search::is_valid() const {
  const auto is_bracket = [](const Bracket& bracket) {
    return 0 <= bracket.low && bracket.low <= bracket.high && bracket.high <= kTop;
  };
  return is_bracket(proven) && is_bracket(tried) && (done || rank > 0) && share >= 0 && share <= 1;
}

void Search::learn_from_sample(const Patterns& patterns, std::uint64_t n_all) {
  if (n_all > kSmallUnit) return guess_from(patterns, n_all);
  if (patterns.size() != n_all)
    throw Error(Error::Kind::request, "the round has " + std::to_string(patterns.size()) +
                                          " numbers, expected all " + std::to_string(n_all) +
                                          " of a small unit");
  learn_from_all(patterns);
}

// From all patterns of the unit.
void Search::learn_from_all(const Patterns& patterns) {
  if (share > 0) {
    learn_rank(patterns.size() - static_cast<std::size_t>(std::ranges::count(patterns, 0u)));
    if (done) return;
  }
  const std::uint32_t bits = Ranked(patterns).at(static_cast<std::size_t>(rank - 1));
  const auto [n_above, n_equal] = count_from(patterns, bits);
  found.largest = static_cast<std::int32_t>(std::ranges::max(patterns));
  settle(static_cast<std::int32_t>(bits), n_above, n_equal);
}

// From a sample of n_all elements.
void Search::guess_from(const Patterns& patterns, std::uint64_t n_all) {
  if (patterns.empty()) return;
  const Ranked ranked(patterns);
  const double n = static_cast<double>(patterns.size());
  const auto at = [&](double share) {
    return ranked.at(static_cast<std::size_t>(std::clamp(share * n, 0.0, n - 1)));
  };
  double part = static_cast<double>(rank) / static_cast<double>(n_all);
  if (share > 0) part = share * (1 - static_cast<double>(std::ranges::count(patterns, 0u)) / n);
  guess.bits = static_cast<std::int32_t>(at(part));
  guess.rank = rank;
  guess.last_job = found.last_job;
  error = error_of_share(patterns, at(part));
  const double margin = kDeviations * (error + 1 / n);
  aim(part + margin < 1 ? static_cast<std::int32_t>(at(part + margin)) : 0,
      part > margin ? static_cast<std::int32_t>(at(part - margin)) : kTop);
}

void Search::refine(const Counted& counted, double of_sample, double n, double n_first) {
  Patterns inside = counted.inside;
  std::ranges::sort(inside, std::greater<>());
  const auto from_high = static_cast<double>(counted.tally.from_high);
  const auto at = [&](double place) {
    if (place < from_high) return counted.tried.high;
    const double i = place - from_high;
    return i < static_cast<double>(inside.size())
               ? static_cast<std::int32_t>(inside[static_cast<std::size_t>(i)])
               : counted.tried.low;
  };
  const double place = of_sample - 0.5;
  const double margin = kDeviations * (error * std::sqrt(n_first / n) * n + 1);
  guess.bits = at(place);
  aim(at(place + margin), at(place - margin));
}

}  // namespace tallies
