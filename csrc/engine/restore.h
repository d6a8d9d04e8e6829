#pragma once

#include "engine/delta.h"

namespace tallies {

// out = base + delta in float32, rounded once; what replaces the base, and the base where there is
// no delta (null), as it is, bit for bit. Jobs have one input, the base, and one output of its
// type, and begin their tiles on multiples of kChunk. Returns the content fingerprint of each base.
std::vector<Lanes> restore(const Plan&, const std::vector<const Delta*>&, const Limits&,
                           const Progress&);

}  // namespace tallies
