// The pass that writes: gate, vote and blend of every tile, and what it learned on the way.

#include <algorithm>
#include <atomic>
#include <memory>
#include <mutex>

#include "engine/accelerator.h"
#include "engine/engine.h"
#include "engine/stages.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Widened widened;
  Deltas deltas;
  Adder adder;
  Stages stages;
  std::vector<float> merged, unwritten;
  std::vector<std::uint8_t> masks;
  std::vector<std::int32_t> floors;
  std::vector<Draw> draws;
  std::vector<const void*> rows;
};

// Calls body(first, n, weights) for the parts of a tile's stretch of n elements from `first` on in
// which the experts have one weight each, and what is drawn one period of the random numbers.
template <class Body>
void split_at_rows(const Tile& tile, const JobRule& rule, std::size_t n_experts, bool draws,
                   std::size_t first, std::size_t n, const Body& body) {
  const bool by_row = rule.weights.size() != n_experts;
  if (!by_row && !draws) return body(first, n, rule.weights.data());
  const std::uint64_t length = by_row ? rule.row_length : kPeriod;
  const std::uint64_t begin = rule.first + tile.first, end = begin + first + n;
  for (std::uint64_t at = begin + first; at < end;) {
    const std::uint64_t row = at / length;
    const std::uint64_t to = std::min(end, (row + 1) * length);
    body(static_cast<std::size_t>(at - begin), static_cast<std::size_t>(to - at),
         rule.weights.data() + (by_row ? row * n_experts : 0));
    at = to;
  }
}

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

