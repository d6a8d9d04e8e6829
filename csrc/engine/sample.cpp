// The sample from which a selection takes its first brackets.

#include <algorithm>

#include "engine/rounds.h"

namespace tallies {
namespace {

constexpr std::uint64_t kSampleShare = 128;  // one element in so many
constexpr std::uint64_t kMaxSample = 1 << 19;

// Elements of a job that are read together, and the place of their patterns in the sample.
struct SampleRun {
  std::size_t job;
  std::uint64_t first;
  std::size_t n;
  std::size_t at;
};

// Appends the runs of one unit's jobs, from `job` on: all of a small unit, else evenly spaced.
// Returns the patterns that they have together.
std::size_t append_runs(const RankedUnits& ranked, std::size_t unit, std::size_t job,
                        std::uint64_t n_all, std::vector<SampleRun>& runs) {
  const bool is_small = n_all <= kSmallUnit;
  const std::uint64_t wanted = std::clamp(n_all / kSampleShare, kSmallUnit / 4, kMaxSample);
  const std::uint64_t every = n_all / (wanted / kRun);
  std::uint64_t next = every / 2, before = 0;
  std::size_t at = 0;
  const auto append = [&](std::uint64_t first, std::uint64_t n) {
    runs.push_back({job, first, static_cast<std::size_t>(n), at});
    at += static_cast<std::size_t>(n);
  };
  for (; job < ranked.jobs().size() && ranked.unit_of(job) == unit; ++job) {
    const Job& all = ranked.jobs()[job];
    if (is_small) append(all.first, all.n_elements);
    for (; !is_small && next < before + all.n_elements; next += every) {
      const std::uint64_t first = (next - before) / all.grain * all.grain;
      append(all.first + first, std::min<std::uint64_t>(kRun, all.n_elements - first));
    }
    before += all.n_elements;
  }
  return at;
}

}  // namespace

bool Rounds::sample(std::size_t from, std::size_t to, std::vector<Patterns>& samples) const {
  std::vector<SampleRun> runs;
  samples.assign(n_searches(), {});
  std::size_t job = 0;
  for (std::size_t u = 0; u < selection_.groups.size(); job += ranked_.units()[u++].slices.size()) {
    const auto& [n_elements, searches] = selection_.groups[u];
    if (std::ranges::all_of(searches, [](const Search& search) { return search.rank == 0; }))
      continue;
    const std::size_t n = append_runs(ranked_, u, job, n_elements, runs);
    for (std::size_t s = from; s < std::min(to, searches.size()); ++s)
      if (searches[s].rank > 0) samples[index_of(u, s)].resize(n);
  }
  // Each run is a small job over the base and these experts.
  std::vector<Job> jobs;
  for (const SampleRun& run : runs)
    jobs.push_back(ranked_.part_of(run.job, run.first, run.n, from, to));
  Limits whole_runs = limits_;
  whole_runs.buffer_bytes = std::max(limits_.buffer_bytes, kRun * 8 * (to - from + 1));
  return for_each_tile<NumberScratch>(
      ranked_.plan().files, jobs, Tiling(jobs, whole_runs), whole_runs, progress_,
      [&](const Tile& tile, NumberScratch& scratch) {
        const SampleRun& run = runs[tile.job];
        const std::size_t unit = ranked_.unit_of(run.job);
        std::vector<std::uint32_t*> out(selection_.groups[unit].searches.size());
        for (std::size_t s = 0; s < out.size(); ++s) {
          Patterns& sample = samples[index_of(unit, s)];
          if (!sample.empty()) out[s] = sample.data() + run.at + (tile.first - run.first);
        }
        ranked_.list(run.job, tile, out, scratch);
      });
}

}  // namespace tallies
