// The order of magnitudes as integers.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// Every NaN ranks as this pattern, just above infinity, whatever its payload.
constexpr std::int32_t kNanRank = 0x7f800001;

TALLIES_INLINE I32s rank_of(I32s magnitude) { return smaller(magnitude, all(kNanRank)); }

}  // namespace
}  // namespace tallies
