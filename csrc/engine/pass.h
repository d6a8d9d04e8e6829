// A pass over tiles as a value: scratch for each worker, a part for each job, one place that locks.
#pragma once

#include <cstddef>
#include <mutex>
#include <utility>
#include <vector>

#include "engine/parts.h"
#include "stream/stream.h"

namespace tallies {

// Parts that any thread may change, each under a lock of its own.
template <class Part>
class Parts {
 public:
  explicit Parts(std::vector<Part> empty) : parts_(std::move(empty)), locks_(parts_.size()) {}

  // Returns change(part) of the i-th part.
  template <class Change>
  auto change(std::size_t i, const Change& change) {
    const std::lock_guard lock(locks_[i]);
    return change(parts_[i]);
  }
  std::vector<Part> take() { return std::move(parts_); }

 private:
  std::vector<Part> parts_;
  std::vector<std::mutex> locks_;
};

// Calls body(tile, scratch) for every tile; each worker has a Scratch of its own. Returns false if
// the progress stopped the pass.
template <class Scratch, class Body>
bool for_each_tile(const Files& files, const std::vector<Job>& jobs, const Tiling& tiling,
                   const Limits& limits, const Progress& progress, const Body& body,
                   const Memory& memory = {}) {
  std::vector<Scratch> scratches(static_cast<std::size_t>(limits.n_threads));
  return stream(
      files, jobs, tiling, limits,
      [&](const Tile& tile) { body(tile, scratches[static_cast<std::size_t>(tile.worker)]); },
      progress, memory);
}

// Calls body(tile, scratch, part) for every tile of the jobs. A part begins as `empty` of the
// job of its tile, and is added to the part of the job when the body returns. Returns a part for
// each job; if the progress stopped the pass, with the tiles until then.
template <class Scratch, class Part, class Body>
std::vector<Part> run(const Files& files, const std::vector<Job>& jobs, const Limits& limits,
                      const Progress& progress, const std::vector<Part>& empty, const Body& body,
                      const Memory& memory = {}) {
  Parts<Part> parts(empty);
  for_each_tile<Scratch>(
      files, jobs, Tiling(jobs, limits), limits, progress,
      [&](const Tile& tile, Scratch& scratch) {
        Part part = empty[tile.job];
        body(tile, scratch, part);
        parts.change(tile.job, [&](Part& sum) { add(sum, part); });
      },
      memory);
  return parts.take();
}

}  // namespace tallies
