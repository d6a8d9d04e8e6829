// The kernels of the instruction set in use.
#pragma once

#include <string>
#include <vector>

#include "core/table.h"

namespace tallies {

// Instruction sets that are compiled in and that this machine runs, best first.
const std::vector<const KernelTable*>& targets();

// The one in use: the best, or the one that TALLIES_CPU_TARGET or set_target names.
const KernelTable& kernels();

// Throws Error (request) for a name that targets() does not have.
void set_target(const std::string& name);

}  // namespace tallies
