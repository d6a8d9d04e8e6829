#include "engine/columns.h"

#include "engine/pass.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct RowScratch {
  Reader reader;
  std::vector<double> room;
};

}  // namespace

std::vector<std::vector<double>> divergences(const Plan& plan, const std::vector<MatrixTask>& tasks,
                                             const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<std::size_t> chunks;
  std::vector<std::vector<double>> found;
  for (const MatrixTask& task : tasks) {
    const Stages rows{{}, task.columns};
    chunks.push_back(chunk_elements(rows));
    jobs.push_back(survey_of(plan, task.slice, grain_of(rows, kChunk)));
    found.emplace_back(task.slice.n_elements / task.columns);
  }
  // Every row is one tile's, so that no two threads write one number.
  for_each_tile<RowScratch>(
      plan.files, jobs, Tiling(jobs, limits), limits, progress,
      [&](const Tile& tile, RowScratch& scratch) {
        const MatrixTask& task = tasks[tile.job];
        const auto columns = static_cast<std::size_t>(task.columns);
        scratch.room.resize(2 * columns);
        scratch.reader.for_each_rows(
            tile, plan.sources[task.slice.job], As::float32,
            [&](const Rows& rows, std::size_t first, std::size_t n) {
              const auto* const base = static_cast<const float*>(rows.values[0]);
              const auto* const x = static_cast<const float*>(rows.values[1]);
              for (std::size_t at = 0; at < n; at += columns)
                found[tile.job][(tile.first + first + at - task.slice.first) / columns] =
                    kernels().divergence(x + at, base + at, columns, scratch.room.data());
            },
            chunks[tile.job]);
      });
  return found;
}

std::vector<std::vector<double>> column_products(const Plan& plan,
                                                 const std::vector<MatrixTask>& tasks, bool deltas,
                                                 const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<std::vector<double>> found;
  for (const MatrixTask& task : tasks) {
    jobs.push_back(survey_of(plan, task.slice, kChunk));
    const std::size_t n = plan.sources[task.slice.job].size() - deltas;
    found.emplace_back(task.columns * n * (n + 1) / 2);
  }
  for_each_tile<Reader>(
      plan.files, jobs, Tiling(jobs, limits), limits, progress,
      [&](const Tile& tile, Reader& reader) {
        const MatrixTask& task = tasks[tile.job];
        reader.for_each_rows(
            tile, plan.sources[task.slice.job], deltas ? As::deltas : As::float32,
            [&](const Rows& rows, std::size_t first, std::size_t n_read) {
              const std::size_t n = rows.values.size(), width = n * (n + 1) / 2;
              split_at_rows(tile.first + first, n_read, task.columns,
                            [&](std::uint64_t row, std::size_t at, std::size_t count) {
                              double* sums = found[tile.job].data() +
                                             (tile.first + first + at - row * task.columns) * width;
                              for (std::size_t e = at; e < at + count; ++e)
                                for (std::size_t i = 0; i < n; ++i)
                                  for (std::size_t j = 0; j <= i; ++j)
                                    *sums++ +=
                                        double{static_cast<const float*>(rows.values[i])[e]} *
                                        double{static_cast<const float*>(rows.values[j])[e]};
                            });
            });
      });
  return found;
}

}  // namespace tallies
