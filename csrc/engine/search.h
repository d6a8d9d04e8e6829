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

struct Search {
  std::uint64_t rank = 0;  // with a share, 1 until it is known
  float share = 0;
  std::uint64_t n_nonzero = 0;
  bool done = false;
  Threshold found;
  // Proven: the answer lies in [low, high].
  std::int32_t low = 0, high = kTop;
  // Tried in this pass, within the proven range.
  std::int32_t try_low = 0, try_high = kTop;
  int shift = 0;
  std::vector<std::uint64_t> histogram;  // of the patterns inside; those of two halves add up
  SurveyTally tally;
  std::mutex mutex;

  void count_nonzero(std::uint64_t n);
  // What a pass found in a stretch.
  void add(const SurveyTally& part, const std::uint32_t* interior, std::int32_t largest = 0);
  // From a whole pass, from all patterns, or from a sample of n_all elements in runs of kRun.
  void learn();
  void learn_from_all(const std::vector<std::uint32_t>& patterns);
  void guess_from(const std::vector<std::uint32_t>& patterns, std::uint64_t n_all);

 private:
  void aim(std::int32_t from, std::int32_t to);
  void learn_rank();
  void settle(std::int32_t bits, std::uint64_t n_above, std::uint64_t n_equal);
};

}  // namespace tallies
