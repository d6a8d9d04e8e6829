// A product of two small factors added to a matrix in memory, in memory that does not depend on the
// size of the matrix.
#pragma once

#include "core/array.h"

namespace tallies {

// out = base + scale * left @ right, rounded once to the type of the base. Rows of left have `rank`
// elements, at least one, and rows of all others n_columns.
struct LowRankSum {
  View base, left, right;
  std::size_t n_rows, rank, n_columns;
  float scale;
  void* out;
};

void low_rank_sum(const LowRankSum&, int n_threads);

}  // namespace tallies
