#include "engine/ranked_numbers.h"

#include <algorithm>

namespace tallies {

RankedUnits::RankedUnits(const Plan& plan, const std::vector<Unit>& units, const Ranking& ranking)
    : plan_(plan), units_(units), ranking_(ranking) {
  for (std::size_t u = 0; u < units.size(); ++u) {
    for (std::size_t i = 0; i < units[u].slices.size(); ++i) {
      const Slice& slice = units[u].slices[i];
      jobs_.push_back(survey_of(plan, slice));
      owners_.push_back({u, i});
    }
    n_searches_ = std::max(n_searches_, units[u].ranks.size());
  }
}

Job RankedUnits::part_of(std::size_t job, std::uint64_t first, std::size_t n, std::size_t from,
                         std::size_t to) const {
  Job part = jobs_[job];
  part.first = first;
  part.n_elements = n;
  std::vector<bool> wanted(plan_.sources[plan_job(job)].size(), is_derived());
  if (plan_.has_base) wanted[0] = true;
  to = std::min(to, units_[owners_[job].unit].ranks.size());
  for (std::size_t s = from; s < to; ++s)
    wanted[number_of(plan_job(job), s) + plan_.has_base] = true;
  const std::vector<Source>& sources = plan_.sources[plan_job(job)];
  for (std::size_t i = 0; i < wanted.size(); ++i)
    for (std::size_t a = 0; a < n_arrays(sources[i]) && !wanted[i]; ++a)
      part.inputs[sources[i].array + a].record_bits = 0;
  return part;
}

// Calls body(type, base, expert, first, n) for one expert of a tile, whose base may be null: at
// once where the kernels read both as they are, else in chunks of float32.
template <class Body>
void RankedUnits::for_one_expert(std::size_t plan_job, const Tile& tile, std::size_t expert,
                                 Reader& reader, const Body& body) const {
  const std::vector<Source>& all = plan_.sources[plan_job];
  const Source both[2] = {all[0], all[expert + plan_.has_base]};
  reader.for_each_rows(tile, std::span(both).subspan(!plan_.has_base), As::as_stored,
                       [&](const Rows& rows, std::size_t first, std::size_t n) {
                         body(rows.type, plan_.has_base ? rows.values[0] : nullptr,
                              rows.values.back(), first, n);
                       });
}

// Calls body(rows, largest, first, n) over chunks of the tile: a row of each derived number, and of
// scores the bits of the largest in it. Outside of the bracket numbers are right to the side.
template <class Body>
void RankedUnits::for_each_chunk(std::size_t plan_job, const Tile& tile, Bracket exact,
                                 NumberScratch& scratch, const Body& body) const {
  const std::size_t n_numbers = ranking_.n_numbers(plan_.n_experts(plan_job));
  scratch.values.resize(n_numbers * kChunk);
  scratch.rows.resize(n_numbers);
  for (std::size_t i = 0; i < n_numbers; ++i) scratch.rows[i] = scratch.values.data() + i * kChunk;
  scratch.reader.for_each_rows(
      tile, plan_.sources[plan_job], As::deltas,
      [&](const Rows& read, std::size_t first, std::size_t n) {
        const std::span<float* const> deltas = read.deltas;
        scratch.largest.assign(n_numbers, 0);
        const auto n_experts = static_cast<int>(deltas.size());
        if (ranking_.measure == Measure::drawn) {
          for (std::size_t e = 0; e < deltas.size(); ++e)
            scratch.stages.run(ranking_.draws[plan_job], e, deltas[e], tile.first + first, n);
          body(deltas, scratch.largest, first, n);
          return;
        }
        if (ranking_.measure == Measure::variance)
          kernels().variance_around(deltas.data(), n_experts, exact.low, exact.high,
                                    scratch.rows[0], n);
        else
          kernels().scores(
              {deltas.data(), ranking_.scores.scores.data(), n_experts, ranking_.scores.agreement,
               ranking_.measure == Measure::score, scratch.rows.data(), n},
              scratch.largest.data());
        body(std::span<float* const>(scratch.rows), scratch.largest, first, n);
      });
}

void RankedUnits::list(std::size_t job, const Tile& tile, const std::vector<std::uint32_t*>& out,
                       NumberScratch& scratch) const {
  const std::size_t source = plan_job(job);
  const auto list_row = [&](DType type, const void* base, const void* x, std::size_t n,
                            std::uint32_t* to) {
    kernels().magnitudes[static_cast<int>(type)](base, x, n, to);
  };
  if (is_derived()) {
    for_each_chunk(
        source, tile, {0, kTop}, scratch,
        [&](std::span<float* const> rows, const auto&, std::size_t first, std::size_t n) {
          for (std::size_t s = 0; s < out.size(); ++s)
            if (out[s] != nullptr)
              list_row(DType::f32, nullptr, rows[number_of(source, s)], n, out[s] + first);
        });
    return;
  }
  for (std::size_t s = 0; s < out.size(); ++s)
    if (out[s] != nullptr)
      for_one_expert(source, tile, number_of(source, s), scratch.reader,
                     [&](DType type, const void* base, const void* x, std::size_t first,
                         std::size_t n) { list_row(type, base, x, n, out[s] + first); });
}

void RankedUnits::count(const std::vector<Wanted>& wanted, const Tile& tile, NumberScratch& scratch,
                        const AddCount& add) const {
  const std::size_t source = plan_job(tile.job);
  scratch.counts.resize(std::max(scratch.counts.size(), is_derived() ? wanted.size() : 1));
  const auto start = [&](TileCount& count) {
    count.tally = {};
    count.n_nonzero = 0;
    count.largest = 0;
    count.interior.resize(tile.n + kInteriorSlack);
  };
  const auto survey = [](SurveyArgs args, DType type, const Wanted& one, TileCount& count) {
    SurveyTally part;
    args.low = one.bracket.low;
    args.high = one.bracket.high;
    args.interior = count.interior.data() + count.tally.n_interior;
    if (one.with_positions) args.positions = count.positions.data() + count.tally.n_interior;
    kernels().survey[static_cast<int>(type)](args, part);
    count.tally += part;
  };
  if (!is_derived()) {
    TileCount& count = scratch.counts[0];
    for (const Wanted& one : wanted) {
      start(count);
      if (one.with_positions) count.positions.resize(tile.n + kInteriorSlack);
      for_one_expert(
          source, tile, number_of(source, one.search), scratch.reader,
          [&](DType type, const void* base, const void* x, std::size_t first, std::size_t n) {
            survey({.base = base, .expert = x, .n = n, .first = static_cast<std::uint32_t>(first)},
                   type, one, count);
          });
      add(one.search, count);
    }
    return;
  }
  Bracket exact{kTop, 0};
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    start(scratch.counts[i]);
    exact = {std::min(exact.low, wanted[i].bracket.low),
             std::max(exact.high, wanted[i].bracket.high)};
  }
  for_each_chunk(
      source, tile, exact, scratch,
      [&](std::span<float* const> rows, const auto& largest, std::size_t, std::size_t n) {
        for (std::size_t i = 0; i < wanted.size(); ++i) {
          const std::size_t number = number_of(source, wanted[i].search);
          TileCount& count = scratch.counts[i];
          if (wanted[i].with_nonzero)
            count.n_nonzero +=
                n - static_cast<std::size_t>(std::count(rows[number], rows[number] + n, 0.0f));
          survey({.expert = rows[number], .n = n}, DType::f32, wanted[i], count);
          count.largest = std::max(count.largest, largest[number]);
        }
      });
  for (std::size_t i = 0; i < wanted.size(); ++i) add(wanted[i].search, scratch.counts[i]);
}

}  // namespace tallies
