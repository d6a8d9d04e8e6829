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

// Pages of a file are written as a whole, or not at all.
constexpr std::uint64_t kPage = 4096;

struct Scratch {
  Positions positions;
  std::vector<std::uint8_t> tile;
  std::vector<bool> pages;  // of a tile in place, those to write
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
  if (target == tile.in[0] && lanes == nullptr) return;
  for (std::size_t at = 0, n; at < tile.n; at += n) {
    n = std::min(kTogether, tile.n - at);
    const void* const from = static_cast<const char*>(tile.in[0]) + at * unit;
    if (lanes != nullptr) add(*lanes, fingerprint(from, array, tile.first + at, n));
    if (target != tile.in[0]) std::memcpy(static_cast<char*>(target) + at * unit, from, n * unit);
  }
}

// Writes the pages of a file that are marked, counted from the one with the first byte.
void write_pages(const Files& files, int file, std::uint64_t offset, const char* bytes,
                 std::size_t n_bytes, const std::vector<bool>& pages) {
  std::size_t begin = 0;  // of the pages to write up to here
  std::size_t page = 0;
  for (std::size_t at = 0, n; at < n_bytes; at += n, ++page) {
    n = static_cast<std::size_t>(
        std::min<std::uint64_t>(kPage - (offset + at) % kPage, n_bytes - at));
    if (pages[page]) continue;
    if (begin < at) files.write(file, bytes + begin, at - begin, offset + begin);
    begin = at + n;
  }
  if (begin < n_bytes) files.write(file, bytes + begin, n_bytes - begin, offset + begin);
}

// Returns where a tile's changes are made: in the output, or in the memory of a worker, where a
// file's elements lie already.
void* target_of(const Tile& tile, const Job& job, Scratch& scratch) {
  const Array& array = job.inputs[0];
  if (!job.outputs.empty()) return tile.out[0];
  if (array.is_copied() && !array.held) return const_cast<void*>(tile.in[0]);
  scratch.tile.resize(std::max(scratch.tile.size(), tile.n * array.record_bits / 8));
  return scratch.tile.data();
}

// Makes a chain of changes of a tile, and returns where the new elements lie.
const void* change_tile(const Tile& tile, const Job& job, const PatchTask& task,
                        const PatchOptions& options, Patched& found, Scratch& scratch, Sums& part) {
  const Array& array = job.inputs[0];
  const std::uint64_t first = tile.first - task.slice.first;
  const auto list = [&](const void* elements, const std::vector<Blob>& values) {
    for (std::size_t i = 0; i < values.size(); ++i)
      gather(*task.chain[i], first, tile.n, scratch.positions, elements, values[i].data());
  };
  void* const target = target_of(tile, job, scratch);
  begin(tile, array, target, options.with_old ? &part.before : nullptr);
  list(target, found.old_values);
  for (const auto& changes : task.chain) apply(*changes, first, tile.n, scratch.positions, target);
  list(target, found.new_values);
  if (options.with_new) part.now = fingerprint(target, array, tile.first, tile.n);
  return target;
}

// Writes the pages of a tile in place that have an element of a change.
void write_changed(const Files& files, const Tile& tile, const Array& array, const PatchTask& task,
                   const void* made, Scratch& scratch) {
  const Bytes bytes = array.bytes(tile.first, tile.n);
  const std::uint64_t offset = array.offset + bytes.first;
  scratch.pages.assign(static_cast<std::size_t>((offset % kPage + bytes.n + kPage - 1) / kPage),
                       false);
  for (const auto& changes : task.chain)
    mark(*changes, tile.first - task.slice.first, tile.n, scratch.positions, offset % kPage, kPage,
         scratch.pages);
  write_pages(files, array.file, offset, static_cast<const char*>(made), bytes.n, scratch.pages);
}

// Tells if the output of a job is the very bytes of a file that its input is.
bool is_in_place(const Job& job) {
  if (job.outputs.empty()) return false;
  const Array &in = job.inputs[0], &out = job.outputs[0];
  return in.file >= 0 && in.file == out.file && in.offset == out.offset;
}

}  // namespace

std::vector<Patched> apply_changes(const Plan& plan, const std::vector<PatchTask>& tasks,
                                   const PatchOptions& options, const Limits& limits,
                                   const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<bool> in_place;
  std::vector<Patched> all;
  for (const PatchTask& task : tasks) {
    Job& job = jobs.emplace_back(job_of(plan, task.slice));
    in_place.push_back(is_in_place(job));
    if (in_place.back()) job.outputs.clear();  // the transform writes
    Patched& found = all.emplace_back();
    for (std::size_t i = 0; options.with_values && i < task.chain.size(); ++i) {
      found.old_values.emplace_back(task.chain[i]->values.size());
      found.new_values.emplace_back(task.chain[i]->values.size());
    }
  }
  const std::vector<Sums> sums = run<Scratch>(
      plan.files, jobs, limits, progress, std::vector<Sums>(tasks.size()),
      [&](const Tile& tile, Scratch& scratch, Sums& part) {
        const Job& job = jobs[tile.job];
        const void* const made =
            change_tile(tile, job, tasks[tile.job], options, all[tile.job], scratch, part);
        if (in_place[tile.job])
          write_changed(plan.files, tile, job.inputs[0], tasks[tile.job], made, scratch);
      });
  for (std::size_t i = 0; i < all.size(); ++i) {
    all[i].before = sums[i].before;
    all[i].now = sums[i].now;
  }
  return all;
}

}  // namespace tallies
