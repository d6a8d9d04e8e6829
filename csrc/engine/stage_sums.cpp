#include "engine/stage_sums.h"

#include "engine/parts.h"
#include "engine/pass.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Deltas deltas;
  StageRunner stages;
};

}  // namespace

StageSums& StageSums::operator+=(const StageSums& part) {
  add_each(before, part.before, "experts");
  add_each(after, part.after, "experts");
  return *this;
}

std::vector<StageSums> stage_sums(const Plan& plan, const std::vector<StageTask>& tasks,
                                  const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<StageSums> empty;
  for (const StageTask& task : tasks) {
    jobs.push_back(survey_of(plan, task.stretch, grain_of(task.stages, kChunk)));
    const ExactSums zeros(plan.n_experts(task.stretch.job));
    empty.push_back({zeros, zeros});
  }
  return run<Scratch>(
      plan.files, jobs, limits, progress, empty,
      [&](const Tile& tile, Scratch& scratch, StageSums& part) {
        const StageTask& task = tasks[tile.job];
        scratch.deltas.for_each_chunk(
            tile, plan.input_types[task.stretch.job],
            [&](const std::vector<float*>& rows, std::size_t at, std::size_t n) {
              for (std::size_t e = 0; e < rows.size(); ++e) {
                const StageRunner::Sums sums =
                    scratch.stages.sum(task.stages, e, rows[e], tile.first + at, n);
                part.before[e].add(sums.before);
                part.after[e].add(sums.after);
              }
            },
            chunk_elements(task.stages));
      });
}

}  // namespace tallies
