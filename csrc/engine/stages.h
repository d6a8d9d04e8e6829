// What becomes of the float32 deltas of a chunk before they are blended.
#pragma once

#include <algorithm>

#include "engine/engine.h"
#include "engine/views.h"

namespace tallies {

// Elements of a chunk: whole rows where the stage needs them.
inline std::size_t chunk_elements(const JobRule& rule) {
  if (rule.row_length == 0) return kChunk;
  return static_cast<std::size_t>(std::max<std::uint64_t>(kChunk / rule.row_length, 1) *
                                  rule.row_length);
}

// Changes n elements of one expert's delta in place, which start at element `first` of the job.
inline void run_stage(Stage stage, const StageRule& rule, float* delta, std::uint64_t first,
                      std::size_t n) {
  constexpr std::uint64_t kPeriod = std::uint64_t(1) << 32;  // of the random numbers' counter
  switch (stage) {
    case Stage::none:
      break;
    case Stage::drop:
      for (std::size_t at = 0, part; at < n; at += part) {
        part = static_cast<std::size_t>(
            std::min<std::uint64_t>(n - at, kPeriod - (first + at) % kPeriod));
        kernels().drop({delta + at, part, rule.key, first + at, rule.chance, rule.factor});
      }
      break;
  }
}

}  // namespace tallies
