#include "stream/fill.h"

#include <algorithm>
#include <set>

#include "stream/held.h"

namespace tallies {

bool fill(const Files& files, const std::vector<Job>& jobs, const std::vector<std::size_t>& which,
          const Limits& limits, const Progress& progress) {
  std::vector<Job> filled;
  std::set<const Held*> seen;
  for (const std::size_t number : which) {
    Job one = jobs[number];
    one.outputs.clear();
    std::erase_if(one.inputs, [&](const Array& array) {
      return !array.held || array.held->state != Held::State::empty ||
             !seen.insert(array.held.get()).second;
    });
    if (!one.inputs.empty()) filled.push_back(std::move(one));
  }
  return stream(files, filled, Tiling(filled, limits), limits, [](const Tile&) {}, progress);
}

}  // namespace tallies
