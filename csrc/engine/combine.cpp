// Gate, vote and blend of every tile, with its tallies and fingerprints.

#include "engine/combine.h"

#include <algorithm>
#include <atomic>
#include <memory>

#include "engine/accelerator.h"
#include "engine/alike.h"
#include "engine/base_adder.h"
#include "engine/pass.h"
#include "engine/stages.h"
#include "engine/verifier.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  BaseAdder adder;
  StageRunner stages;
  std::vector<float> merged, unwritten;
  std::vector<Multiple> multiples;
  std::vector<std::uint8_t> masks;
  std::vector<std::int32_t> floors;
  Verifier::Scratch guessed;
};

class Combine {
 public:
  Combine(const Plan& plan, const std::vector<CombineTask>& tasks, const CombineOptions& options,
          const Limits& limits, Verifier* verifier)
      : plan_(plan), tasks_(tasks), options_(options), verifier_(verifier) {
    int n_units = 0;
    for (const CombineTask& task : tasks) {
      Job& job = jobs_.emplace_back(job_of(plan, task.slice));
      CombineResult& result = empty_.emplace_back();
      result.inputs.resize(plan.sources[task.slice.job].size());
      result.candidates.resize(task.candidates.size());
      for (const Candidate& candidate : task.candidates) {
        n_units = std::max(n_units, candidate.majority + 1);
        if (const auto* const stages = std::get_if<Stages>(&candidate.traits))
          job.grain = grain_of(*stages, job.grain);
      }
    }
    votes_ = std::make_unique<std::atomic<std::int64_t>[]>(static_cast<std::size_t>(n_units));
    for (std::size_t i = 0; i < options.votes.size() && i < static_cast<std::size_t>(n_units); ++i)
      votes_[i] = options.votes[i];
    if (limits.device_bytes > 0) accelerator_ = std::make_unique<Accelerator>(limits.n_threads);
    for (const CombineTask& task : tasks)
      alike_.push_back(groups_alike(task.candidates, !accelerator_));
  }

  std::vector<CombineResult> run(const Limits& limits, const Progress& progress) {
    return tallies::run<Scratch>(
        plan_.files, jobs_, limits, [&](std::uint64_t n) { return progress(n) && !stop_; }, empty_,
        [&](const Tile& tile, Scratch& scratch, CombineResult& part) {
          transform(tile, scratch, part);
        },
        accelerator_ ? accelerator_->pinned() : Memory{});
  }

 private:
  void transform(const Tile& tile, Scratch& scratch, CombineResult& part) {
    const CombineTask& task = tasks_[tile.job];
    const Job& job = jobs_[tile.job];
    const bool writes = !job.outputs.empty();
    if (verifier_) verifier_->count(tile, scratch.guessed);
    if (!writes) scratch.unwritten.resize(tile.n);
    for (const Alike& alike : alike_[tile.job])
      merge_alike(tile, task, alike, writes, scratch, part.candidates);
    for (std::size_t k = 0; k < task.candidates.size(); ++k) {
      if (!options_.fingerprints || !writes) continue;
      const auto written = std::ranges::find(job.outputs, k, &Output::row);
      CandidateResult& result = part.candidates[k];
      Guessed& guessed = result.plus.ranges.empty() ? result.minus : result.plus;
      (guessed.ranges.empty() ? result.output : guessed.output) =
          fingerprint(tile.out[k], *written, tile.first, tile.n);
    }
    if (options_.fingerprints && writes)
      part.inputs = fingerprint(tile, job, plan_.sources[task.slice.job]);
    if (verifier_) verifier_->remember(tile, part, scratch.guessed);
  }

