#include "engine/stages.h"

#include <algorithm>
#include <numeric>

#include "engine/views.h"

namespace tallies {

std::size_t chunk_elements(const Stages& stages) {
  if (stages.row_length == 0) return kChunk;
  const std::uint64_t n_rows = std::max<std::uint64_t>(kChunk / stages.row_length, 1);
  return static_cast<std::size_t>(n_rows * stages.row_length);
}

std::size_t grain_of(const Stages& stages, std::size_t least) {
  return stages.row_length == 0 ? least : std::lcm(chunk_elements(stages), kGrain);
}

void StageRunner::run(const Stages& stages, std::size_t expert, float* delta, std::uint64_t first,
                      std::size_t n) {
  const Stage& stage = stages.stages[expert];
  const auto length = static_cast<std::size_t>(stages.row_length);
  if (const auto* const draw = std::get_if<Draw>(&stage)) {
    split_at_rows(first, n, kPeriod, [&](std::uint64_t, std::size_t at, std::size_t part) {
      kernels().drop({delta + at, part, *draw, first + at});
    });
  } else if (const auto* const drop = std::get_if<DropByRank>(&stage)) {
    for (std::size_t row = 0; row < n; row += length)
      drop_by_rank(*drop, delta + row, first + row, length);
  } else if (const auto* const band = std::get_if<Band>(&stage)) {
    keep_band(*band, delta, first, n);
  } else if (const auto* const row_band = std::get_if<RowBand>(&stage)) {
    guesses_.resize(std::max(guesses_.size(), expert + 1));
    for (std::size_t row = 0; row < n; row += length)
      keep_row_band(*row_band, guesses_[expert], delta + row, length);
  } else if (const auto* const weighed = std::get_if<Weighed>(&stage)) {
    weigh(*weighed, delta, first, n);
  }
}

StageRunner::Sums StageRunner::sum(const Stages& stages, std::size_t expert, float* delta,
                                   std::uint64_t first, std::size_t n) {
  const auto* const draw = std::get_if<Draw>(&stages.stages[expert]);
  if (draw == nullptr) {
    const double before = sum_magnitudes(delta, n);
    run(stages, expert, delta, first, n);
    return {before, sum_magnitudes(delta, n)};
  }
  double before[8] = {}, after[8] = {};
  split_at_rows(first, n, kPeriod, [&](std::uint64_t, std::size_t at, std::size_t part) {
    kernels().sum_drawn({delta + at, part, *draw, first + at}, before, after);
  });
  return {std::accumulate(before, before + 8, 0.0), std::accumulate(after, after + 8, 0.0)};
}

void StageRunner::drop_by_rank(const DropByRank& rule, float* row, std::uint64_t first,
                               std::size_t n) {
  const std::int32_t* const ranks = ranks_.of(row, n);
  split_at_rows(first, n, kPeriod, [&](std::uint64_t, std::size_t at, std::size_t part) {
    kernels().drop_by_rank({row + at, ranks + at, part, rule.key, first + at, rule.low, rule.step,
                            rule.own_factor, rule.factor});
  });
}

void StageRunner::keep_band(const Band& rule, float* delta, std::uint64_t first, std::size_t n) {
  const std::int32_t ends[] = {rule.floor, rule.ceiling};
  const std::uint64_t cutoffs[] = {rule.floor_cutoff, rule.ceiling_cutoff};
  split_at_cutoffs(first, n, ends, cutoffs, ends_, [&](std::size_t at, std::size_t part) {
    kernels().keep_band(delta + at, part, ends_[0], ends_[1], rule.factor);
  });
}

void StageRunner::keep_row_band(const RowBand& rule, Guesses& guesses, float* row, std::size_t n) {
  // Entries equal to a threshold pass lowest index first, from the largest magnitude down.
  Band band{kTop, kTop, n, n, rule.factor};
  const auto n_outliers = static_cast<std::size_t>(rule.n_outliers);
  const auto last = static_cast<std::size_t>(rule.n_outliers + rule.n_kept);
  if (n_outliers > 0) {
    const RowSelect::Found found = select_.find(row, n, n_outliers, guesses.outlier);
    band.ceiling = found.bits - 1;
    if (n_outliers < found.n_above + found.n_equal)
      band.ceiling_cutoff = kernels().count_to(row, n, found.bits, n_outliers - found.n_above);
  }
  if (last >= n) {
    band.floor = -1;
  } else if (rule.n_kept > 0) {
    const RowSelect::Found found = select_.find(row, n, last, guesses.kept);
    band.floor = found.bits - 1;
    if (last < found.n_above + found.n_equal)
      band.floor_cutoff = kernels().count_to(row, n, found.bits, last - found.n_above);
  }
  keep_band(band, row, 0, n);
}

void StageRunner::weigh(const Weighed& rule, float* delta, std::uint64_t first, std::size_t n) {
  products_.resize(n);
  const float* const factors = rule.factors->data();
  split_at_rows(first, n, rule.columns, [&](std::uint64_t row, std::size_t at, std::size_t part) {
    const float* const x = delta + at;
    float* const y = products_.data() + at;
    if (rule.by_column) {
      const float* const own = factors + (first + at) % rule.columns;
      for (std::size_t i = 0; i < part; ++i) y[i] = x[i] * own[i];
    } else {
      const float own = factors[row];
      for (std::size_t i = 0; i < part; ++i) y[i] = x[i] * own;
    }
  });
  if (rule.keeps)
    kernels().keep_where(products_.data(), rule.floor, delta, n);
  else
    std::copy_n(products_.data(), n, delta);
}

}  // namespace tallies
