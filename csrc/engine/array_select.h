// Finds exact ranks of task vectors in memory. A strided sample brackets each threshold; one sweep
// counts the magnitudes at the ends of the bracket and lists the few inside.
#pragma once

#include "core/array.h"
#include "engine/search.h"

namespace tallies {

// Cells of an array are swept by one thread each.
inline constexpr std::size_t kCell = std::size_t(1) << 16;

// A task vector in memory: expert - base, or the expert alone where the base is null.
struct Delta {
  View base;
  View expert;
};

// Returns the threshold of one rank of each delta, counted from 1; of rank 0 an empty one. With
// `locate`, also the elements up to and with the last of the equal ones that is kept.
std::vector<Threshold> select_in_memory(const std::vector<Delta>&,
                                        const std::vector<std::uint64_t>& ranks, std::size_t n,
                                        bool locate, int n_threads);

}  // namespace tallies
