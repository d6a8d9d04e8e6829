// The entries that an unstable sort by magnitude leaves at some places, among equal ones too.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tallies {

// Writes x where std::sort of libstdc++, by |x|, would leave the entry at a place from `first` to
// before `last`, and +0 elsewhere. torch.sort and torch.argsort of a float32 row on the CPU end so.
// x has no NaN, and may be `out`. n is below 2^32. Takes 8 bytes an element; only parts with a
// border inside are sorted. Returns how many entries equal to one at a border are not kept.
std::uint64_t keep_sorted_range(const float* x, float* out, std::size_t n, std::size_t first,
                                std::size_t last, bool descending);

}  // namespace tallies
