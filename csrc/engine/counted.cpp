// Counts of numbers in and around a bracket.

#include <algorithm>

#include "core/error.h"
#include "engine/search.h"

namespace tallies {
namespace {

// More patterns than any machine lists.
constexpr std::uint64_t kMostListed = std::uint64_t(1) << 40;

}  // namespace

// Starts to count the patterns inside, in as many bins as the list had memory for.
void Counted::count_inside() {
  const std::int64_t n_inside = std::int64_t(tried.high) - tried.low - 1;
  const auto most_bins =
      static_cast<std::int64_t>(most_listed * sizeof(std::uint32_t) / sizeof(std::uint64_t));
  for (shift = 0; n_inside > (most_bins << shift);) ++shift;
  bins.assign(static_cast<std::size_t>((n_inside - 1) >> shift) + 1, 0);
  const std::uint32_t first = static_cast<std::uint32_t>(tried.low) + 1;
  for (const std::uint32_t pattern : inside) ++bins[(pattern - first) >> shift];
  Patterns().swap(inside);
}

AtBracket Counted::add(const SurveyTally& part, const std::uint32_t* interior) {
  AtBracket found{static_cast<std::uint32_t>(part.from_low - part.above_low),
                  static_cast<std::uint32_t>(part.from_high - part.above_high)};
  tally += part;
  if (bins.empty() && inside.size() + part.n_interior > most_listed) count_inside();
  if (bins.empty()) {
    found.first = static_cast<std::uint32_t>(inside.size());
    found.n = static_cast<std::uint32_t>(part.n_interior);
    inside.insert(inside.end(), interior, interior + part.n_interior);
  } else {
    const std::uint32_t first = static_cast<std::uint32_t>(tried.low) + 1;
    for (std::size_t i = 0; i < part.n_interior; ++i) ++bins[(interior[i] - first) >> shift];
  }
  return found;
}

AtBracket Counted::add(const TileCount& part) {
  n_nonzero += part.n_nonzero;
  largest = std::max(largest, part.largest);
  return add(part.tally, part.interior.data());
}

// Makes bins of 2^to patterns.
void Counted::coarsen(std::int32_t to) {
  if (to <= shift) return;
  std::vector<std::uint64_t> wide(((bins.size() - 1) >> (to - shift)) + 1);
  for (std::size_t i = 0; i < bins.size(); ++i) wide[i >> (to - shift)] += bins[i];
  bins = std::move(wide);
  shift = to;
}

Counted& Counted::operator+=(const Counted& part) {
  if (part.tried != tried)
    throw Error(Error::Kind::request,
                "rounds to add have tried other brackets, expected parts of one round");
  n_nonzero += part.n_nonzero;
  largest = std::max(largest, part.largest);
  SurveyTally counts = part.tally;
  counts.n_interior = part.inside.size();
  add(counts, part.inside.data());
  if (part.bins.empty()) return *this;
  if (bins.empty()) count_inside();
  Counted other = part;
  other.coarsen(shift);
  coarsen(other.shift);
  for (std::size_t i = 0; i < bins.size(); ++i) bins[i] += other.bins[i];
  return *this;
}

bool Counted::is_valid() const {
  if (tried.low < 0 || tried.high < tried.low || tried.high > kTop || shift < 0 || shift > 31 ||
      largest < 0 || most_listed < 2 || most_listed > kMostListed)
    return false;
  const std::int64_t n_inside = std::int64_t(tried.high) - tried.low - 1;
  if (!bins.empty() &&
      (n_inside < 1 || bins.size() != static_cast<std::size_t>((n_inside - 1) >> shift) + 1))
    return false;
  std::uint64_t n = inside.size();
  for (const std::uint64_t bin : bins) n += bin;
  if ((!bins.empty() && !inside.empty()) || tally.from_low < tally.above_low ||
      tally.from_high < tally.above_high || tally.from_low < tally.from_high ||
      tally.above_low < tally.above_high || (n > 0 && tally.above_low != tally.from_high + n))
    return false;
  return std::ranges::all_of(inside, [&](std::uint32_t pattern) {
    return pattern > static_cast<std::uint32_t>(tried.low) &&
           pattern < static_cast<std::uint32_t>(tried.high);
  });
}

bool Counted::knows_equal(std::int32_t bits) const {
  return bits == tried.low || bits == tried.high || bins.empty();
}

std::uint64_t Counted::n_equal(std::int32_t bits, const AtBracket& part) const {
  if (bits == tried.low) return part.n_low;
  if (bits == tried.high) return part.n_high;
  const auto* const first = inside.data() + part.first;
  return static_cast<std::uint64_t>(
      std::count(first, first + part.n, static_cast<std::uint32_t>(bits)));
}

std::uint64_t Counted::n_above(std::int32_t bits) const {
  if (bits == tried.low) return tally.above_low;
  if (bits == tried.high) return tally.above_high;
  return tally.from_high +
         static_cast<std::uint64_t>(std::ranges::count_if(
             inside, [&](std::uint32_t one) { return one > static_cast<std::uint32_t>(bits); }));
}

}  // namespace tallies
