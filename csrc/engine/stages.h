// What becomes of the float32 deltas of a chunk before they are blended.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"

namespace tallies {

// Elements of a chunk: whole rows where the stage needs them.
std::size_t chunk_elements(const JobRule&);

// A copy of the job's stretch that the rule is about, whose tiles start with chunks.
Job stretch_of(const Job&, const JobRule&);

// The stages of one thread: room for what they find out about a row.
class Stages {
 public:
  // Changes n elements of one expert's delta in place, which start at element `first` of the job.
  void run(Stage, const StageRule&, std::uint64_t row_length, float* delta, std::uint64_t first,
           std::size_t n);

 private:
  // The magnitude of one rank in a row of any length, found in the row before it.
  struct Guess {
    std::int32_t bits = -1, reach = 1 << 20;
  };
  struct Rank {
    std::int32_t bits;
    std::size_t n_above, n_equal;
  };
  Rank select(const float* row, std::size_t n, std::size_t rank, Guess&);
  void keep_rows(const StageRule&, float* row, std::size_t n);
  const std::int32_t* rank(const float* row, std::size_t n);

  std::vector<std::uint32_t> patterns_, bins_;
  std::vector<std::uint64_t> sorted_;
  std::vector<std::int32_t> bin_of_, ranks_;
  Guess outlier_, kept_;
};

}  // namespace tallies
