// The pass that measures: inner products of the inputs, or of their differences from the base.
#pragma once

#include <map>
#include <string_view>
#include <tuple>

#include "engine/exact_sum.h"
#include "engine/plan.h"

namespace tallies {

// Inner products of each row of a slice, which begins at a chunk of its job.
struct GramTask {
  Slice slice;
  std::uint64_t row_length;  // divides the number of elements of the job
};

struct GramOptions {
  bool deltas;           // of the experts from the base, in place of the inputs
  bool with_magnitudes;  // sums of magnitudes as well
};

// The sums of some rows of a job: the products of vector i with the vectors up to i, for each i in
// turn, and then, if asked for, each vector's sum of magnitudes. Rows of two parts of a job
// add up.
struct GramRows {
  struct Run {
    std::uint64_t first_row;
    std::vector<double> sums;  // row by row
    static auto fields(auto& run) { return std::tie(run.first_row, run.sums); }
  };
  // A row of which a part is missing.
  struct OpenRow {
    std::uint64_t n_elements = 0;
    ExactSums sums;
    static auto fields(auto& row) { return std::tie(row.n_elements, row.sums); }
  };
  std::uint64_t row_length = 1;
  std::uint64_t n_sums = 0;  // per row
  std::vector<Run> runs;     // whole rows
  std::map<std::uint64_t, OpenRow> open;

  static constexpr std::string_view kMark = "tallies gram 1\n";
  static auto fields(auto& rows) {
    return std::tie(rows.row_length, rows.n_sums, rows.runs, rows.open);
  }
  GramRows& operator+=(const GramRows&);
  bool is_valid() const;
  // Adds a row's sums over n_elements of it.
  void add(std::uint64_t row, std::uint64_t n_elements, const std::vector<double>& sums);
  // Returns the sums of all rows from the first on, row by row. Error where one is missing.
  std::vector<double> table() const;

 private:
  template <class Sums>
  void add_to_row(std::uint64_t row, std::uint64_t n_elements, const Sums&);
  void add_row(std::uint64_t row, const std::vector<double>& sums);
};

// Stretches of a sum end where a row does and at every kChunk-th element of the job; within one,
// sums run in eight lanes, and the sums of stretches are added without rounding.
std::vector<GramRows> gram(const Plan&, const std::vector<GramTask>&, const GramOptions&,
                           const Limits&, const Progress&);

}  // namespace tallies
