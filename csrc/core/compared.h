// How much of two tensors is compared at a time.
#pragma once

#include <cstddef>

namespace tallies {

// Bytes of either tensor that are compared and counted together, in the first-level cache.
inline constexpr std::size_t kComparedTogether = std::size_t(16) << 10;

}  // namespace tallies