  // Merges candidates that differ in scale alone, or one.
  void merge_alike(const Tile& tile, const CombineTask& task, const Alike& alike, bool writes,
                   Scratch& scratch, std::vector<CandidateResult>& results) {
    const Candidate& candidate = task.candidates[alike[0]];
    const auto out = [&](std::size_t k) {
      return static_cast<char*>(writes ? tile.out[k] : scratch.unwritten.data());
    };
    int zero_sign = candidate.zero_sign;
    if (candidate.majority >= 0) zero_sign = votes_[candidate.majority].load() > 0 ? 1 : -1;
    merge_tile(tile, task, alike, zero_sign, out, scratch, results);
    const CombineTally& tally = results[alike[0]].tally;
    if (candidate.majority >= 0) {
      for (const std::size_t k : alike) votes_[task.candidates[k].majority] += tally.sign_sum;
      // The tile's own votes count: of few tiles the first would else take a sign at random.
      const std::int64_t so_far = votes_[candidate.majority];
      if (tally.cancellations > 0 && so_far != 0 && (so_far > 0) != (zero_sign > 0)) {
        zero_sign = -zero_sign;
        merge_tile(tile, task, alike, zero_sign, out, scratch, results);
      }
    }
    for (const std::size_t k : alike) {
      CandidateResult& result = results[k];
      if (result.tally.cancellations > 0)
        (zero_sign > 0 ? result.plus : result.minus).ranges.emplace_back(tile.first, tile.n);
      // A wrong guess may be the cause of an overflow.
      if (options_.stop_at_overflow && result.tally.overflow && task.unit < 0) stop_ = true;
    }
  }

  // Merges a tile with this sign for cancelled votes, and counts anew.
  template <class Out>
  void merge_tile(const Tile& tile, const CombineTask& task, const Alike& alike, int zero_sign,
                  const Out& out, Scratch& scratch, std::vector<CandidateResult>& results) {
    const Candidate& candidate = task.candidates[alike[0]];
    for (const std::size_t k : alike) results[k].tally = {};
    // Weights hold for a row, and draws for a period of the random numbers.
    std::uint64_t row_length = std::holds_alternative<Draws>(candidate.traits) ? kPeriod : kWhole;
    if (candidate.row_length != 0) row_length = candidate.row_length;
    split_at_cutoffs(tile.first, tile.n, candidate.floors, candidate.cutoffs, scratch.floors,
                     [&](std::size_t begin, std::size_t n_same) {
                       split_at_rows(tile.first + begin, n_same, row_length,
                                     [&](std::uint64_t row, std::size_t at, std::size_t n) {
                                       const float* weights = candidate.weights.data();
                                       if (candidate.row_length != 0)
                                         weights += row * plan_.n_experts(task.slice.job);
                                       CombineArgs args =
                                           args_of(task, candidate, weights, scratch);
                                       args.zero_sign = zero_sign;
                                       merge_piece(tile, task, alike, args, begin + at, n, out,
                                                   scratch, results);
                                     });
                     });
  }

  // Returns the arguments of the kernels without arrays and elements.
  CombineArgs args_of(const CombineTask& task, const Candidate& candidate, const float* weights,
                      const Scratch& scratch) const {
    CombineArgs args{};
    args.weights = weights;
    args.floors = scratch.floors.data();
    args.n_experts = static_cast<int>(plan_.n_experts(task.slice.job));
    args.scale = candidate.scale;
    args.divisor = candidate.divisor;
    args.overflow = overflow_bits(plan_.output_types[task.slice.job]);
    if (const auto* const scores = std::get_if<Scores>(&candidate.traits)) {
      args.scores = scores->scores.data();
      args.agreement = scores->agreement;
    } else if (const auto* const draws = std::get_if<Draws>(&candidate.traits)) {
      args.draws = draws->draws.data();
    }
    return args;
  }

  int rule_of(const Candidate& candidate) const {
    return index_of(candidate.rule.value_or(options_.rule));
  }

