// What becomes of the float32 deltas of a chunk before they are blended.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "engine/row_ranks.h"
#include "engine/row_select.h"

namespace tallies {

// Elements of a chunk: whole rows where the stage needs them.
std::size_t chunk_elements(const JobRule&);

// A copy of the job's stretch that the rule is about, whose tiles start with chunks.
Job stretch_of(const Job&, const JobRule&);

// Elements of a tensor from which on the counter of the random numbers begins anew.
inline constexpr std::uint64_t kPeriod = std::uint64_t(1) << 32;

// The stages of one thread: room for what they find out about a row.
class Stages {
 public:
  // Changes n elements of one expert's delta in place, which start at element `first` of the job.
  void run(Stage, const StageRule&, std::size_t expert, std::uint64_t row_length, float* delta,
           std::uint64_t first, std::size_t n);

  // The same for the sums of their magnitudes; the delta may be changed or not.
  struct Sums {
    double before, after;
  };
  Sums sum(Stage, const StageRule&, std::size_t expert, std::uint64_t row_length, float* delta,
           std::uint64_t first, std::size_t n);

 private:
  // Where thresholds are looked for in the next row of an expert.
  struct Guesses {
    RowSelect::Guess outlier, kept;
  };
  void keep_rows(const StageRule&, Guesses&, float* row, std::size_t n);

  RowRanks ranks_;
  RowSelect select_;
  std::vector<Guesses> guesses_;
};

}  // namespace tallies
