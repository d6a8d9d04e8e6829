// Makes right what a tile was combined to with wrong thresholds, from the elements on its list.
#pragma once

#include "engine/guesses.h"

namespace tallies {

// Combines listed elements of one candidate again where they pass otherwise with the right floors
// and cutoffs, and writes those by position. The tile gets the tallies and fingerprints of a
// combine with these; votes that cancel take the sign that the tile had for them. `magnitudes` are
// those of the list. Returns the number of elements written, or nothing if the tile has to be
// combined again.
std::optional<std::size_t> repair(const Plan&, const GuessedTask&, std::size_t candidate,
                                  const Candidate& right, const std::vector<Patterns>& magnitudes,
                                  GuessedTile&);

// Lists the magnitudes of listed elements, of each expert.
std::vector<Patterns> magnitudes_of(const Plan&, const GuessedTask&, const Listed&);

}  // namespace tallies
