// A larger sample than the one that a selection begins with, counted instead of listed.
#pragma once

#include "engine/rounds.h"

namespace tallies {

// Counts a sample in and around the brackets that open searches try, and makes these and their
// guesses better; with `locate` also guesses where equal magnitudes are cut off. Returns false if
// the progress stopped the pass.
bool refine(const RankedUnits&, Selection&, bool locate, const Limits&, const Progress&);

}  // namespace tallies