  // Merges a piece of a tile for candidates that differ in scale alone, or one.
  template <class Out>
  void merge_piece(const Tile& tile, const CombineTask& task, const Alike& alike, CombineArgs& args,
                   std::size_t first, std::size_t n, const Out& tile_out, Scratch& scratch,
                   std::vector<CandidateResult>& results) const {
    const Candidate& candidate = task.candidates[alike[0]];
    CombineTally& tally = results[alike[0]].tally;
    if (std::holds_alternative<Stages>(candidate.traits) || candidate.consensus) {
      merge_deltas(tile, task, candidate, args, first, n, tile_out(alike[0]), scratch, tally);
      return;
    }
    const int rule = rule_of(candidate);
    const std::vector<Source>& sources = plan_.sources[task.slice.job];
    const DType out_type = plan_.output_types[task.slice.job];
    const bool is_direct = is_fused(out_type) && stored_type(sources) == out_type;
    if (!is_direct) scratch.merged.resize(alike.size() * kChunk);
    std::vector<Multiple>& multiples = scratch.multiples;
    multiples.clear();
    for (const std::size_t k : alike) multiples.push_back({task.candidates[k].scale, nullptr});
    CombineTally all;
    scratch.reader.for_each_rows(
        tile, first, n, sources, is_direct ? As::as_stored : As::float32,
        [&](const Rows& rows, std::size_t at, std::size_t count) {
          const auto out = [&](std::size_t i) -> char* {
            return tile_out(alike[i]) + at * size_of(out_type);
          };
          const auto merged = [&](std::size_t i) { return scratch.merged.data() + i * kChunk; };
          for (std::size_t i = 0; i < alike.size(); ++i)
            multiples[i].out = is_direct ? static_cast<void*>(out(i)) : merged(i);
          args.base = plan_.has_base ? rows.values[0] : nullptr;
          args.experts = rows.values.data() + plan_.has_base;
          args.out = multiples[0].out;
          args.multiples = multiples.data();
          args.n_multiples = alike.size() > 1 ? static_cast<int>(alike.size()) : 0;
          args.n = count;
          args.first = tile.first + at;
          merge_rows(tile.worker, rows, rule, is_direct, args, all);
          for (std::size_t i = 0; i < alike.size() && !is_direct; ++i)
            kernels().narrow[static_cast<int>(out_type)](merged(i), out(i), count);
        });
    for (std::size_t i = 0; i < alike.size(); ++i) {
      results[alike[i]].tally += all;
      results[alike[i]].tally.overflow |= multiples[i].overflow;
    }
  }

  // Merges on the device the rows that are worth a copy there.
  void merge_rows(int worker, const Rows& rows, int rule, bool may_move, const CombineArgs& args,
                  CombineTally& tally) const {
    const std::size_t n_bytes = args.n * size_of(rows.type) * rows.values.size();
    if (may_move && accelerator_ && n_bytes >= kLeastDeviceBytes)
      accelerator_->combine(worker, rows.type, rule, args, tally);
    else
      kernels().combine[static_cast<int>(rows.type)][rule](args, tally);
  }

