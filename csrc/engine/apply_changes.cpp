#include "engine/apply_changes.h"

#include <algorithm>
#include <cstring>
#include <tuple>

#include "engine/pass.h"

namespace tallies {
namespace {

// Elements that are copied, and counted by their fingerprint, while they are in the first-level
// cache.
constexpr std::size_t kTogether = 4096;

struct Scratch {
  Positions positions;
  std::vector<std::uint8_t> tile;
};

// A tile's share of the fingerprints of its slice.
struct Sums {
  Lanes before{}, now{};
  static auto fields(auto& part) { return std::tie(part.before, part.now); }
};

// Copies the old elements of a tile to the target, unless they lie there, and adds their
// fingerprint unless there is none.
void begin(const Tile& tile, const Array& array, void* target, Lanes* lanes) {
  const std::size_t unit = array.record_bits / 8;
  for (std::size_t at = 0, n; at < tile.n; at += n) {
    n = std::min(kTogether, tile.n - at);
    const void* const from = static_cast<const char*>(tile.in[0]) + at * unit;
    if (lanes != nullptr) add(*lanes, fingerprint(from, array, tile.first + at, n));
    if (target != tile.in[0]) std::memcpy(static_cast<char*>(target) + at * unit, from, n * unit);
  }
}

// Makes a chain of changes of a tile.
void change_tile(const Tile& tile, const Job& job, const PatchTask& task,
                 const PatchOptions& options, const std::vector<Blob>& old_values, Scratch& scratch,
                 Sums& part) {
  const Array& array = job.inputs[0];
  const std::uint64_t first = tile.first - task.slice.first;
  for (std::size_t i = 0; i < old_values.size(); ++i)
    gather(*task.chain[i], first, tile.n, scratch.positions, tile.in[0], old_values[i].data());
  void* target = job.outputs.empty() ? nullptr : tile.out[0];
  if (target == nullptr) {
    scratch.tile.resize(std::max(scratch.tile.size(), tile.n * array.record_bits / 8));
    target = scratch.tile.data();
  }
  begin(tile, array, target, options.with_fingerprints ? &part.before : nullptr);
  for (const auto& changes : task.chain) apply(*changes, first, tile.n, scratch.positions, target);
  if (options.with_fingerprints) part.now = fingerprint(target, array, tile.first, tile.n);
}

}  // namespace

std::vector<Patched> apply_changes(const Plan& plan, const std::vector<PatchTask>& tasks,
                                   const PatchOptions& options, const Limits& limits,
                                   const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<Patched> all;
  for (const PatchTask& task : tasks) {
    jobs.push_back(job_of(plan, task.slice));
    all.emplace_back();
    if (options.with_old_values)
      for (const auto& changes : task.chain)
        all.back().old_values.emplace_back(changes->values.size());
  }
  const std::vector<Sums> sums =
      run<Scratch>(plan.files, jobs, limits, progress, std::vector<Sums>(tasks.size()),
                   [&](const Tile& tile, Scratch& scratch, Sums& part) {
                     change_tile(tile, jobs[tile.job], tasks[tile.job], options,
                                 all[tile.job].old_values, scratch, part);
                   });
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].before = sums[i].before;
    all[i].now = sums[i].now;
  }
  return all;
}

}  // namespace tallies
