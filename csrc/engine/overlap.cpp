#include "engine/overlap.h"

#include <numeric>

#include "engine/parts.h"
#include "engine/pass.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  std::vector<float> variance;
  std::vector<std::int32_t> floors;
};

// Calls body(index, deltas, first, n, scratch, part) for chunks of these slices, with their
// deltas in float32, which may be changed. Returns the parts.
template <class Part, class Body>
std::vector<Part> for_each_chunk(const Plan& plan, const std::vector<Slice>& slices,
                                 const std::vector<Part>& empty, const Limits& limits,
                                 const Progress& progress, const Body& body) {
  std::vector<Job> jobs;
  for (const Slice& slice : slices) jobs.push_back(survey_of(plan, slice, kChunk));
  return run<Scratch>(plan.files, jobs, limits, progress, empty,
                      [&](const Tile& tile, Scratch& scratch, Part& part) {
                        scratch.reader.for_each_rows(
                            tile, plan.sources[slices[tile.job].job], As::deltas,
                            [&](const Rows& rows, std::size_t at, std::size_t n) {
                              body(tile.job, rows.deltas, tile.first + at, n, scratch, part);
                            });
                      });
}

// Sets to zero, of the chunk from element `first` on, what does not pass.
void keep_by_variance(const VarianceTask& task, std::span<float* const> deltas, std::uint64_t first,
                      std::size_t n, Scratch& scratch) {
  scratch.variance.resize(kChunk);
  float* const variance = scratch.variance.data();
  kernels().variance(deltas.data(), static_cast<int>(deltas.size()), variance, n);
  split_at_cutoffs(first, n, {task.floor}, {task.cutoff}, scratch.floors,
                   [&](std::size_t at, std::size_t count) {
                     for (float* const x : deltas)
                       kernels().keep_where(variance + at, scratch.floors[0], x + at, count);
                   });
}

double sum_of_squares(const float* x, std::size_t n) {
  double lanes[8] = {};
  kernels().dot(x, x, n, lanes);
  return std::accumulate(lanes, lanes + 8, 0.0);
}

}  // namespace

Overlap& Overlap::operator+=(const Overlap& part) {
  add_each(alone, part.alone, "experts");
  add_each(shared, part.shared, "experts");
  return *this;
}

SquareSums& SquareSums::operator+=(const SquareSums& part) {
  add_each(sums, part.sums, "experts");
  return *this;
}

std::vector<Overlap> count_overlap(const Plan& plan, const std::vector<Slice>& slices,
                                   std::int32_t floor, const Limits& limits,
                                   const Progress& progress) {
  std::vector<Overlap> empty;
  for (const Slice& slice : slices) {
    const std::vector<std::uint64_t> zeros(plan.n_experts(slice.job));
    empty.push_back({zeros, zeros});
  }
  return for_each_chunk(plan, slices, empty, limits, progress,
                        [&](std::size_t, std::span<float* const> deltas, std::uint64_t,
                            std::size_t n, const Scratch&, Overlap& part) {
                          kernels().count_overlap(deltas.data(), floor,
                                                  static_cast<int>(deltas.size()), n,
                                                  part.alone.data(), part.shared.data());
                        });
}

std::vector<SquareSums> sum_squares(const Plan& plan, const std::vector<VarianceTask>& tasks,
                                    const Limits& limits, const Progress& progress) {
  std::vector<Slice> slices;
  std::vector<SquareSums> empty;
  for (const VarianceTask& task : tasks) {
    slices.push_back(task.slice);
    empty.push_back({ExactSums(plan.n_experts(task.slice.job))});
  }
  return for_each_chunk(plan, slices, empty, limits, progress,
                        [&](std::size_t index, std::span<float* const> deltas, std::uint64_t first,
                            std::size_t n, Scratch& scratch, SquareSums& part) {
                          if (tasks[index].floor >= 0)
                            keep_by_variance(tasks[index], deltas, first, n, scratch);
                          for (std::size_t e = 0; e < deltas.size(); ++e)
                            part.sums[e].add(sum_of_squares(deltas[e], n));
                        });
}

}  // namespace tallies
