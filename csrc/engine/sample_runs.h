// The runs of elements of which a sample of a unit is taken.
#pragma once

#include <vector>

#include "engine/ranked_numbers.h"

namespace tallies {

// Elements of a job that are read together for a sample, and the place of their patterns in it.
struct SampleRun {
  std::size_t job;
  std::uint64_t first;
  std::size_t n;
  std::size_t at;
};

// Returns the elements of the first sample of a unit.
std::uint64_t sample_size(std::uint64_t n_all);

// Appends the runs of one unit's jobs, from `job` on: all of a small unit, else about `wanted`
// elements, evenly spaced. Returns the patterns that they have together.
std::size_t append_runs(const RankedUnits&, std::size_t unit, std::size_t job, std::uint64_t n_all,
                        std::uint64_t wanted, std::vector<SampleRun>&);

}  // namespace tallies
