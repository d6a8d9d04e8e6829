// Runs the passes of a plan: the exact selection of thresholds, the combine, and a search for the
// culprit when a value is not finite. A plan is plain numbers: files, offsets, types, lengths.
#pragma once

#include <array>
#include <cstdint>
#include <utility>
#include <vector>

#include "core/rule.h"
#include "cpu/ops.h"
#include "engine/source.h"
#include "stream/stream.h"

namespace tallies {

// The pattern that every NaN ranks as, just above infinity.
constexpr std::int32_t kTop = 0x7f800001;

// Sources of every job are the base, if the plan has one, and then the experts.
struct Plan {
  Files files;
  std::vector<Job> jobs;
  std::vector<std::vector<Source>> sources;     // per job
  std::vector<std::vector<DType>> input_types;  // per job
  std::vector<DType> output_types;              // per job
  std::vector<Starts> starts;                   // what sparse arrays of the jobs point to
  bool has_base = true;

  std::size_t n_experts(std::size_t job) const { return sources[job].size() - has_base; }
};

// What a stage does to the delta of one expert.
struct StageRule {
  float factor = 1.0f;             // on what stays
  std::uint64_t key = 0;           // of its random numbers
  std::int32_t chance = kCertain;  // Gate::random, Stage::drop: of an entry to stay
  // Stage::drop_by_rank: the probability of a row's smallest entry to stay, the step to the next,
  // and whether each entry's own probability divides it.
  float low = 0.0f, step = 0.0f;
  bool own_factor = false;
  // Stage::band: what exceeds the floor and not the ceiling stays, bits of magnitudes. From its
  // cutoff on, either is one pattern higher.
  std::int32_t floor = 0, ceiling = 0;
  std::uint64_t floor_cutoff = 0, ceiling_cutoff = 0;  // elements of the job
  // Stage::row_band: entries of each row that are too large, and those after them that stay.
  std::uint64_t n_outliers = 0, n_kept = 0;

  Draw draw() const { return {key, chance, factor}; }
};

// What is ranked of an element: a number from each expert, or one from all of them together.
enum class Measure : std::uint8_t {
  magnitude,       // of the delta
  variance,        // variance over the experts
  score,           // PCB score, zero where it is negative
  negative_score,  // minus the PCB score, zero where that is negative
  drawn,           // magnitude of the delta after Stage::drop
};

struct Ranking {
  Measure measure = Measure::magnitude;
  std::vector<Score> scores;  // per expert
  Agreement agreement = Agreement::sum;
  std::vector<std::vector<StageRule>> draws;  // per job and expert

