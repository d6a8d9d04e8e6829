// A plan: the arrays that passes read and write, in plain numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <numeric>
#include <vector>

#include "core/magnitude.h"
#include "engine/source.h"
#include "stream/held.h"
#include "stream/stream.h"

namespace tallies {

// Sources of every job are the base, if the plan has one, and then the experts.
struct Plan {
  Files files;
  std::vector<Job> jobs;
  std::vector<std::vector<Source>> sources;  // per job
  std::vector<DType> output_types;           // per job
  std::vector<Starts> starts;                // to which sparse arrays of the jobs point
  HeldArrays held;                           // what passes leave to those after them
  bool has_base = true;

  std::size_t n_experts(std::size_t job) const { return sources[job].size() - has_base; }
};

// Consecutive elements of a job, from a multiple of the grain on.
struct Slice {
  std::size_t job = 0;
  std::uint64_t first = 0;
  std::uint64_t n_elements = 0;
};

// The job of a pass that reads and writes a slice.
inline Job job_of(const Plan& plan, const Slice& slice) {
  Job job = plan.jobs[slice.job];
  job.first = slice.first;
  job.n_elements = slice.n_elements;
  return job;
}

// The job of a pass that only reads a slice.
inline Job survey_of(const Plan& plan, const Slice& slice, std::size_t grain = kGrain) {
  Job job = job_of(plan, slice);
  job.outputs.clear();
  job.grain = std::lcm(job.grain, grain);
  return job;
}

}  // namespace tallies
