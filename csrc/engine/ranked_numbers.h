// The numbers of a tile that are ranked: magnitudes of task vectors, or what is derived from all
// experts of an element. Objects are one thread's.
#pragma once

#include <cstdint>
#include <vector>

#include "engine/engine.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {

// Calls body(type, base, expert, first, n) for one expert of a tile, whose base may be null: at
// once where the kernels read both as they are, else in chunks of float32.
template <class Body>
void for_one_expert(const Plan& plan, const Tile& tile, std::size_t expert, Widened& widened,
                    const Body& body) {
  const std::vector<DType>& types = plan.input_types[tile.job];
  const std::size_t input = expert + plan.has_base;
  const void* const both[2] = {plan.has_base ? tile.in[0] : nullptr, tile.in[input]};
  const std::vector<DType> pair =
      plan.has_base ? std::vector<DType>{types[0], types[input]} : std::vector<DType>{types[input]};
  if (const DType type = common_type(pair); type != DType::f64) {
    body(type, both[0], both[1], std::size_t(0), tile.n);
    return;
  }
  Tile narrow = tile;
  narrow.in = plan.has_base ? both : both + 1;
  widened.for_each_chunk(
      narrow, pair, [&](const void* const* rows, std::size_t first, std::size_t n) {
        body(DType::f32, plan.has_base ? rows[0] : nullptr, rows[plan.has_base], first, n);
      });
}

// Numbers derived from all experts of an element, or from its place.
class Derived {
 public:
  // Calls body(rows, largest, first, n) over chunks of the tile: a row of each number, and of
  // scores the bits of the largest in it. Inputs of the tile are all of its job's.
  template <class Body>
  void for_each_chunk(const Plan& plan, const Tile& tile, const Ranking& ranking,
                      const Body& body) {
    const std::vector<DType>& types = plan.input_types[tile.job];
    const std::size_t n_experts = plan.n_experts(tile.job);
    const std::size_t n_numbers = ranking.n_numbers(n_experts);
    values_.resize(n_numbers * kChunk);
    rows_.resize(n_numbers);
    for (std::size_t i = 0; i < n_numbers; ++i) rows_[i] = values_.data() + i * kChunk;
    chunks_.for_each_chunk(
        tile, types, [&](const std::vector<float*>& deltas, std::size_t first, std::size_t n) {
          largest_.assign(n_numbers, 0);
          const auto n_rows = static_cast<int>(n_experts);
          if (ranking.measure == Measure::drawn) {
            for (std::size_t e = 0; e < n_experts; ++e)
              stages_.run(Stage::drop, ranking.draws[tile.job][e], e, 0, deltas[e],
                          tile.first + first, n);
            body(deltas, largest_, first, n);
            return;
          }
          if (ranking.measure == Measure::variance)
            kernels().variance(deltas.data(), n_rows, rows_[0], n);
          else
            kernels().scores({deltas.data(), ranking.scores.data(), n_rows, ranking.agreement,
                              ranking.measure == Measure::score, rows_.data(), n},
                             largest_.data());
          body(rows_, largest_, first, n);
        });
  }

 private:
  Deltas chunks_;
  Stages stages_;
  std::vector<float> values_;
  std::vector<float*> rows_;
  std::vector<std::int32_t> largest_;
};

struct Scratch {
  Widened widened;
  Derived derived;
  std::vector<std::uint32_t> patterns;
  struct Found {
    std::vector<std::uint32_t> interior;
    SurveyTally tally;
    std::int32_t largest;
  };
  std::vector<Found> found;  // of derived numbers, one per search
};

// Patterns of one expert's magnitudes.
inline void list_magnitudes(const Plan& plan, const Tile& tile, std::size_t expert,
                            Scratch& scratch, std::uint32_t* out) {
  for_one_expert(
      plan, tile, expert, scratch.widened,
      [&](DType type, const void* base, const void* x, std::size_t first, std::size_t n) {
        kernels().magnitudes[static_cast<int>(type)](base, x, n, out + first);
      });
}

// Surveys one tile for one expert between the two ends the search tries.
inline void survey_tile(const Plan& plan, const Tile& tile, std::size_t expert, std::int32_t low,
                        std::int32_t high, Scratch& scratch, SurveyTally& tally) {
  scratch.patterns.resize(tile.n + kInteriorSlack);
  for_one_expert(plan, tile, expert, scratch.widened,
                 [&](DType type, const void* base, const void* x, std::size_t, std::size_t n) {
                   SurveyTally part;
                   kernels().survey[static_cast<int>(type)](
                       {base, x, n, low, high, scratch.patterns.data() + tally.n_interior}, part);
                   tally += part;
                 });
}

}  // namespace tallies