  bool is_derived() const { return measure != Measure::magnitude; }
  std::size_t n_numbers(std::size_t n_experts) const {
    return measure == Measure::variance ? 1 : n_experts;
  }
};

// Jobs whose numbers are ranked together, and the ranks wanted: the rank-th largest, counted from
// 1; 0 for none. They go through the experts in turn, as often as there are ranks.
struct Unit {
  std::vector<std::size_t> jobs;  // in the order in which equal magnitudes are preferred
  std::vector<std::uint64_t> ranks;
  float share = 0;  // above zero the ranks are this share of the numbers that are not zero, cut
                    // to an integer; for derived measures
};

struct Threshold {
  std::int32_t bits = 0;  // of the rank-th largest magnitude
  std::uint64_t rank = 0;
  std::uint64_t n_above = 0;  // magnitudes strictly larger
  std::uint64_t n_equal = 0;  // magnitudes equal to it
  std::int32_t largest = 0;   // bits of the largest magnitude; of derived measures only
  // Keeping `rank` entries, lowest index first: those equal are kept up to here in unit.jobs order.
  std::size_t last_job = 0;      // position in unit.jobs
  std::uint64_t last_count = 0;  // elements of that job up to and with the last one kept
};

// Thresholds of each rank of each unit. With `locate`, also where the equal ones are cut off.
std::vector<std::vector<Threshold>> select(const Plan&, const std::vector<Unit>&, const Ranking&,
                                           bool locate, const Limits&, const Progress&);

// What a combine does to one job, or to a stretch of it.
struct JobRule {
  std::size_t job;
  std::uint64_t first;                 // a multiple of 64
  std::uint64_t n_elements;            // of the job, from `first` on
  std::vector<float> weights;          // per expert, or per row of `row_length` and expert
  std::vector<std::int32_t> floors;    // per expert; entries with bits(|delta|) > floor stay
  std::vector<std::uint64_t> cutoffs;  // per expert; elements from here on must exceed floor + 1
  float scale = 1.0f;
  float divisor = 1.0f;
  int zero_sign = 0;
  int majority = -1;  // unit whose elected majority replaces zero_sign, -1 for none
  // Consensus: of the merged delta m stay the elements that at least so many experts claim by
  // |x| > lambda |m - x|; without lambdas all stay.
  std::vector<float> lambdas;  // per expert
  int at_least = 0;
  std::vector<StageRule> stages;  // per expert; empty without a stage or draws
  std::uint64_t row_length = 0;   // of weights per row, and of stages that need whole rows
  std::vector<Score> scores;      // per expert; Gate::score
  Agreement agreement = Agreement::sum;
};

using Lanes = std::array<std::uint64_t, 8>;
using Range = std::pair<std::uint64_t, std::uint64_t>;  // first element, number of elements

// Tiles with cancelled votes that were given one sign.
struct Guessed {
  std::vector<Range> ranges;  // in order, neighbours joined
  Lanes output{};             // content fingerprint of what was written there
};

struct JobResult {
  CombineTally tally;
  Guessed plus, minus;
  std::vector<Lanes> inputs;  // content fingerprints
  Lanes output{};             // of tiles without cancelled votes
};

struct CombineOptions {
  Rule rule;
  Stage stage = Stage::none;
  bool fingerprints = true;
  bool stop_at_overflow = false;
};

// One result per rule, in order; jobs without outputs are only counted. A majority is the sign of
// the votes counted so far over its unit; the caller repeats the ranges for which that was not the
// sign of them all.
std::vector<JobResult> combine(const Plan&, const std::vector<JobRule>&, const CombineOptions&,
                               const Limits&, const Progress&);

// Inner products of each row of a job: of its inputs or, with `deltas`, of the differences of the
// experts from the base.
struct GramRule {
  std::size_t job;
  std::uint64_t row_length;  // divides the job's
};

struct GramOptions {
  bool deltas;
  bool with_magnitudes;
};

// Of every rule, row by row: the products of vector i with the vectors up to i, for each i in
// turn, and then, if asked for, each vector's sum of magnitudes. Stretches end where a row does and
// at every kChunk-th element of the job; within one, sums run in eight lanes, and the sums of
// stretches are added without rounding.
std::vector<std::vector<double>> gram(const Plan&, const std::vector<GramRule>&, const GramOptions&,
                                      const Limits&, const Progress&);

// Entries of each expert with bits(|delta|) > floor: those that no other expert has, and the rest.
struct Overlap {
  std::vector<std::uint64_t> alone, shared;
};
std::vector<Overlap> count_overlap(const Plan&, const std::vector<std::size_t>& jobs,
                                   std::int32_t floor, const Limits&, const Progress&);

// Sums of the squares of each expert's deltas, of the elements that pass Gate::variance. The
// rules are of whole jobs.
std::vector<std::vector<double>> sum_squares(const Plan&, const std::vector<JobRule>&,
                                             const Limits&, const Progress&);

// What a store keeps of one tensor: `shared` is the merged delta of `rule`, if there is one, and
// each expert has a mask, or one for each of several lambdas.
struct PackOptions {
  bool has_shared;
  Rule rule;
  MaskRule mask;
  bool with_sums;
  bool stop_at_overflow;
};

struct PackRule {
  JobRule shared;              // its floors are also those of MaskRule::magnitude
  std::vector<float> lambdas;  // MaskRule::tall: as many per expert, expert by expert
};

struct PackResult {
  CombineTally tally;
  std::vector<Lanes> inputs, outputs;      // content fingerprints; shared comes first, if any
  std::vector<std::uint64_t> n_set;        // per mask
  std::vector<double> sums, sums_in_mask;  // per expert: of |x|, and of |m| where its mask is set
};

// Outputs of every job are the shared vector, if any, and the masks.
std::vector<PackResult> pack(const Plan&, const std::vector<PackRule>&, const PackOptions&,
                             const Limits&, const Progress&);

// Sums of the magnitudes of each expert's delta, before and after a stage.
struct StageSums {
  std::vector<double> before, after;  // per expert
};

std::vector<StageSums> stage_sums(const Plan&, const std::vector<JobRule>&, Stage, const Limits&,
                                  const Progress&);

// Content fingerprints of the first input of every job.
std::vector<Lanes> fingerprints(const Plan&, const Limits&, const Progress&);

struct NonFinite {
  std::uint64_t count = 0;
  std::uint64_t first = 0;  // element of the job
};

// Values of one input of one job that are infinite or NaN.
NonFinite find_nonfinite(const Plan&, std::size_t job, std::size_t input, const Limits&,
                         const Progress&);

}  // namespace tallies
