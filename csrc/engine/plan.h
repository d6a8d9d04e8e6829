// A plan: what the passes read and write, in plain numbers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "core/dtype.h"
#include "stream/stream.h"

namespace tallies {

// The pattern that every NaN ranks as, just above infinity.
constexpr std::int32_t kTop = 0x7f800001;

// Inputs of every job are the base, if the plan has one, and then the experts.
struct Plan {
  Files files;
  std::vector<Job> jobs;
  std::vector<std::vector<DType>> input_types;  // per job
  std::vector<DType> output_types;              // per job
  bool has_base = true;

  std::size_t n_experts(std::size_t job) const { return jobs[job].inputs.size() - has_base; }
};

// Consecutive elements of a job, from a multiple of the grain on.
struct Stretch {
  std::size_t job = 0;
  std::uint64_t first = 0;
  std::uint64_t n_elements = 0;
};

// The job of a pass that reads and writes a stretch.
inline Job job_of(const Plan& plan, const Stretch& stretch) {
  Job job = plan.jobs[stretch.job];
  job.first = stretch.first;
  job.n_elements = stretch.n_elements;
  return job;
}

// The job of a pass that only reads a stretch.
inline Job survey_of(const Plan& plan, const Stretch& stretch, std::size_t grain = kGrain) {
  Job job = job_of(plan, stretch);
  job.outputs.clear();
  job.grain = grain;
  return job;
}

}  // namespace tallies
