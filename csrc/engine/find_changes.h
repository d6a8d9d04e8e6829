// The pass that finds the elements in which two tensors differ, in one read.
#pragma once

#include "engine/changed_elements.h"
#include "engine/fingerprints.h"

namespace tallies {

// The changes of a slice in the layout that takes the fewest bytes; of equal ones, the first.
struct FoundChanges {
  Layout layout = Layout::none;
  std::uint64_t n_changed = 0;
  Lanes before{}, now{};
  Blob positions, values;
  std::vector<BlockEnds> blocks;
};

// Inputs of the jobs are the old and the new tensor, as they are stored. Throws a storage error if
// a tensor changes meanwhile and that is noticed.
std::vector<FoundChanges> find_changes(const Plan&, const std::vector<Slice>&, Coding,
                                       const Limits&, const Progress&);

}  // namespace tallies
