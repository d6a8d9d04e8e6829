// Numbers that gates ask of an expert beside its floor.
#pragma once

#include <cstdint>

namespace tallies {

// The numbers of one expert's PCB scores: magnitudes are clipped to [low, high] and
// become (a - low) * per_width; what exceeds the threshold weighs (score - threshold) * per_range.
// Factors, because a division takes as long as all of the exponential.
struct Score {
  float low, high, per_width, threshold, per_range;
};

// The sum that the agreement of an entry is measured against: of the task vectors, or of their
// signed, normalised magnitudes.
enum class Agreement : std::uint8_t { sum, signs };

// Random draws of one expert's entries.
struct Draw {
  std::uint64_t key;    // of the random numbers
  std::int32_t chance;  // of an entry to pass, of kCertain
  float factor;         // on entries that pass
};

// A probability of 1: random numbers are whole numbers below it.
inline constexpr std::int32_t kCertain = 1 << 30;

}  // namespace tallies
