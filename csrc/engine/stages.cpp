#include "engine/stages.h"

#include <algorithm>
#include <numeric>

#include "engine/views.h"

namespace tallies {
namespace {

// Calls body(at, n) for parts that do not pass a multiple of kPeriod.
template <class Body>
void split_at_periods(std::uint64_t first, std::size_t n, const Body& body) {
  for (std::size_t at = 0, part; at < n; at += part) {
    part =
        static_cast<std::size_t>(std::min<std::uint64_t>(n - at, kPeriod - (first + at) % kPeriod));
    body(at, part);
  }
}

void keep_band(const StageRule& rule, float* delta, std::uint64_t first, std::size_t n) {
  const std::uint64_t end = first + n;
  for (std::uint64_t at = first; at < end;) {
    std::uint64_t to = end;
    std::int32_t floor = rule.floor, ceiling = rule.ceiling;
    if (at < rule.floor_cutoff)
      to = std::min(to, rule.floor_cutoff);
    else
      floor = next_rank(floor);
    if (at < rule.ceiling_cutoff)
      to = std::min(to, rule.ceiling_cutoff);
    else
      ceiling = next_rank(ceiling);
    kernels().keep_band(delta + (at - first), static_cast<std::size_t>(to - at), floor, ceiling,
                        rule.factor);
    at = to;
  }
}

}  // namespace

std::size_t chunk_elements(const JobRule& rule) {
  if (rule.row_length == 0) return kChunk;
  const std::uint64_t n_rows = std::max<std::uint64_t>(kChunk / rule.row_length, 1);
  return static_cast<std::size_t>(n_rows * rule.row_length);
}

Job stretch_of(const Job& job, const JobRule& rule) {
  Job stretch = job;
  stretch.n_elements = rule.n_elements;
  if (rule.row_length != 0) stretch.grain = std::lcm(chunk_elements(rule), kGrain);
  for (Array& array : stretch.inputs) array.offset = array.at(rule.first);
  for (Array& array : stretch.outputs) array.offset = array.at(rule.first);
  return stretch;
}

void Stages::run(Stage stage, const StageRule& rule, std::size_t expert, std::uint64_t row_length,
                 float* delta, std::uint64_t first, std::size_t n) {
  const auto length = static_cast<std::size_t>(row_length);
  switch (stage) {
    case Stage::none:
      break;
    case Stage::drop:
      split_at_periods(first, n, [&](std::size_t at, std::size_t part) {
        kernels().drop({delta + at, part, rule.draw(), first + at});
      });
      break;
    case Stage::drop_by_rank:
      for (std::size_t row = 0; row < n; row += length) {
        const std::int32_t* const ranks = ranks_.of(delta + row, length);
        split_at_periods(first + row, length, [&](std::size_t at, std::size_t part) {
          kernels().drop_by_rank({delta + row + at, ranks + at, part, rule.key, first + row + at,
                                  rule.low, rule.step, rule.own_factor, rule.factor});
        });
      }
      break;
    case Stage::band:
      keep_band(rule, delta, first, n);
      break;
    case Stage::row_band:
      guesses_.resize(std::max(guesses_.size(), expert + 1));
      for (std::size_t row = 0; row < n; row += length)
        keep_rows(rule, guesses_[expert], delta + row, length);
      break;
  }
}

Stages::Sums Stages::sum(Stage stage, const StageRule& rule, std::size_t expert,
                         std::uint64_t row_length, float* delta, std::uint64_t first,
                         std::size_t n) {
  if (stage != Stage::drop) {
    const double before = sum_magnitudes(delta, n);
    run(stage, rule, expert, row_length, delta, first, n);
    return {before, sum_magnitudes(delta, n)};
  }
  double before[8] = {}, after[8] = {};
  split_at_periods(first, n, [&](std::size_t at, std::size_t part) {
    kernels().sum_drawn({delta + at, part, rule.draw(), first + at}, before, after);
  });
  return {std::accumulate(before, before + 8, 0.0), std::accumulate(after, after + 8, 0.0)};
}

void Stages::keep_rows(const StageRule& rule, Guesses& guesses, float* row, std::size_t n) {
  // What is equal to a threshold is taken lowest index first, from the largest magnitude down.
  StageRule band;
  band.factor = rule.factor;
  band.ceiling = kTop;
  band.ceiling_cutoff = n;
  const auto n_outliers = static_cast<std::size_t>(rule.n_outliers);
  const auto last = static_cast<std::size_t>(rule.n_outliers + rule.n_kept);
  if (n_outliers > 0) {
    const RowSelect::Found found = select_.find(row, n, n_outliers, guesses.outlier);
    band.ceiling = found.bits - 1;
    if (n_outliers < found.n_above + found.n_equal)
      band.ceiling_cutoff = kernels().count_to(row, n, found.bits, n_outliers - found.n_above);
  }
  band.floor = kTop;
  band.floor_cutoff = n;
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

}  // namespace tallies
