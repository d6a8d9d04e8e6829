// A search for the culprit when a value is not finite.
#pragma once

#include "engine/plan.h"

namespace tallies {

struct NonFinite {
  std::uint64_t count = 0;
  std::uint64_t first = 0;  // element of the job
  NonFinite& operator+=(const NonFinite&);
};

// Counts the values of one input of one job that are infinite or NaN.
NonFinite find_nonfinite(const Plan&, std::size_t job, std::size_t input, const Limits&,
                         const Progress&);

}  // namespace tallies
