#include "stream/fill.h"

#include <algorithm>

#include "stream/held.h"

namespace tallies {

bool fill(const Files& files, const std::vector<Job>& jobs, const Limits& limits,
          const Progress& progress) {
  std::vector<Job> filled;
  for (const Job& job : jobs) {
    Job one = job;
    one.outputs.clear();
    std::erase_if(one.inputs, [](const Array& array) {
      return !array.held || array.held->state != Held::State::empty;
    });
    if (!one.inputs.empty()) filled.push_back(std::move(one));
  }
  return stream(files, filled, Tiling(filled, limits), limits, [](const Tile&) {}, progress);
}

}  // namespace tallies
