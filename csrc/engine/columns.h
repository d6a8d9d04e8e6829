// Passes over matrices whose rows or columns are vectors by themselves.
#pragma once

#include "engine/plan.h"

namespace tallies {

// A job in which every `columns` elements are a row.
struct MatrixTask {
  Slice slice;
  std::uint64_t columns;  // divides the number of elements
};

// Returns, for each task and row, the divergence of the expert's softmax from the base's, each
// raised by 1e-8: the sum of p log(p / q), and zero where rounding makes it negative. Plans have a
// base and one expert.
std::vector<std::vector<double>> divergences(const Plan&, const std::vector<MatrixTask>&,
                                             const Limits&, const Progress&);

// Returns, for each task, the inner products of each column as `gram` has them of each row. Sums
// run from row to row, so the limits have one thread.
std::vector<std::vector<double>> column_products(const Plan&, const std::vector<MatrixTask>&,
                                                 bool deltas, const Limits&, const Progress&);

}  // namespace tallies
