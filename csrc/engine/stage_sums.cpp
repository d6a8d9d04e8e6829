#include "engine/stage_sums.h"

#include "engine/parts.h"
#include "engine/pass.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
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
    jobs.push_back(survey_of(plan, task.slice, grain_of(task.stages, kChunk)));
    const ExactSums zeros(plan.n_experts(task.slice.job));
    empty.push_back({zeros, zeros});
  }
  return run<Scratch>(plan.files, jobs, limits, progress, empty,
                      [&](const Tile& tile, Scratch& scratch, StageSums& part) {
                        const StageTask& task = tasks[tile.job];
                        scratch.reader.for_each_rows(
                            tile, plan.sources[task.slice.job], As::deltas,
                            [&](const Rows& rows, std::size_t at, std::size_t n) {
                              for (std::size_t e = 0; e < rows.deltas.size(); ++e) {
                                const StageRunner::Sums sums = scratch.stages.sum(
                                    task.stages, e, rows.deltas[e], tile.first + at, n);
                                part.before[e].add(sums.before);
                                part.after[e].add(sums.after);
                              }
                            },
                            chunk_elements(task.stages));
                      });
}

}  // namespace tallies