class Combine {
 public:
  Combine(const Plan& plan, const std::vector<JobRule>& rules, const CombineOptions& options,
          const Limits& limits)
      : plan_(plan), rules_(rules), options_(options), rule_(index_of(options.rule)) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    int n_units = 0;
    for (const JobRule& rule : rules) {
      n_units = std::max(n_units, rule.majority + 1);
      const Job& stretch = stretches_.emplace_back(stretch_of(plan.jobs[rule.job], rule));
      results_.emplace_back().inputs.resize(stretch.inputs.size());
    }
    votes_ = std::make_unique<std::atomic<std::int64_t>[]>(static_cast<std::size_t>(n_units));
    if (limits.device_bytes > 0) accelerator_ = std::make_unique<Accelerator>(limits.n_threads);
  }

  // Of the tiles' buffers.
  Memory memory() const { return accelerator_ ? accelerator_->pinned() : heap(); }

  // One job per rule.
  const std::vector<Job>& jobs() const { return stretches_; }

  void transform(const Tile& tile) {
    const JobRule& rule = rules_[tile.job];
    int zero_sign = rule.zero_sign;
    if (rule.majority >= 0) zero_sign = votes_[rule.majority].load() > 0 ? 1 : -1;

    CombineTally tally;
    Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
    const Job& job = stretches_[tile.job];
    void* out = tile.out[0];
    if (job.outputs.empty()) {
      scratch.unwritten.resize(tile.n);
      out = scratch.unwritten.data();
    }
    const std::size_t n_experts = plan_.n_experts(rule.job);
    split_at_cutoffs(rule.first + tile.first, tile.n, rule.floors, rule.cutoffs, scratch.floors,
                     [&](std::size_t first, std::size_t n) {
                       split_at_rows(tile, rule, n_experts, options_.rule.gate == Gate::random,
                                     first, n,
                                     [&](std::size_t at, std::size_t count, const float* weights) {
                                       merge_stretch(tile, rule, weights, zero_sign, at, count, out,
                                                     scratch, tally);
                                     });
                     });
    if (rule.majority >= 0) votes_[rule.majority] += tally.sign_sum;

    std::vector<Lanes> inputs;
    Lanes output{};
    if (options_.fingerprints && !job.outputs.empty()) {
      for (std::size_t i = 0; i < job.inputs.size(); ++i)
        inputs.push_back(fingerprint(tile.in[i], job.inputs[i], rule.first + tile.first, tile.n));
      output = fingerprint(tile.out[0], job.outputs[0], rule.first + tile.first, tile.n);
    }
    const std::lock_guard lock(mutex_);
    JobResult& result = results_[tile.job];
    result.tally.add(tally);
    for (std::size_t i = 0; i < inputs.size(); ++i) add(result.inputs[i], inputs[i]);
    if (tally.cancellations == 0) {
      add(result.output, output);
    } else {
      Guessed& guessed = zero_sign > 0 ? result.plus : result.minus;
      add(guessed.output, output);
      guessed.ranges.emplace_back(rule.first + tile.first, tile.n);
    }
    stop_ |= options_.stop_at_overflow && tally.overflow;
  }

  bool stopped() {
    const std::lock_guard lock(mutex_);
    return stop_;
  }

  std::vector<JobResult> take_results() {
    for (JobResult& result : results_) {
      join_neighbours(result.plus.ranges);
      join_neighbours(result.minus.ranges);
    }
    return std::move(results_);
  }

 private:
  void merge_stretch(const Tile& tile, const JobRule& rule, const float* weights, int zero_sign,
                     std::size_t first, std::size_t n, void* tile_out, Scratch& scratch,
                     CombineTally& tally) const {
    const std::uint64_t first_of_job = rule.first + tile.first + first;
    const std::vector<DType>& types = plan_.input_types[rule.job];
    const DType out_type = plan_.output_types[rule.job];
    scratch.rows.resize(types.size());
    for (std::size_t i = 0; i < types.size(); ++i)
      scratch.rows[i] = static_cast<const char*>(tile.in[i]) + first * size_of(types[i]);
    char* const out = static_cast<char*>(tile_out) + first * size_of(out_type);

    CombineArgs args{};
    args.weights = weights;
    args.floors = scratch.floors.data();
    args.n_experts = static_cast<int>(types.size() - plan_.has_base);
    args.scale = rule.scale;
    args.divisor = rule.divisor;
    args.zero_sign = zero_sign;
    args.scores = rule.scores.data();
    args.agreement = rule.agreement;
    args.overflow = overflow_bits(out_type);
    if (options_.stage != Stage::none || !rule.lambdas.empty()) {
      merge_deltas(tile, rule, args, first_of_job, n, out, scratch, tally);
      return;
    }
    scratch.draws.clear();
    for (const StageRule& one : rule.stages) scratch.draws.push_back(one.draw());
    args.draws = scratch.draws.data();
    args.first = first_of_job;
    const auto run = [&](DType type, const void* const* in, void* to, std::size_t count) {
      args.base = plan_.has_base ? in[0] : nullptr;
      args.experts = in + plan_.has_base;
      args.out = to;
      args.n = count;
      if (to != out || !accelerator_ || count * size_of(type) * types.size() < kLeastDeviceBytes)
        kernels().combine[static_cast<int>(type)][rule_](args, tally);
      else
        accelerator_->combine(tile.worker, type, rule_, args, tally);
    };
    if (is_fused(out_type) && common_type(types) == out_type) {
      run(out_type, scratch.rows.data(), out, n);
      return;
    }
    scratch.merged.resize(kChunk);
    Tile part = tile;
    part.in = scratch.rows.data();
    part.n = n;
    scratch.widened.for_each_chunk(
        part, types, [&](const void* const* in, std::size_t at, std::size_t count) {
          args.first = first_of_job + at;
          run(DType::f32, in, scratch.merged.data(), count);
          kernels().narrow[static_cast<int>(out_type)](scratch.merged.data(),
                                                       out + at * size_of(out_type), count);
        });
  }

  // The same on the float32 deltas of a chunk: the stage changes them, the rule blends them, and of
  // the merged delta stays what enough experts claim.
  void merge_deltas(const Tile& tile, const JobRule& rule, CombineArgs args,
                    std::uint64_t first_of_job, std::size_t n, char* out, Scratch& scratch,
                    CombineTally& tally) const {
    const std::vector<DType>& types = plan_.input_types[rule.job];
    const DType out_type = plan_.output_types[rule.job];
    const std::size_t chunk = chunk_elements(rule);
    scratch.merged.resize(chunk);
    float* const merged = scratch.merged.data();
    const float scale = args.scale;
    const std::int32_t overflow = args.overflow;
    args.base = nullptr;
    args.scale = 1.0f;
    args.overflow = overflow_bits(DType::f32);
    args.out = merged;
    Tile part = tile;
    part.in = scratch.rows.data();
    part.n = n;
    const auto* const base = static_cast<const char*>(scratch.rows[0]);
    std::vector<const void*> experts;
    scratch.deltas.for_each_chunk(
        part, types,
        [&](const std::vector<float*>& deltas, std::size_t at, std::size_t count) {
          for (std::size_t e = 0; e < rule.stages.size(); ++e)
            scratch.stages.run(options_.stage, rule.stages[e], e, rule.row_length, deltas[e],
                               first_of_job + at, count);
          experts.assign(deltas.begin(), deltas.end());
          args.experts = experts.data();
          args.n = count;
          kernels().combine[static_cast<int>(DType::f32)][rule_](args, tally);
          const std::int32_t largest =
              scratch.adder.add(types[0], base + at * size_of(types[0]), merged,
                                claim(rule, deltas, merged, chunk, count, scratch), scale, out_type,
                                out + at * size_of(out_type), count);
          tally.overflow |= largest >= overflow;
        },
        chunk);
  }

  // The packed mask of what enough experts claim of a merged delta; none without lambdas.
  static const std::uint8_t* claim(const JobRule& rule, const std::vector<float*>& deltas,
                                   const float* merged, std::size_t chunk, std::size_t n,
                                   Scratch& scratch) {
    const std::size_t n_bytes = (chunk + 7) / 8, n_masks = rule.lambdas.size();
    if (n_masks == 0) return nullptr;
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
  const std::vector<JobRule>& rules_;
  const CombineOptions& options_;
  const int rule_;
  std::vector<Job> stretches_;
  std::vector<Scratch> scratch_;
  std::unique_ptr<std::atomic<std::int64_t>[]> votes_;
  std::unique_ptr<Accelerator> accelerator_;
  std::mutex mutex_;
  bool stop_ = false;
  std::vector<JobResult> results_;
};

}  // namespace

