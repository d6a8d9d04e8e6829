// The reading of arrays into the rooms that hold them, before any pass looks at them.
#pragma once

#include "stream/stream.h"

namespace tallies {

// Reads the arrays of some of these jobs that have room and do not lie there yet. Returns false if
// progress ended it.
bool fill(const Files& files, const std::vector<Job>& jobs, const std::vector<std::size_t>& which,
          const Limits& limits, const Progress& progress);

}  // namespace tallies
