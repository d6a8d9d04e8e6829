// Surveys that look at all experts of an element: who changed it alone, and how large the changes
// are where the experts differ.

#include <algorithm>
#include <mutex>
#include <numeric>

#include "engine/engine.h"
#include "engine/exact_sum.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Deltas chunks;
  std::vector<float> variance;
  std::vector<std::int32_t> floors;
};

// Calls body(index, deltas, first, n, scratch) for chunks of these jobs, with their deltas in
// float32, which may be changed; tiles start at chunks. False if stopped.
template <class Body>
bool for_each_chunk(const Plan& plan, const std::vector<std::size_t>& numbers, const Limits& limits,
                    const Progress& progress, const Body& body) {
  std::vector<Job> jobs;
  for (const std::size_t number : numbers) {
    jobs.push_back(plan.jobs[number]);
    jobs.back().outputs.clear();
    jobs.back().grain = kChunk;
  }
  std::vector<Scratch> scratches(static_cast<std::size_t>(limits.n_threads));
  return stream(
      plan.files, jobs, Tiling(jobs, limits), limits,
      [&](const Tile& tile) {
        Scratch& scratch = scratches[static_cast<std::size_t>(tile.worker)];
        scratch.chunks.for_each_chunk(
            tile, plan.input_types[numbers[tile.job]],
            [&](const std::vector<float*>& deltas, std::size_t first, std::size_t n) {
              body(tile.job, deltas, tile.first + first, n, scratch);
            });
      },
      progress);
}

// Sets to zero, of the chunk from element `first` on, what does not stay.
void keep_by_variance(const JobRule& rule, const std::vector<float*>& deltas, std::uint64_t first,
                      std::size_t n, Scratch& scratch) {
  scratch.variance.resize(kChunk);
  float* const variance = scratch.variance.data();
  kernels().variance(deltas.data(), static_cast<int>(deltas.size()), variance, n);
  split_at_cutoffs(first, n, rule.floors, rule.cutoffs, scratch.floors,
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

std::vector<Overlap> count_overlap(const Plan& plan, const std::vector<std::size_t>& jobs,
                                   std::int32_t floor, const Limits& limits,
                                   const Progress& progress) {
  std::vector<Overlap> found;
  for (const std::size_t job : jobs) {
    const std::size_t n_experts = plan.n_experts(job);
    found.push_back({std::vector<std::uint64_t>(n_experts), std::vector<std::uint64_t>(n_experts)});
  }
  std::mutex mutex;
  for_each_chunk(plan, jobs, limits, progress,
                 [&](std::size_t job, const std::vector<float*>& deltas, std::uint64_t,
                     std::size_t n, const Scratch&) {
                   const std::size_t n_experts = deltas.size();
                   std::uint64_t counts[2 * kMaxExperts] = {};
                   std::uint64_t* const shared = counts + n_experts;
                   kernels().count_overlap(deltas.data(), floor, static_cast<int>(n_experts), n,
                                           counts, shared);
                   const std::lock_guard lock(mutex);
                   for (std::size_t e = 0; e < n_experts; ++e) {
                     found[job].alone[e] += counts[e];
                     found[job].shared[e] += shared[e];
                   }
                 });
  return found;
}

std::vector<std::vector<double>> sum_squares(const Plan& plan, const std::vector<JobRule>& rules,
                                             const Limits& limits, const Progress& progress) {
  std::vector<std::size_t> jobs;
  std::vector<std::vector<ExactSum>> sums;
  for (const JobRule& rule : rules) {
    jobs.push_back(rule.job);
    sums.emplace_back(plan.n_experts(rule.job));
  }
  std::mutex mutex;
  for_each_chunk(plan, jobs, limits, progress,
                 [&](std::size_t job, const std::vector<float*>& deltas, std::uint64_t first,
                     std::size_t n, Scratch& scratch) {
                   const JobRule& rule = rules[job];
                   const bool keeps_all = rule.floors[0] < 0;
                   if (!keeps_all) keep_by_variance(rule, deltas, first, n, scratch);
                   std::vector<double> parts;
                   for (const float* x : deltas) parts.push_back(sum_of_squares(x, n));
                   const std::lock_guard lock(mutex);
                   for (std::size_t e = 0; e < parts.size(); ++e) sums[job][e].add(parts[e]);
                 });
  std::vector<std::vector<double>> found;
  for (const auto& row : sums) {
    auto& values = found.emplace_back();
    for (const ExactSum& sum : row) values.push_back(sum.value());
  }
  return found;
}

}  // namespace tallies
