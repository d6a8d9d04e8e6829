// Runs the passes of a plan: the exact selection of thresholds, the combine, and a search for the
// culprit when a value is not finite. A plan is plain numbers: files, offsets, types, lengths.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/rule.h"
#include "cpu/ops.h"
#include "stream/stream.h"

namespace tallies {

// Inputs of every job are the base, if the plan has one, and then the experts.
struct Plan {
  Files files;
  std::vector<Job> jobs;
  std::vector<std::vector<DType>> input_types;  // per job
  std::vector<DType> output_types;              // per job
  bool has_base = true;

  std::size_t n_experts(std::size_t job) const { return jobs[job].inputs.size() - has_base; }
};

// Jobs whose magnitudes are ranked together, and the rank wanted of each expert: the rank-th
// largest magnitude, counted from 1; 0 for none.
struct Unit {
  std::vector<std::size_t> jobs;  // in the order in which equal magnitudes are preferred
  std::vector<std::uint64_t> ranks;
};

struct Threshold {
  std::int32_t bits = 0;      // of the rank-th largest magnitude
  std::uint64_t n_above = 0;  // magnitudes strictly larger
  std::uint64_t n_equal = 0;  // magnitudes equal to it
  // Keeping `rank` entries, lowest index first: those equal are kept up to here in unit.jobs order.
  std::size_t last_job = 0;      // position in unit.jobs
  std::uint64_t last_count = 0;  // elements of that job up to and with the last one kept
};

// Thresholds of each expert of each unit. With `locate`, also where the equal ones are cut off.
std::vector<std::vector<Threshold>> select(const Plan&, const std::vector<Unit>&, bool locate,
                                           const Limits&, const Progress&);

// What a combine does to one job, or to a stretch of it.
struct JobRule {
  std::size_t job;
  std::uint64_t first;                 // a multiple of 64
  std::uint64_t n_elements;            // of the job, from `first` on
  std::vector<float> weights;          // per expert
  std::vector<std::int32_t> floors;    // per expert; entries with bits(|delta|) > floor stay
  std::vector<std::uint64_t> cutoffs;  // per expert; elements from here on must exceed floor + 1
  float scale = 1.0f;
  float divisor = 1.0f;
  int zero_sign = 0;
  int majority = -1;  // unit whose elected majority replaces zero_sign, -1 for none
};

using Lanes = std::array<std::uint64_t, 8>;
using Range = std::pair<std::uint64_t, std::uint64_t>;  // first element, number of elements

// Tiles with cancelled votes that were given one sign.
struct Guessed {
  std::vector<Range> ranges;  // in order, neighbours joined
  Lanes output{};             // content fingerprint of what was written there
};

struct JobResult {
  CombineTally tally;
  Guessed plus, minus;
  std::vector<Lanes> inputs;  // content fingerprints
  Lanes output{};             // of tiles without cancelled votes
};

struct CombineOptions {
  Rule rule;
  bool fingerprints = true;
  bool stop_at_overflow = false;
};

// One result per rule, in order. A majority is the sign of the votes counted so far over its unit;
// the caller repeats the ranges for which that was not the sign of them all.
std::vector<JobResult> combine(const Plan&, const std::vector<JobRule>&, const CombineOptions&,
                               const Limits&, const Progress&);

struct NonFinite {
  std::uint64_t count = 0;
  std::uint64_t first = 0;  // element of the job
};

// Values of one input of one job that are infinite or NaN.
NonFinite find_nonfinite(const Plan&, std::size_t job, std::size_t input, const Limits&,
                         const Progress&);

}  // namespace tallies
