// The search for one threshold: what passes have proven, and what the next one tries.
#pragma once

#include <cstddef>
#include <cstdint>
#include <mutex>
#include <vector>

#include "engine/engine.h"

namespace tallies {

// Elements read together for a sample. Neighbours are alike, so the error of the sample is judged
// from how its runs differ.
constexpr std::size_t kRun = 1024;

// What a stretch has of the patterns that a search tries.
struct Tried {
  std::uint32_t n_low = 0, n_high = 0;  // equal to the ends
  std::uint32_t first = 0, n = 0;       // of those inside, where they are listed
};

struct Search {
  std::uint64_t rank = 0;  // with a share, 1 until it is known
  float share = 0;
  std::size_t room = 0;  // for patterns inside what is tried
  std::uint64_t n_nonzero = 0;
  bool done = false;
  Threshold found;
  // Proven: the answer lies in [low, high].
  std::int32_t low = 0, high = kTop;
  // Tried in this pass, within the proven range.
  std::int32_t try_low = 0, try_high = kTop;
  SurveyTally tally;
  std::mutex mutex;

  void count_nonzero(std::uint64_t n);
  // What a pass found in a stretch.
  Tried add(const SurveyTally& part, const std::uint32_t* interior, std::int32_t largest = 0);
  // From a whole pass, from all patterns, or from a sample of n_all elements in runs of kRun.
  void learn();
  void learn_from_all(const std::vector<std::uint32_t>& patterns);
  void guess_from(const std::vector<std::uint32_t>& patterns, std::uint64_t n_all);

  // Whether only some of those equal to the threshold are needed, and how many.
  bool is_cut() const { return rank > 0 && rank < found.n_above + found.n_equal; }
  std::uint64_t n_of_equal() const { return rank - found.n_above; }
  // Whether n_equal knows how many of a stretch of the pass before are equal to the threshold.
  bool knows_equal() const;
  std::uint64_t n_equal(const Tried& part) const;
  // Gives back the memory that only passes need.
  void forget();

 private:
  void aim(std::int32_t from, std::int32_t to);
  void learn_rank();
  void settle(std::int32_t bits, std::uint64_t n_above, std::uint64_t n_equal);

  // What lies inside: listed while there is room, else counted in bins of 2^shift patterns.
  std::vector<std::uint32_t> inside_;
  std::vector<std::uint64_t> bins_;
  int shift_ = 0;
};

}  // namespace tallies
