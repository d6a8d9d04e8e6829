// A pass that only fingerprints what it reads.

#include <mutex>

#include "engine/engine.h"
#include "engine/views.h"

namespace tallies {

std::vector<Lanes> fingerprints(const Plan& plan, const Limits& limits, const Progress& progress) {
  std::vector<Lanes> sums(plan.jobs.size());
  std::mutex mutex;
  const auto body = [&](const Tile& tile) {
    const Lanes part = fingerprint(tile.in[0], plan.jobs[tile.job].inputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex);
    add(sums[tile.job], part);
  };
  stream(plan.files, plan.jobs, Tiling(plan.jobs, limits), limits, body, progress);
  return sums;
}

}  // namespace tallies
