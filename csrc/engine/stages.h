// Runs stages: each changes the float32 deltas of a chunk before they are blended.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/row_ranks.h"
#include "engine/row_select.h"
#include "engine/tasks.h"

namespace tallies {

// Elements of a chunk: whole rows where the stages need them.
std::size_t chunk_elements(const Stages&);

// Returns a grain for tiles: whole chunks where the stages need rows, else `least`.
std::size_t grain_of(const Stages&, std::size_t least);

// Elements of a tensor from which on the counter of the random numbers begins anew.
inline constexpr std::uint64_t kPeriod = std::uint64_t(1) << 32;

// Runs the stages of one thread, and remembers thresholds from row to row.
class StageRunner {
 public:
  // Changes n elements of one expert's delta in place, which start at element `first` of the job.
  void run(const Stages&, std::size_t expert, float* delta, std::uint64_t first, std::size_t n);

  // The same for the sums of their magnitudes; the delta may be changed or not.
  struct Sums {
    double before, after;
  };
  Sums sum(const Stages&, std::size_t expert, float* delta, std::uint64_t first, std::size_t n);

 private:
  // Guesses of the thresholds of the next row of an expert.
  struct Guesses {
    RowSelect::Guess outlier, kept;
  };
  void drop_by_rank(const DropByRank&, float* row, std::uint64_t first, std::size_t n);
  void keep_band(const Band&, float* delta, std::uint64_t first, std::size_t n);
  void keep_row_band(const RowBand&, Guesses&, float* row, std::size_t n);
  void weigh(const Weighed&, float* delta, std::uint64_t first, std::size_t n);

  RowRanks ranks_;
  std::vector<std::int32_t> ends_;  // of a band, for the elements in hand
  std::vector<float> products_;
  RowSelect select_;
  std::vector<Guesses> guesses_;
};

}  // namespace tallies
