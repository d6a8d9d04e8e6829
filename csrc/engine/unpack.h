// The pass that reads a store: one expert of every tile from the base, the shared vector and a
// mask.
#pragma once

#include "engine/fingerprints.h"
#include "engine/plan.h"

namespace tallies {

// out = base + scale * (mask ? shared : +0), or base + (mask ? scale : -scale) without a shared
// vector. Inputs of the plan's jobs are the base, the shared vector and the mask.
struct UnpackRule {
  std::size_t job;
  float scale;
};

struct UnpackResult {
  std::vector<Lanes> inputs;
  Lanes output{};
  bool overflow = false;
};

std::vector<UnpackResult> unpack(const Plan&, const std::vector<UnpackRule>&, bool has_shared,
                                 const Limits&, const Progress&);

}  // namespace tallies
