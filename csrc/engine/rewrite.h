// Elements of an output that are changed by position, once their tile is written.
#pragma once

#include <functional>
#include <span>

#include "engine/combine.h"

namespace tallies {

// Changes the i-th of some elements.
using ChangeElement = std::function<void(char* element, std::size_t i)>;

// Reads the stripes that have these elements of a tile, in order, changes the elements and writes
// the stripes, in all outputs of a row. Adds to the fingerprint of one output what becomes of it.
void rewrite(const Plan&, std::size_t job, std::size_t row, const Range& tile,
             std::span<const std::uint32_t> at, const ChangeElement&, Lanes& fingerprint);

}  // namespace tallies
