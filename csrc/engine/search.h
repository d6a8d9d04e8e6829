// The search for one threshold: the range that rounds have proven, and the bracket to try next.
#pragma once

#include <cstddef>
#include <cstdint>
#include <tuple>
#include <vector>

#include "core/table.h"
#include "engine/plan.h"

namespace tallies {

using Patterns = std::vector<std::uint32_t>;  // bits of magnitudes

// Elements read together for a sample. Neighbours are alike, so the error of the sample is judged
// from how its runs differ.
constexpr std::size_t kRun = 1024;

// Units of up to this many elements are read whole instead of being sampled: 64 Ki patterns are
// selected in memory in less time than another pass takes to start.
constexpr std::uint64_t kSmallUnit = 1 << 16;

struct Threshold {
  std::int32_t bits = 0;  // of the rank-th largest magnitude
  std::uint64_t rank = 0;
  std::uint64_t n_above = 0;  // magnitudes strictly larger
  std::uint64_t n_equal = 0;  // magnitudes equal to it
  std::int32_t largest = 0;   // bits of the largest magnitude; of derived measures only
  // If only `rank` entries pass, lowest index first: the last that passes of the entries equal to
  // the threshold, in the order of the unit's slices.
  std::uint64_t last_job = 0;    // position in Unit::slices
  std::uint64_t last_count = 0;  // elements of its job up to and with that entry
  static auto fields(auto& one) {
    return std::tie(one.bits, one.rank, one.n_above, one.n_equal, one.largest, one.last_job,
                    one.last_count);
  }
};

// Patterns from `low` to `high`.
struct Bracket {
  std::int32_t low = 0, high = kTop;
  bool operator==(const Bracket&) const = default;
  static auto fields(auto& one) { return std::tie(one.low, one.high); }
};

// The patterns of a tile at the ends of a bracket and inside.
struct AtBracket {
  std::uint32_t n_low = 0, n_high = 0;  // equal to the ends
  std::uint32_t first = 0, n = 0;       // of those inside, where they are listed
};

// Counts of a tile in and around the bracket of one search.
struct TileCount {
  SurveyTally tally;
  std::uint64_t n_nonzero = 0;
  std::int32_t largest = 0;  // of scores
  Patterns interior;         // of the first tally.n_interior entries
  Patterns positions;        // their elements of the tile, where they are wanted
};

// Counts of some numbers in and around a bracket. Counts of two parts add up.
struct Counted {
  Bracket tried;
  std::uint64_t most_listed = 0;  // patterns inside; if there are more, bins count them
  SurveyTally tally;
  std::uint64_t n_nonzero = 0;
  std::int32_t largest = 0;
  Patterns inside;
  std::vector<std::uint64_t> bins;  // of 2^shift patterns each
  std::int32_t shift = 0;
  static auto fields(auto& one) {
    return std::tie(one.tried, one.most_listed, one.tally.from_low, one.tally.above_low,
                    one.tally.from_high, one.tally.above_high, one.n_nonzero, one.largest,
                    one.inside, one.bins, one.shift);
  }

  AtBracket add(const TileCount&);
  Counted& operator+=(const Counted&);
  bool is_valid() const;
  // Returns whether n_equal knows how many numbers of a tile have these bits.
  bool knows_equal(std::int32_t bits) const;
  std::uint64_t n_equal(std::int32_t bits, const AtBracket& part) const;
  // Returns how many numbers are above these bits of the bracket, if lists have those inside.
  std::uint64_t n_above(std::int32_t bits) const;

 private:
  AtBracket add(const SurveyTally&, const std::uint32_t* interior);
  void count_inside();
  void coarsen(std::int32_t to);
};

struct Search {
  std::uint64_t rank = 0;  // with a share, 1 until it is known
  float share = 0;
  bool done = false;
  Threshold found;
  Bracket proven, tried;
  // From samples, no part of the bytes: what the threshold may be, and the standard error of the
  // share of numbers above it in the first sample.
  Threshold guess;
  double error = 0;
  static auto fields(auto& one) {
    return std::tie(one.rank, one.share, one.done, one.found, one.proven, one.tried);
  }

  // Returns the counts with which a round starts.
  Counted start(std::size_t most_listed) const;
  // Learns from the counts of a whole round.
  void learn(const Counted&);
  // Learns from a sample of n_all elements in runs of kRun, or from all of a small unit.
  void learn_from_sample(const Patterns&, std::uint64_t n_all);

  // Learns a better guess and bracket from the counts of n numbers in the bracket, the rank-th of
  // which is looked for; the first sample had n_first.
  void refine(const Counted&, double rank, double n, double n_first);

  // Returns whether only some entries equal to the threshold pass, and how many pass.
  bool is_cut() const { return rank > 0 && rank < found.n_above + found.n_equal; }
  std::uint64_t n_of_equal() const { return rank - found.n_above; }
  bool is_valid() const;

 private:
  void learn_from_all(const Patterns&);
  void guess_from(const Patterns&, std::uint64_t n_all);
  void aim(std::int32_t from, std::int32_t to);
  void learn_rank(std::uint64_t n_nonzero);
  void settle(std::int32_t bits, std::uint64_t n_above, std::uint64_t n_equal);
};

// Returns a search that has not begun; with a share above zero for a rank that is not known.
Search start_search(std::uint64_t rank, float share);

}  // namespace tallies
