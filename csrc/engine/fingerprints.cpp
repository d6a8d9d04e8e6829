#include "engine/fingerprints.h"

#include "engine/pass.h"

namespace tallies {
namespace {

struct Content {
  Lanes lanes{};
  Content& operator+=(const Content& part) {
    add(lanes, part.lanes);
    return *this;
  }
};

struct NoScratch {};

}  // namespace

std::vector<Lanes> fingerprints(const Plan& plan, const Limits& limits, const Progress& progress) {
  std::vector<Lanes> found;
  for (const Content& content : run<NoScratch>(
           plan.files, plan.jobs, limits, progress, std::vector<Content>(plan.jobs.size()),
           [&](const Tile& tile, NoScratch&, Content& part) {
             part.lanes =
                 fingerprint(tile.in[0], plan.jobs[tile.job].inputs[0], tile.first, tile.n);
           }))
    found.push_back(content.lanes);
  return found;
}

}  // namespace tallies
