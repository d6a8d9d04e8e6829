// Passes that make changes of elements, a chain of them in one read, or find what they would
// overwrite.
#pragma once

#include "engine/changed_elements.h"
#include "engine/fingerprints.h"

namespace tallies {

// Changes of one slice, made one after the other. All have been checked.
struct PatchTask {
  Slice slice;
  std::vector<std::shared_ptr<const ChangedElements>> chain;
};

struct Patched {
  Lanes before{}, now{};
  // The old elements, and those that the whole chain makes, at the positions of each of the
  // changes, in their order.
  std::vector<Blob> old_values = {}, new_values = {};
};

struct PatchOptions {
  bool with_old, with_new;  // fingerprints
  bool with_values;
};

// Writes input 0 of each slice with its changes to the output, which may be the same memory or the
// same bytes of a file, of which then only the pages with a changed element are written. Without an
// output only fingerprints and values are found.
std::vector<Patched> apply_changes(const Plan&, const std::vector<PatchTask>&, const PatchOptions&,
                                   const Limits&, const Progress&);

}  // namespace tallies
