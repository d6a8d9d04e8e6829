#include "bind/check.h"

#include <algorithm>

#include "core/error.h"
#include "engine/decode.h"

namespace tallies::bind {
namespace {

std::string text(std::uint64_t n) { return std::to_string(n); }

void check_per_expert(const Plan& plan, std::size_t job, const std::string& name,
                      std::size_t found) {
  check_length(name, found, plan.n_experts(job), "one for each expert");
}

void check_candidate(const Plan& plan, std::size_t job, const Candidate& candidate, int n_units) {
  const std::size_t n_experts = plan.n_experts(job);
  if (candidate.row_length == 0) {
    check_per_expert(plan, job, "weights", candidate.weights.size());
  } else {
    const std::uint64_t length = candidate.row_length;
    const std::uint64_t n = plan.jobs[job].n_elements;
    const std::uint64_t n_rows = n / length + (n % length != 0);
    check_length("weights", candidate.weights.size(), n_rows * n_experts,
                 "one for each row and expert");
  }
  check_per_expert(plan, job, "floors", candidate.floors.size());
  check_per_expert(plan, job, "cutoffs", candidate.cutoffs.size());
  check_between("zero_sign", candidate.zero_sign, -1, 1);
  check_between("majority", candidate.majority, -1, n_units - 1);
}

void check_draw(const Draw& draw) { check_between("chance", draw.chance, 0, kCertain); }

void check_weighed(std::uint64_t n_elements, const Weighed& stage) {
  if (stage.columns == 0 || n_elements % stage.columns != 0)
    refuse("columns", text(stage.columns), "a divisor of " + text(n_elements) + " elements");
  check_length("factors", stage.factors->size(),
               stage.by_column ? stage.columns : n_elements / stage.columns,
               "one for each row or column");
}

void check_stages(const Plan& plan, const Slice& slice, const Stages& stages) {
  check_per_expert(plan, slice.job, "stages", stages.stages.size());
  for (const Stage& stage : stages.stages) {
    if (const auto* const weighed = std::get_if<Weighed>(&stage)) {
      check_weighed(plan.jobs[slice.job].n_elements, *weighed);
      continue;
    }
    check_base(plan);
    if (const auto* const draw = std::get_if<Draw>(&stage)) check_draw(*draw);
    const bool by_rows =
        std::holds_alternative<DropByRank>(stage) || std::holds_alternative<RowBand>(stage);
    if (by_rows && stages.row_length == 0)
      refuse("row_length", "0", "the elements of a row, which these stages need");
    if (const auto* const band = std::get_if<RowBand>(&stage))
      if (std::max(band->n_outliers, band->n_kept) > stages.row_length)
        refuse("n_outliers and n_kept", text(band->n_outliers) + " and " + text(band->n_kept),
               "at most the row's " + text(stages.row_length) + " elements each");
  }
  if (stages.row_length == 0) return;
  for (const std::uint64_t n : {slice.first, slice.n_elements})
    if (n % stages.row_length != 0)
      refuse("row_length", text(stages.row_length), "a divisor of " + text(n) + " elements");
}

// Checks what a candidate has besides weights and floors against its rule.
void check_traits(const Plan& plan, const Slice& slice, const Candidate& candidate,
                  const Rule& rule) {
  if (const auto* const stages = std::get_if<Stages>(&candidate.traits))
    check_stages(plan, slice, *stages);
  if ((rule.gate == Gate::random) != std::holds_alternative<Draws>(candidate.traits))
    refuse("draws", rule.gate == Gate::random ? "none" : "some",
           "one for each expert where the gate is random, else none");
  if ((rule.gate == Gate::score) != std::holds_alternative<Scores>(candidate.traits))
    refuse("scores", rule.gate == Gate::score ? "none" : "some",
           "one for each expert where the gate is score, else none");
  if (const auto* const draws = std::get_if<Draws>(&candidate.traits)) {
    check_per_expert(plan, slice.job, "draws", draws->draws.size());
    for (const Draw& draw : draws->draws) check_draw(draw);
  }
  if (const auto* const scores = std::get_if<Scores>(&candidate.traits))
    check_per_expert(plan, slice.job, "scores", scores->scores.size());
  if (!candidate.consensus) return;
  check_base(plan);
  check_per_expert(plan, slice.job, "lambdas", candidate.consensus->lambdas.size());
  if (candidate.consensus->at_least < 0)
    refuse("at_least", std::to_string(candidate.consensus->at_least), "0 or more");
}

// A slice that begins at a chunk, over which sums have a fixed shape.
void check_chunks(const Plan& plan, Slice& slice) {
  check(plan, slice);
  if (slice.first % kChunk != 0)
    refuse("first", text(slice.first), "a multiple of " + text(kChunk));
}

}  // namespace

void refuse(const std::string& name, const std::string& found, const std::string& expected) {
  throw py::value_error(name + ": found " + found + ", expected " + expected);
}

void check_between(const std::string& name, std::int64_t found, std::int64_t low,
                   std::int64_t high) {
  if (found < low || found > high)
    refuse(name, std::to_string(found),
           high < low ? "none" : std::to_string(low) + " to " + std::to_string(high));
}

void check_length(const std::string& name, std::size_t found, std::size_t expected,
                  const std::string& what) {
  if (found != expected) refuse(name, text(found), text(expected) + ", " + what);
}

Rule to_rule(int gate, int vote, int blend) {
  const Rule rule{static_cast<Gate>(gate), static_cast<Vote>(vote), static_cast<Blend>(blend)};
  const bool fits = std::min({gate, vote, blend}) >= 0 && std::max({gate, vote, blend}) < 256;
  if (!fits || index_of(rule) < 0) throw Error(Error::Kind::request, "this rule is not compiled");
  return rule;
}

Slice to_slice(const JobOrSlice& from) {
  if (const auto* const slice = std::get_if<Slice>(&from)) return *slice;
  const std::int64_t job = std::get<std::int64_t>(from);
  if (job < 0) refuse("job", std::to_string(job), "0 or more");
  return {static_cast<std::size_t>(job), 0, kRest};
}

void check(const Limits& limits) {
  if (limits.n_threads < 1) refuse("n_threads", std::to_string(limits.n_threads), "1 or more");
  if (limits.buffer_bytes < 1) refuse("buffer_bytes", "0", "1 or more");
  if (limits.tile_bytes < 1) refuse("tile_bytes", "0", "1 or more");
}

void check_job(const Plan& plan, std::int64_t job) {
  check_between("job", job, 0, static_cast<std::int64_t>(plan.jobs.size()) - 1);
}

void check_base(const Plan& plan) {
  if (!plan.has_base) refuse("has_base", "False", "a plan with a base, whose experts have deltas");
}

void check(const Plan& plan, Slice& slice) {
  check_job(plan, static_cast<std::int64_t>(slice.job));
  const std::uint64_t n = plan.jobs[slice.job].n_elements;
  if (plan.sources[slice.job].size() <= std::size_t(plan.has_base))
    refuse("inputs", text(plan.sources[slice.job].size()), "an expert");
  const std::size_t grain = plan.jobs[slice.job].grain;
  if (slice.first > n || slice.first % grain != 0)
    refuse("first", text(slice.first), "a multiple of " + text(grain) + " up to " + text(n));
  if (slice.n_elements == kRest) slice.n_elements = n - slice.first;
  if (slice.n_elements > n - slice.first)
    refuse("n_elements", text(slice.n_elements), "at most " + text(n - slice.first));
}

void check(const Plan& plan, std::vector<CombineTask>& tasks, const Rule& rule) {
  if (rule.vote == Vote::given) refuse("vote", "signs that are given", "a vote of the experts");
  std::size_t n_candidates = 0;
  for (const CombineTask& task : tasks) n_candidates += task.candidates.size();
  for (CombineTask& task : tasks) {
    check(plan, task.slice);
    const std::size_t job = task.slice.job;
    const std::size_t n_rows = std::max<std::size_t>(plan.jobs[job].n_rows(), 1);
    check_length("candidates", task.candidates.size(), n_rows, "one for each output");
    check_outputs(plan, job, plan.jobs[job].outputs.size());
    for (const Candidate& candidate : task.candidates) {
      check_candidate(plan, job, candidate, static_cast<int>(n_candidates));
      check_traits(plan, task.slice, candidate, candidate.rule.value_or(rule));
    }
  }
}

void check(const Plan& plan, std::vector<StageTask>& tasks) {
  check_base(plan);
  for (StageTask& task : tasks) {
    if (task.stages.row_length == 0)
      check_chunks(plan, task.slice);
    else
      check(plan, task.slice);
    check_stages(plan, task.slice, task.stages);
  }
}

void check(const Plan& plan, std::vector<VarianceTask>& tasks) {
  check_base(plan);
  for (VarianceTask& task : tasks) check_chunks(plan, task.slice);
}

void check(const Plan& plan, std::vector<GramTask>& tasks, const GramOptions& options) {
  if (options.deltas) check_base(plan);
  for (GramTask& task : tasks) {
    check_chunks(plan, task.slice);
    const std::uint64_t n = plan.jobs[task.slice.job].n_elements;
    if (task.row_length == 0 || n % task.row_length != 0)
      refuse("row_length", text(task.row_length), "a divisor of " + text(n) + " elements");
  }
}

void check(const Plan& plan, std::vector<MatrixTask>& tasks) {
  for (MatrixTask& task : tasks) {
    check_chunks(plan, task.slice);
    const std::uint64_t n = plan.jobs[task.slice.job].n_elements;
    if (task.columns == 0 || n % task.columns != 0)
      refuse("columns", text(task.columns), "a divisor of " + text(n) + " elements");
    if (task.slice.first % task.columns != 0 || task.slice.n_elements % task.columns != 0)
      refuse("job", "a part of a row", "whole rows");
  }
}

void check(const Plan& plan, std::vector<CompareTask>& tasks) {
  for (CompareTask& task : tasks) {
    check_chunks(plan, task.slice);
    const std::vector<Source>& sources = plan.sources[task.slice.job];
    check_length("inputs", sources.size(), 2, "the two to compare");
    const auto is_stored = [&](const Source& one) {
      return one.form == Source::Form::plain && !one.changes && one.type == sources[0].type;
    };
    if (task.elements != Elements::floats && !std::ranges::all_of(sources, is_stored))
      refuse("elements", "whole numbers", "floats: the inputs are decoded, or of two types");
  }
}

void check(const Plan& plan, const std::vector<PackTask>& tasks, const PackOptions& options) {
  check_base(plan);
  if (options.has_shared && options.rule.vote == Vote::given)
    refuse("vote", "signs that are given", "a vote of the experts");
  for (const PackTask& task : tasks) {
    Slice whole{task.job, 0, kRest};
    check(plan, whole);
    check_candidate(plan, task.job, task.shared, 0);
    const std::size_t n_outputs = plan.jobs[task.job].outputs.size();
    const std::size_t n_experts = plan.n_experts(task.job);
    const bool by_lambda = options.mask == MaskRule::tall;
    const std::size_t n_masks = by_lambda ? task.lambdas.size() : n_experts;
    if (by_lambda && (n_masks == 0 || n_masks % n_experts != 0))
      refuse("lambdas", text(n_masks), "as many for each of " + text(n_experts) + " experts");
    check_length("outputs", n_outputs, n_masks + options.has_shared,
                 "a mask for each lambda or expert, after the shared vector if there is one");
    check_length("rows of outputs", plan.jobs[task.job].n_rows(), n_outputs,
                 "one for each output, apart from the others");
    const bool needs_shared = by_lambda || options.mask == MaskRule::same_sign;
    if (needs_shared && !options.has_shared)
      refuse("shared", "None", "the rule of the shared vector that these masks compare with");
    check_outputs(plan, task.job, options.has_shared);
  }
}

void check(const Plan& plan, std::vector<Unit>& units, const Ranking& ranking) {
  if (ranking.is_derived()) check_base(plan);
  const bool scores =
      ranking.measure == Measure::score || ranking.measure == Measure::negative_score;
  if (ranking.measure == Measure::drawn)
    check_length("draws", ranking.draws.size(), plan.jobs.size(), "one row for each job");
  for (Unit& unit : units) {
    std::uint64_t n_elements = 0;
    for (Slice& slice : unit.slices) {
      check(plan, slice);
      n_elements += slice.n_elements;
      if (scores) check_per_expert(plan, slice.job, "scores", ranking.scores.scores.size());
      if (ranking.measure == Measure::drawn) check_stages(plan, slice, ranking.draws[slice.job]);
    }
    if (!(unit.share >= 0 && unit.share <= 1))
      refuse("share", std::to_string(unit.share), "0 to 1");
    if (unit.share > 0 && !ranking.is_derived())
      refuse("share", std::to_string(unit.share), "0 where magnitudes are ranked");
    for (const std::uint64_t rank : unit.ranks)
      if (rank > n_elements && unit.share == 0)
        refuse("ranks", text(rank), "0 to " + text(n_elements));
  }
}

}  // namespace tallies::bind