  // Merges float32 deltas: the stages change the deltas of a chunk, the rule blends them, and the
  // merged delta keeps the elements that enough experts claim.
  void merge_deltas(const Tile& tile, const CombineTask& task, const Candidate& candidate,
                    CombineArgs args, std::size_t first, std::size_t n, void* tile_out,
                    Scratch& scratch, CombineTally& tally) const {
    const std::vector<Source>& sources = plan_.sources[task.slice.job];
    const DType out_type = plan_.output_types[task.slice.job];
    const auto* const stages = std::get_if<Stages>(&candidate.traits);
    const int rule = rule_of(candidate);
    const Source base = plan_.has_base ? sources[0] : Source{.form = Source::Form::zero};
    const std::size_t chunk = stages != nullptr ? chunk_elements(*stages) : kChunk;
    scratch.merged.resize(chunk);
    float* const merged = scratch.merged.data();
    const float scale = args.scale;
    const std::int32_t overflow = args.overflow;
    args.base = nullptr;
    args.scale = 1.0f;
    args.overflow = overflow_bits(DType::f32);
    args.out = merged;
    scratch.reader.for_each_rows(
        tile, first, n, sources, plan_.has_base ? As::deltas : As::copies,
        [&](const Rows& rows, std::size_t at, std::size_t count) {
          for (std::size_t e = 0; stages != nullptr && e < rows.deltas.size(); ++e)
            scratch.stages.run(*stages, e, rows.deltas[e], tile.first + at, count);
          args.experts = rows.values.data();
          args.first = tile.first + at;
          args.n = count;
          kernels().combine[static_cast<int>(DType::f32)][rule](args, tally);
          const std::uint8_t* const mask =
              candidate.consensus
                  ? claim(*candidate.consensus, rows.deltas, merged, chunk, count, scratch)
                  : nullptr;
          char* const out = static_cast<char*>(tile_out) + at * size_of(out_type);
          const std::int32_t largest =
              scratch.adder.add(tile, at, count, base, merged, mask, scale, out_type, out);
          tally.overflow |= largest >= overflow;
        },
        chunk);
  }

  // Returns the packed mask of the elements of a merged delta that enough experts claim.
  static const std::uint8_t* claim(const Consensus& rule, std::span<float* const> deltas,
                                   const float* merged, std::size_t chunk, std::size_t n,
                                   Scratch& scratch) {
    const std::size_t n_bytes = (chunk + 7) / 8, n_masks = deltas.size();
    scratch.masks.resize((n_masks + 1) * n_bytes);
    std::uint8_t* const claimed = scratch.masks.data();
    std::vector<const std::uint8_t*> masks;
    for (std::size_t e = 0; e < n_masks; ++e) {
      std::uint8_t* const mask = claimed + (e + 1) * n_bytes;
      kernels().tall_mask(deltas[e], merged, rule.lambdas[e], mask, n);
      masks.push_back(mask);
    }
    kernels().consensus_mask(masks.data(), static_cast<int>(n_masks), rule.at_least, claimed, n);
    return claimed;
  }

  const Plan& plan_;
  const std::vector<CombineTask>& tasks_;
  const CombineOptions& options_;
  Verifier* const verifier_;
  std::vector<Job> jobs_;  // one per task
  std::vector<CombineResult> empty_;
  std::unique_ptr<std::atomic<std::int64_t>[]> votes_;
  std::unique_ptr<Accelerator> accelerator_;
  std::vector<std::vector<Alike>> alike_;  // per task
  std::atomic<bool> stop_ = false;
};

}  // namespace

void join_neighbours(std::vector<Range>& ranges) {
  std::sort(ranges.begin(), ranges.end());
  std::vector<Range> joined;
  for (const Range& range : ranges) {
    if (!joined.empty() && joined.back().first + joined.back().second == range.first)
      joined.back().second += range.second;
    else
      joined.push_back(range);
  }
  ranges = std::move(joined);
}

Guessed& Guessed::operator+=(const Guessed& part) {
  ranges.insert(ranges.end(), part.ranges.begin(), part.ranges.end());
  add(output, part.output);
  return *this;
}

std::vector<CombineResult> combine(const Plan& plan, const std::vector<CombineTask>& given,
                                   const CombineOptions& options, const Limits& limits,
                                   const Progress& progress, Guesses* guesses) {
  std::vector<CombineTask> tasks = given;
  std::optional<Verifier> verifier;
  if (guesses != nullptr) verifier.emplace(plan, tasks, options, *guesses);
  std::vector<CombineResult> results =
      Combine(plan, tasks, options, limits, verifier ? &*verifier : nullptr).run(limits, progress);
  for (CombineResult& result : results)
    for (CandidateResult& candidate : result.candidates) {
      join_neighbours(candidate.plus.ranges);
      join_neighbours(candidate.minus.ranges);
    }
  return results;
}

}  // namespace tallies
