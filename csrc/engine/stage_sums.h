// How much of each task vector a stage leaves: sums of magnitudes, from which L1 rescaling follows.
#pragma once

#include <string_view>

#include "engine/exact_sum.h"
#include "engine/tasks.h"

namespace tallies {

// Sums of the magnitudes of each expert's delta, before and after a stage; those of two parts of a
// job add up.
struct StageSums {
  static constexpr std::string_view kMark = "tallies stage sums 1\n";
  ExactSums before, after;  // per expert
  StageSums& operator+=(const StageSums&);
  bool is_valid() const { return before.size() == after.size(); }
};
template <class Archive>
void archive(Archive& bytes, StageSums& sums) {
  bytes(sums.before, sums.after);
}

std::vector<StageSums> stage_sums(const Plan&, const std::vector<StageTask>&, const Limits&,
                                  const Progress&);

}  // namespace tallies
