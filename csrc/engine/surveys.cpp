#include "engine/surveys.h"

#include <algorithm>

#include "engine/pass.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  StageRunner stages;
  std::vector<float*> deltas;
  std::vector<std::int32_t> floors;
};

// A slice, and how many of its elements are read at once.
struct ChunkedSlice {
  Slice slice;
  std::size_t chunk = kChunk;
};

// Calls body(index, deltas, first, n, scratch, part) for chunks of each slice, with their deltas in
// float32, which may be changed; `first` is an element of the job. Returns the parts, which begin
// as empty(number of experts).
template <class Empty, class Body>
auto survey(const Plan& plan, const std::vector<ChunkedSlice>& slices, const Empty& empty,
            const Limits& limits, const Progress& progress, const Body& body) {
  std::vector<Job> jobs;
  std::vector<decltype(empty(0))> parts;
  for (const auto& [slice, chunk] : slices) {
    jobs.push_back(survey_of(plan, slice, chunk));
    parts.push_back(empty(plan.n_experts(slice.job)));
  }
  return run<Scratch>(plan.files, jobs, limits, progress, parts,
                      [&](const Tile& tile, Scratch& scratch, auto& part) {
                        const auto& [slice, chunk] = slices[tile.job];
                        scratch.reader.for_each_rows(
                            tile, plan.sources[slice.job], As::deltas,
                            [&](const Rows& rows, std::size_t at, std::size_t n) {
                              body(tile.job, rows.deltas, tile.first + at, n, scratch, part);
                            },
                            chunk);
                      });
}

// Sets the entries of elements whose variance fails to zero, in the chunk from element `first` on.
void keep_by_variance(const VarianceTask& task, std::span<float* const> deltas, std::uint64_t first,
                      std::size_t n, Scratch& scratch) {
  scratch.deltas.resize(deltas.size());
  split_at_cutoffs(first, n, {&task.floor, 1}, {&task.cutoff, 1}, scratch.floors,
                   [&](std::size_t at, std::size_t count) {
                     for (std::size_t e = 0; e < deltas.size(); ++e)
                       scratch.deltas[e] = deltas[e] + at;
                     kernels().keep_varied(scratch.deltas.data(), static_cast<int>(deltas.size()),
                                           scratch.floors[0], count);
                   });
}

}  // namespace

std::vector<Overlap> count_overlap(const Plan& plan, const std::vector<Slice>& slices,
                                   std::int32_t floor, const Limits& limits,
                                   const Progress& progress) {
  const auto empty = [](std::size_t n_experts) {
    const std::vector<std::uint64_t> zeros(n_experts);
    return Overlap{zeros, zeros};
  };
  return survey(plan, {slices.begin(), slices.end()}, empty, limits, progress,
                [&](std::size_t, std::span<float* const> deltas, std::uint64_t, std::size_t n,
                    const Scratch&, Overlap& part) {
                  kernels().count_overlap(deltas.data(), floor, static_cast<int>(deltas.size()), n,
                                          part.alone.data(), part.shared.data());
                });
}

std::vector<SquareSums> sum_squares(const Plan& plan, const std::vector<VarianceTask>& tasks,
                                    const Limits& limits, const Progress& progress) {
  std::vector<ChunkedSlice> slices;
  for (const VarianceTask& task : tasks) slices.push_back({task.slice});
  const auto empty = [](std::size_t n_experts) { return SquareSums{ExactSums(n_experts)}; };
  return survey(plan, slices, empty, limits, progress,
                [&](std::size_t index, std::span<float* const> deltas, std::uint64_t first,
                    std::size_t n, Scratch& scratch, SquareSums& part) {
                  if (tasks[index].floor >= 0)
                    keep_by_variance(tasks[index], deltas, first, n, scratch);
                  for (std::size_t e = 0; e < deltas.size(); ++e)
                    part.sums[e] += eight_lanes(
                        [&](double lanes[8]) { kernels().dot(deltas[e], deltas[e], n, lanes); });
                });
}

std::vector<StageSums> stage_sums(const Plan& plan, const std::vector<StageTask>& tasks,
                                  const Limits& limits, const Progress& progress) {
  std::vector<ChunkedSlice> slices;
  for (const StageTask& task : tasks) slices.push_back({task.slice, chunk_elements(task.stages)});
  const auto empty = [](std::size_t n_experts) {
    const ExactSums zeros(n_experts);
    return StageSums{zeros, zeros};
  };
  return survey(plan, slices, empty, limits, progress,
                [&](std::size_t index, std::span<float* const> deltas, std::uint64_t first,
                    std::size_t n, Scratch& scratch, StageSums& part) {
                  for (std::size_t e = 0; e < deltas.size(); ++e) {
                    const StageRunner::Sums sums =
                        scratch.stages.sum(tasks[index].stages, e, deltas[e], first, n);
                    part.before[e] += sums.before;
                    part.after[e] += sums.after;
                  }
                });
}

NonFinite& NonFinite::operator+=(const NonFinite& part) {
  if (part.count == 0) return *this;
  first = count == 0 ? part.first : std::min(first, part.first);
  count += part.count;
  return *this;
}

NonFinite find_nonfinite(const Plan& plan, std::size_t job, std::size_t input, const Limits& limits,
                         const Progress& progress) {
  Job one = survey_of(plan, {job, 0, plan.jobs[job].n_elements});
  const std::vector<Source> source = only(one, std::span(plan.sources[job]).subspan(input, 1));
  return run<Reader>(
      plan.files, {one}, limits, progress, std::vector<NonFinite>(1),
      [&](const Tile& tile, Reader& reader, NonFinite& part) {
        reader.for_each_rows(
            tile, source, As::float32, [&](const Rows& rows, std::size_t at, std::size_t n) {
              const NonFiniteMask mask(static_cast<const float*>(rows.values[0]), n);
              for_each_set(mask, n, [&](std::size_t i) { part += {1, tile.first + at + i}; });
            });
      })[0];
}

std::vector<Lanes> fingerprints(const Plan& plan, const Limits& limits, const Progress& progress) {
  struct NoScratch {};
  return run<NoScratch>(
      plan.files, plan.jobs, limits, progress, std::vector<Lanes>(plan.jobs.size()),
      [&](const Tile& tile, NoScratch&, Lanes& part) {
        part = fingerprint(tile.in[0], plan.jobs[tile.job].inputs[0], tile.first, tile.n);
      });
}

}  // namespace tallies