std::vector<JobResult> combine(const Plan& plan, const std::vector<JobRule>& rules,
                               const CombineOptions& options, const Limits& limits,
                               const Progress& progress) {
  Combine pass(plan, rules, options, limits);
  const Tiling tiling(pass.jobs(), limits);
  stream(
      plan.files, pass.jobs(), tiling, limits, [&](const Tile& tile) { pass.transform(tile); },
      [&](std::uint64_t n_bytes) { return progress(n_bytes) && !pass.stopped(); }, pass.memory());
  return pass.take_results();
}

NonFinite find_nonfinite(const Plan& plan, std::size_t job, std::size_t input, const Limits& limits,
                         const Progress& progress) {
  std::vector<Job> one = {plan.jobs[job]};
  one[0].inputs = {plan.jobs[job].inputs[input]};
  one[0].outputs.clear();
  const std::vector<DType> type = {plan.input_types[job][input]};
  std::vector<Widened> widened(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  NonFinite found;
  const auto body = [&](const Tile& tile) {
    widened[static_cast<std::size_t>(tile.worker)].for_each_chunk(
        tile, type, [&](const void* const* rows, std::size_t first, std::size_t n) {
          const float* values = static_cast<const float*>(rows[0]);
          for (std::size_t i = 0; i < n; ++i) {
            if (values[i] - values[i] == 0) continue;
            const std::lock_guard lock(mutex);
            const std::uint64_t at = tile.first + first + i;
            found.first = found.count == 0 ? at : std::min(found.first, at);
            ++found.count;
          }
        });
  };
  stream(plan.files, one, Tiling(one, {0}, limits), limits, body, progress);
  return found;
}

}  // namespace tallies
