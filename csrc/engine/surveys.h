// Surveys: passes that read task vectors and write nothing, and the parts that they find.
#pragma once

#include <string_view>
#include <tuple>

#include "engine/exact_sum.h"
#include "engine/fingerprints.h"
#include "engine/tasks.h"

namespace tallies {

// Entries of each expert with bits(|delta|) > floor: those that no other expert has, and the rest.
struct Overlap {
  static constexpr std::string_view kMark = "tallies overlap 1\n";
  std::vector<std::uint64_t> alone, shared;  // per expert
  static auto fields(auto& part) { return std::tie(part.alone, part.shared); }
  bool is_valid() const { return alone.size() == shared.size(); }
};

std::vector<Overlap> count_overlap(const Plan&, const std::vector<Slice>&, std::int32_t floor,
                                   const Limits&, const Progress&);

// Elements whose variance over the experts, as bits, exceeds the floor, and from the cutoff on, an
// element of the job, floor + 1; all elements with a floor below zero.
struct VarianceTask {
  Slice slice;
  std::int32_t floor;
  std::uint64_t cutoff;
};

// Sums of the squares of each expert's deltas over the elements of a VarianceTask.
struct SquareSums {
  static constexpr std::string_view kMark = "tallies squares 1\n";
  ExactSums sums;  // per expert
  static auto fields(auto& part) { return std::tie(part.sums); }
  bool is_valid() const { return true; }
};

// Slices begin at chunks.
std::vector<SquareSums> sum_squares(const Plan&, const std::vector<VarianceTask>&, const Limits&,
                                    const Progress&);

struct StageTask {
  Slice slice;
  Stages stages;
};

// Sums of the magnitudes of each expert's delta before and after its stage, from which L1 rescaling
// follows.
struct StageSums {
  static constexpr std::string_view kMark = "tallies stage sums 1\n";
  ExactSums before, after;  // per expert
  static auto fields(auto& part) { return std::tie(part.before, part.after); }
  bool is_valid() const { return before.size() == after.size(); }
};

std::vector<StageSums> stage_sums(const Plan&, const std::vector<StageTask>&, const Limits&,
                                  const Progress&);

// Values of an input that are infinite or NaN.
struct NonFinite {
  std::uint64_t count = 0;
  std::uint64_t first = 0;  // element of the job
  NonFinite& operator+=(const NonFinite&);
};

// Finds the culprit when a result is not finite: looks through one input of one job.
NonFinite find_nonfinite(const Plan&, std::size_t job, std::size_t input, const Limits&,
                         const Progress&);

// Returns the fingerprint of the first input of every job.
std::vector<Lanes> fingerprints(const Plan&, const Limits&, const Progress&);

}  // namespace tallies
