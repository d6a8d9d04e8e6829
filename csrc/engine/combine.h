// The pass that writes: gate, vote and blend of every tile.
#pragma once

#include <optional>
#include <tuple>
#include <utility>

#include "engine/fingerprints.h"
#include "engine/tasks.h"

namespace tallies {

struct CombineTask {
  Slice slice;
  std::vector<Candidate> candidates;  // one for each row of outputs
  int unit = -1;                      // of guesses, -1 for none
  // The job by which the unit knows the slice, where that is another one with the same inputs.
  std::optional<std::size_t> ranked_job = {};
};

using Range = std::pair<std::uint64_t, std::uint64_t>;  // first element, number of elements

// Sorts ranges, and makes one of neighbours.
void join_neighbours(std::vector<Range>&);

// Tiles whose cancelled votes all took one sign.
struct Guessed {
  std::vector<Range> ranges;  // in order, neighbours joined
  Lanes output{};             // content fingerprint of the outputs there
  Guessed& operator+=(const Guessed&);
};

// The result of one candidate. Results of two parts of a job add up.
struct CandidateResult {
  CombineTally tally;
  Guessed plus, minus;
  Lanes output{};  // content fingerprint of tiles without cancelled votes
  static auto fields(auto& part) {
    return std::tie(part.tally, part.plus, part.minus, part.output);
  }
};

struct CombineResult {
  std::vector<Lanes> inputs;  // content fingerprints
  std::vector<CandidateResult> candidates;
  static auto fields(auto& part) { return std::tie(part.inputs, part.candidates); }
};

struct CombineOptions {
  Rule rule;  // of candidates without their own
  bool fingerprints = true;
  bool stop_at_overflow = false;
  std::vector<std::int64_t> votes;  // of units, before this pass; none counts as zero
};

struct Guesses;

// Returns one result per task, in order; jobs without outputs are only counted. A majority is the
// sign of the votes counted so far over its unit; the caller repeats the ranges for which that was
// not the sign of them all.
std::vector<CombineResult> combine(const Plan&, const std::vector<CombineTask>&,
                                   const CombineOptions&, const Limits&, const Progress&,
                                   Guesses* = nullptr);

}  // namespace tallies
