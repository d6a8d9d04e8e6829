// How much of each task vector a stage leaves: sums of magnitudes, from which L1 rescaling follows.

#include <mutex>

#include "engine/engine.h"
#include "engine/exact_sum.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Sums {
  std::vector<ExactSum> before, after;
};

std::vector<double> values(const std::vector<ExactSum>& sums) {
  std::vector<double> values;
  for (const ExactSum& sum : sums) values.push_back(sum.value());
  return values;
}

}  // namespace

std::vector<StageSums> stage_sums(const Plan& plan, const std::vector<JobRule>& rules, Stage stage,
                                  const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<Sums> totals;
  for (const JobRule& rule : rules) {
    Job& job = jobs.emplace_back(stretch_of(plan.jobs[rule.job], rule));
    job.outputs.clear();
    if (rule.row_length == 0) job.grain = kChunk;
    const std::size_t n_experts = plan.n_experts(rule.job);
    totals.push_back({std::vector<ExactSum>(n_experts), std::vector<ExactSum>(n_experts)});
  }
  std::vector<Deltas> deltas(static_cast<std::size_t>(limits.n_threads));
  std::vector<Stages> stages(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  const auto body = [&](const Tile& tile) {
    const JobRule& rule = rules[tile.job];
    const std::size_t n_experts = totals[tile.job].before.size();
    Sums part{std::vector<ExactSum>(n_experts), std::vector<ExactSum>(n_experts)};
    deltas[static_cast<std::size_t>(tile.worker)].for_each_chunk(
        tile, plan.input_types[rule.job],
        [&](const std::vector<float*>& rows, std::size_t at, std::size_t n) {
          for (std::size_t e = 0; e < n_experts; ++e) {
            const Stages::Sums sums = stages[static_cast<std::size_t>(tile.worker)].sum(
                stage, rule.stages[e], e, rule.row_length, rows[e], rule.first + tile.first + at,
                n);
            part.before[e].add(sums.before);
            part.after[e].add(sums.after);
          }
        },
        chunk_elements(rule));
    const std::lock_guard lock(mutex);
    for (std::size_t e = 0; e < n_experts; ++e) {
      totals[tile.job].before[e].add(part.before[e]);
      totals[tile.job].after[e].add(part.after[e]);
    }
  };
  stream(plan.files, jobs, Tiling(jobs, limits), limits, body, progress);
  std::vector<StageSums> found;
  for (const Sums& sums : totals) found.push_back({values(sums.before), values(sums.after)});
  return found;
}

}  // namespace tallies
