#include "engine/gram.h"

#include <algorithm>
#include <numeric>

#include "engine/pass.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  std::vector<const float*> rows;
  std::vector<double> sums;
};

// The sums of n elements of all rows.
void measure(const std::vector<const float*>& rows, std::size_t n, bool with_magnitudes,
             std::vector<double>& sums) {
  sums.clear();
  for (std::size_t i = 0; i < rows.size(); ++i) {
    for (std::size_t j = 0; j <= i; j += kRowsTogether) {
      const int n_rows = static_cast<int>(std::min<std::size_t>(i + 1 - j, kRowsTogether));
      double lanes[kRowsTogether][8];
      kernels().dots(rows[i], rows.data() + j, n_rows, n, lanes);
      for (int row = 0; row < n_rows; ++row)
        sums.push_back(std::accumulate(lanes[row], lanes[row] + 8, 0.0));
    }
  }
  if (!with_magnitudes) return;
  for (const float* row : rows) sums.push_back(sum_magnitudes(row, n));
}

}  // namespace

void GramRows::add_row(std::uint64_t row, const std::vector<double>& sums) {
  const bool follows =
      !runs.empty() && runs.back().first_row + runs.back().sums.size() / n_sums == row;
  if (!follows) runs.push_back({row, {}});
  runs.back().sums.insert(runs.back().sums.end(), sums.begin(), sums.end());
}

// Adds the sums over n_elements of a row, which become final when the row is whole.
template <class Sums>
void GramRows::add_to_row(std::uint64_t row, std::uint64_t n_elements, const Sums& sums) {
  OpenRow& whole = open[row];
  whole.sums.resize(n_sums);
  for (std::size_t i = 0; i < n_sums; ++i) whole.sums[i] += sums[i];
  whole.n_elements += n_elements;
  if (whole.n_elements < row_length) return;
  add_row(row, values(whole.sums));
  open.erase(row);
}

void GramRows::add(std::uint64_t row, std::uint64_t n_elements, const std::vector<double>& sums) {
  if (n_elements == row_length)
    add_row(row, sums);
  else
    add_to_row(row, n_elements, sums);
}

GramRows& GramRows::operator+=(const GramRows& part) {
  if (part.row_length != row_length || part.n_sums != n_sums)
    throw Error(Error::Kind::request,
                "inner products to add have other rows or vectors, expected parts "
                "of one tensor");
  runs.insert(runs.end(), part.runs.begin(), part.runs.end());
  for (const auto& [row, sum] : part.open) add_to_row(row, sum.n_elements, sum.sums);
  return *this;
}

bool GramRows::is_valid() const {
  if (row_length == 0 || n_sums == 0) return false;
  return std::ranges::all_of(runs, [&](const Run& run) { return run.sums.size() % n_sums == 0; }) &&
         std::ranges::all_of(open, [&](const auto& row) {
           return row.second.sums.size() == n_sums && row.second.n_elements < row_length;
         });
}

std::vector<double> GramRows::table() const {
  std::vector<const Run*> order;
  for (const Run& run : runs) order.push_back(&run);
  std::ranges::sort(order, {}, &Run::first_row);
  std::vector<double> table;
  for (const Run* const run : order) {
    if (run->first_row * n_sums != table.size())
      throw Error(Error::Kind::request,
                  "inner products of row " + std::to_string(table.size() / n_sums) +
                      " are missing or there twice; add all parts of the tensor once");
    table.insert(table.end(), run->sums.begin(), run->sums.end());
  }
  if (!open.empty())
    throw Error(Error::Kind::request, "inner products of row " +
                                          std::to_string(open.begin()->first) +
                                          " are incomplete; add all parts of the tensor");
  return table;
}

std::vector<GramRows> gram(const Plan& plan, const std::vector<GramTask>& tasks,
                           const GramOptions& options, const Limits& limits,
                           const Progress& progress) {
  std::vector<Job> jobs;
  std::vector<GramRows> empty;
  for (const GramTask& task : tasks) {
    jobs.push_back(survey_of(plan, task.slice, kChunk));
    const std::size_t n = plan.sources[task.slice.job].size() - options.deltas;
    empty.push_back({task.row_length, n * (n + 1) / 2 + (options.with_magnitudes ? n : 0), {}, {}});
  }
  return run<Scratch>(
      plan.files, jobs, limits, progress, empty,
      [&](const Tile& tile, Scratch& scratch, GramRows& part) {
        scratch.reader.for_each_rows(
            tile, plan.sources[tasks[tile.job].slice.job],
            options.deltas ? As::deltas : As::float32,
            [&](const Rows& read, std::size_t first, std::size_t n_read) {
              split_at_rows(tile.first + first, n_read, part.row_length,
                            [&](std::uint64_t row, std::size_t at, std::size_t n) {
                              scratch.rows.clear();
                              for (const void* const vector : read.values)
                                scratch.rows.push_back(static_cast<const float*>(vector) + at);
                              measure(scratch.rows, n, options.with_magnitudes, scratch.sums);
                              part.add(row, n, scratch.sums);
                            });
            });
      });
}

}  // namespace tallies
