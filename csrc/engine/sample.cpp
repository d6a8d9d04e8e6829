// The sample from which a selection takes its first brackets.

#include <algorithm>

#include "engine/rounds.h"
#include "engine/sample_runs.h"

namespace tallies {
bool Rounds::sample(std::size_t from, std::size_t to, std::vector<Patterns>& samples) const {
  std::vector<SampleRun> runs;
  samples.assign(n_searches(), {});
  std::size_t job = 0;
  for (std::size_t u = 0; u < selection_.groups.size(); job += ranked_.units()[u++].slices.size()) {
    const auto& [n_elements, searches] = selection_.groups[u];
    if (std::ranges::all_of(searches, [](const Search& search) { return search.rank == 0; }))
      continue;
    const std::size_t n = append_runs(ranked_, u, job, n_elements, sample_size(n_elements), runs);
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
