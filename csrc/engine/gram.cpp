// The pass that measures: inner products of the inputs, or of their differences from the base.

#include <algorithm>
#include <map>
#include <mutex>

#include "engine/engine.h"
#include "engine/exact_sum.h"
#include "engine/views.h"

namespace tallies {
namespace {

// Of a row that several tiles share.
struct OpenRow {
  std::uint64_t n_elements = 0;
  std::vector<ExactSum> sums;
};

struct Scratch {
  Widened widened;
  Deltas deltas;
  std::vector<const float*> rows;
  std::vector<double> part;
  std::vector<ExactSum> sums;
};

class Gram {
 public:
  Gram(const Plan& plan, const std::vector<GramRule>& rules, const GramOptions& options,
       const Limits& limits)
      : plan_(plan), rules_(rules), options_(options) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    open_.resize(rules.size());
    for (const GramRule& rule : rules) {
      Job& job = jobs_.emplace_back(plan.jobs[rule.job]);
      job.outputs.clear();
      job.grain = kChunk;
      results_.emplace_back(job.n_elements / rule.row_length * n_sums(rule));
    }
  }

  const std::vector<Job>& jobs() const { return jobs_; }

  void transform(const Tile& tile) {
    const GramRule& rule = rules_[tile.job];
    Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
    const std::size_t n_rows = n_vectors(rule);
    scratch.part.resize(n_sums(rule));
    scratch.sums.assign(n_sums(rule), {});
    std::uint64_t begin = tile.first;  // of what scratch.sums holds
    scratch.rows.resize(n_rows);
    const auto measure_chunk = [&](const auto& vectors, std::size_t at, std::size_t n) {
      for (std::uint64_t first = tile.first + at, end = first + n; first < end;) {
        const std::uint64_t row_end = (first / rule.row_length + 1) * rule.row_length;
        const std::uint64_t to = std::min(end, row_end);
        for (std::size_t i = 0; i < n_rows; ++i)
          scratch.rows[i] = static_cast<const float*>(vectors[i]) + (first - tile.first - at);
        measure(scratch, static_cast<std::size_t>(to - first));
        if (to == row_end && to - first == rule.row_length) {
          std::ranges::copy(scratch.part, result(tile.job, first));
        } else {
          for (std::size_t i = 0; i < scratch.part.size(); ++i)
            scratch.sums[i].add(scratch.part[i]);
          if (to == row_end) finish(tile.job, begin, to, scratch);
        }
        if (to == row_end) begin = to;
        first = to;
      }
    };
    const std::vector<DType>& types = plan_.input_types[rule.job];
    if (options_.deltas)
      scratch.deltas.for_each_chunk(tile, types, measure_chunk);
    else
      scratch.widened.for_each_chunk(tile, types, measure_chunk);
    if (begin < tile.first + tile.n) finish(tile.job, begin, tile.first + tile.n, scratch);
  }

  std::vector<std::vector<double>> take_results() { return std::move(results_); }

 private:
  std::size_t n_vectors(const GramRule& rule) const {
    return plan_.jobs[rule.job].inputs.size() - options_.deltas;
  }
  std::size_t n_sums(const GramRule& rule) const {
    const std::size_t n = n_vectors(rule);
    return n * (n + 1) / 2 + (options_.with_magnitudes ? n : 0);
  }
  double* result(std::size_t job, std::uint64_t element) {
    return results_[job].data() + element / rules_[job].row_length * n_sums(rules_[job]);
  }

  // The products of n elements of all rows, into scratch.part.
  void measure(Scratch& scratch, std::size_t n) const {
    double* to = scratch.part.data();
    for (std::size_t i = 0; i < scratch.rows.size(); ++i) {
      for (std::size_t j = 0; j <= i; j += kRowsTogether) {
        const int n_rows = static_cast<int>(std::min<std::size_t>(i + 1 - j, kRowsTogether));
        double lanes[kRowsTogether][8];
        kernels().dots(scratch.rows[i], scratch.rows.data() + j, n_rows, n, lanes);
        for (int row = 0; row < n_rows; ++row)
          *to++ = std::accumulate(lanes[row], lanes[row] + 8, 0.0);
      }
    }
    if (!options_.with_magnitudes) return;
    for (const float* row : scratch.rows) *to++ = sum_magnitudes(row, n);
  }

  // Takes what a tile found of the row from `first` to `end`, and starts anew.
  void finish(std::size_t job, std::uint64_t first, std::uint64_t end, Scratch& scratch) {
    const std::uint64_t row_length = rules_[job].row_length;
    if (end - first == row_length) {
      read(scratch.sums, result(job, first));
    } else {
      const std::lock_guard lock(mutex_);
      OpenRow& row = open_[job][first / row_length];
      row.sums.resize(scratch.sums.size());
      for (std::size_t i = 0; i < row.sums.size(); ++i) row.sums[i].add(scratch.sums[i]);
      row.n_elements += end - first;
      if (row.n_elements == row_length) {
        read(row.sums, result(job, first));
        open_[job].erase(first / row_length);
      }
    }
    scratch.sums.assign(scratch.sums.size(), {});
  }

  static void read(const std::vector<ExactSum>& sums, double* out) {
    for (const ExactSum& sum : sums) *out++ = sum.value();
  }

  const Plan& plan_;
  const std::vector<GramRule>& rules_;
  const GramOptions& options_;
  std::vector<Job> jobs_;
  std::vector<Scratch> scratch_;
  std::mutex mutex_;
  std::vector<std::map<std::uint64_t, OpenRow>> open_;
  std::vector<std::vector<double>> results_;
};

}  // namespace

std::vector<std::vector<double>> gram(const Plan& plan, const std::vector<GramRule>& rules,
                                      const GramOptions& options, const Limits& limits,
                                      const Progress& progress) {
  Gram pass(plan, rules, options, limits);
  stream(
      plan.files, pass.jobs(), Tiling(pass.jobs(), limits), limits,
      [&](const Tile& tile) { pass.transform(tile); }, progress);
  return pass.take_results();
}

}  // namespace tallies
