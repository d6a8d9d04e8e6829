// The work of passes on the task vectors of a slice, in plain numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <variant>
#include <vector>

#include "core/table.h"
#include "engine/plan.h"

namespace tallies {

// Stages: each changes the delta of one expert before the blend, times `factor`. Draw, of
// core/table.h, drops entries at random, all with one probability.

// Drops entries at random. The probability to pass is `low` for the smallest magnitude of a row and
// grows by `step` to the next; with `own_factor` each entry is divided by its own.
struct DropByRank {
  std::uint64_t key;  // of the random numbers
  float low, step;
  bool own_factor;
  float factor;
};

// Keeps entries that exceed the floor and not the ceiling, bits of magnitudes. From its cutoff on,
// an element of the job, either is one pattern higher.
struct Band {
  std::int32_t floor, ceiling;
  std::uint64_t floor_cutoff, ceiling_cutoff;
  float factor;
};

// Drops the largest entries of each row, and all but so many of those that follow.
struct RowBand {
  std::uint64_t n_outliers, n_kept;
  float factor;
};

// Multiplies entries by the factor of their row, or of their column. With `keeps`, entries whose
// product exceeds the floor, bits of magnitudes, stay as they are, and others become +0.
struct Weighed {
  std::shared_ptr<const std::vector<float>> factors;
  std::uint64_t columns;  // elements of a row
  bool by_column;
  bool keeps;
  std::int32_t floor;
};

using Stage = std::variant<Draw, DropByRank, Band, RowBand, Weighed>;

struct Stages {
  std::vector<Stage> stages;     // per expert
  std::uint64_t row_length = 0;  // of stages that need whole rows, else 0
};

// Keeps the elements of the merged delta m that at least so many experts claim by
// |x| > lambda |m - x|.
struct Consensus {
  std::vector<float> lambdas;  // per expert
  int at_least;
};

// Numbers of Gate::random and Gate::score.
struct Draws {
  std::vector<Draw> draws;  // per expert
};
struct Scores {
  std::vector<Score> scores;  // per expert
  Agreement agreement = Agreement::sum;
};

// The work on the entries of each expert before gate, vote and blend, or besides.
using Traits = std::variant<std::monostate, Stages, Draws, Scores>;

// All that varies between outputs that are made of one read. Entries with bits(|delta|) > floor
// pass; from the cutoff on, an element of the job, those with bits(|delta|) > floor + 1.
struct Candidate {
  std::vector<float> weights;          // per expert, or per row and expert
  std::uint64_t row_length = 0;        // of weights per row, else 0
  std::vector<std::int32_t> floors;    // per expert
  std::vector<std::uint64_t> cutoffs;  // per expert
  float scale = 1.0f;
  float divisor = 1.0f;
  int zero_sign = 0;               // the sign that a vote of exactly zero takes, 0 for none
  int majority = -1;               // unit whose elected majority replaces zero_sign, -1 for none
  std::vector<int> searches = {};  // per expert, of the task's unit of guesses, -1 for none
  Traits traits;
  std::optional<Consensus> consensus;
  std::optional<Rule> rule;  // in the place of the pass's own
};

}  // namespace tallies
