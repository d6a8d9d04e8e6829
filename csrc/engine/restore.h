// Makes tensors of a base and the delta of a task.
#pragma once

#include <tuple>

#include "engine/fingerprints.h"

namespace tallies {

struct Restored {
  std::vector<Lanes> inputs;  // content fingerprints, of each array of the job
  Lanes output{};
  bool overflow = false;  // a value that is not finite in the type of the output
  static auto fields(auto& part) { return std::tie(part.inputs, part.output, part.overflow); }
};

// Jobs to restore: the sources of each are the base and, unless it is written alone, the delta.
struct Restoring {
  const Files& files;
  const std::vector<Job>& jobs;
  const std::vector<std::vector<Source>>& sources;
  const std::vector<DType>& output_types;
};

// Returns true if a job's output gets stored values bit for bit: those of a base alone that is not
// decoded, or of a delta that replaces the base.
inline bool is_copy(const std::vector<Source>& sources, DType out_type) {
  const Source& base = sources[0];
  const bool is_stored = base.form == Source::Form::plain && !base.changes && base.type == out_type;
  return sources.size() == 1 ? is_stored : sources[1].replaces;
}

// out = base + delta in float32, or base alone, rounded once; where the delta replaces the base,
// its values as they are, bit for bit. Throws a storage error if a mask of a sparse delta has other
// elements set than were counted.
std::vector<Restored> restore(const Restoring&, const Limits&, const Progress&);

}  // namespace tallies
