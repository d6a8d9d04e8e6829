// The pass that writes a store: of every tile the shared vector and the masks of all experts.
#pragma once

#include "engine/fingerprints.h"
#include "engine/tasks.h"

namespace tallies {

struct PackOptions {
  bool has_shared;
  Rule rule;  // of the shared vector
  MaskRule mask;
  bool with_sums;
  bool stop_at_overflow;
};

// The shared vector is the merged delta of a candidate; each expert has a mask, or one for each of
// several lambdas.
struct PackTask {
  std::size_t job;
  Candidate shared;            // its floors are also those of MaskRule::magnitude
  std::vector<float> lambdas;  // MaskRule::tall: as many per expert, expert by expert
};

struct PackResult {
  CombineTally tally;
  std::vector<Lanes> inputs, outputs;      // content fingerprints; shared comes first, if any
  std::vector<std::uint64_t> n_set;        // per mask
  std::vector<double> sums, sums_in_mask;  // per expert: of |x|, and of |m| where its mask is set
};

// Outputs of every job are the shared vector, if any, and the masks.
std::vector<PackResult> pack(const Plan&, const std::vector<PackTask>&, const PackOptions&,
                             const Limits&, const Progress&);

}  // namespace tallies
