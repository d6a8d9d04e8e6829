// The pass that writes a store: of every tile the shared vector and the masks of all experts.

#include <algorithm>
#include <mutex>

#include "engine/engine.h"
#include "engine/exact_sum.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Deltas deltas;
  std::vector<float> shared, in_mask;
  std::vector<std::uint8_t> mask;
  std::vector<const void*> rows;
};

// What one tile adds to the result of its job, and, with exact sums, one chunk.
struct Part {
  CombineTally tally;
  std::vector<std::uint64_t> n_set;
  std::vector<ExactSum> sums, sums_in_mask;
};

class Pack {
 public:
  Pack(const Plan& plan, const std::vector<PackRule>& rules, const PackOptions& options,
       const Limits& limits)
      : plan_(plan), rules_(rules), options_(options), rule_(index_of(options.rule)) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    for (const PackRule& rule : rules) {
      const Job& job = plan.jobs[rule.shared.job];
      const std::size_t n_experts = plan.n_experts(rule.shared.job);
      Part& total = totals_.emplace_back();
      total.n_set.resize(job.outputs.size() - options.has_shared);
      total.sums.resize(n_experts);
      total.sums_in_mask.resize(n_experts);
      inputs_.emplace_back(job.inputs.size());
      outputs_.emplace_back(job.outputs.size());
      jobs_.push_back(job);
    }
  }

  const std::vector<Job>& jobs() const { return jobs_; }

  void transform(const Tile& tile) {
    const PackRule& rule = rules_[tile.job];
    const Job& job = jobs_[tile.job];
    Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
    Part part;
    part.n_set.resize(totals_[tile.job].n_set.size());
    part.sums.resize(totals_[tile.job].sums.size());
    part.sums_in_mask.resize(part.sums.size());
    if (is_fused_tall(rule)) {
      pack_tall(tile, rule, part);
    } else {
      scratch.deltas.for_each_chunk(
          tile, plan_.input_types[rule.shared.job],
          [&](const std::vector<float*>& deltas, std::size_t first, std::size_t n) {
            pack_chunk(tile, rule, deltas, first, n, scratch, part);
          });
    }

    std::vector<Lanes> inputs, outputs;
    for (std::size_t i = 0; i < job.inputs.size(); ++i)
      inputs.push_back(fingerprint(tile.in[i], job.inputs[i], tile.first, tile.n));
    for (std::size_t i = 0; i < job.outputs.size(); ++i)
      outputs.push_back(fingerprint(tile.out[i], job.outputs[i], tile.first, tile.n));
    const std::lock_guard lock(mutex_);
    Part& total = totals_[tile.job];
    total.tally.add(part.tally);
    for (std::size_t i = 0; i < part.n_set.size(); ++i) total.n_set[i] += part.n_set[i];
    for (std::size_t e = 0; e < part.sums.size() && options_.with_sums; ++e) {
      total.sums[e].add(part.sums[e]);
      total.sums_in_mask[e].add(part.sums_in_mask[e]);
    }
    for (std::size_t i = 0; i < inputs.size(); ++i) add(inputs_[tile.job][i], inputs[i]);
    for (std::size_t i = 0; i < outputs.size(); ++i) add(outputs_[tile.job][i], outputs[i]);
    stop_ |= options_.stop_at_overflow && part.tally.overflow;
  }

  bool stopped() {
    const std::lock_guard lock(mutex_);
    return stop_;
  }

  std::vector<PackResult> results() const {
    std::vector<PackResult> results;
    for (std::size_t i = 0; i < totals_.size(); ++i) {
      const Part& total = totals_[i];
      PackResult result{total.tally, inputs_[i], outputs_[i], total.n_set, {}, {}};
      for (const ExactSum& sum : total.sums) result.sums.push_back(sum.value());
      for (const ExactSum& sum : total.sums_in_mask) result.sums_in_mask.push_back(sum.value());
      results.push_back(std::move(result));
    }
    return results;
  }

 private:
  // Whether one kernel makes the sum and the masks of a tile as it is.
  bool is_fused_tall(const PackRule& rule) const {
    const DType type = plan_.output_types[rule.shared.job];
    return options_.mask == MaskRule::tall && options_.has_shared && !options_.with_sums &&
           options_.rule == Rule{Gate::all, Vote::none, Blend::sum} && rule.shared.scale == 1.0f &&
           std::ranges::all_of(rule.shared.weights, [](float w) { return w == 1.0f; }) &&
           is_fused(type) && common_type(plan_.input_types[rule.shared.job]) == type;
  }

  void pack_tall(const Tile& tile, const PackRule& rule, Part& part) const {
    const DType type = plan_.output_types[rule.shared.job];
    std::vector<std::uint8_t*> masks;
    for (std::size_t k = 0; k < part.n_set.size(); ++k)
      masks.push_back(static_cast<std::uint8_t*>(tile.out[k + 1]));
    const auto n_experts = static_cast<int>(part.sums.size());
    const std::int32_t largest = kernels().tall[static_cast<int>(type)](
        {tile.in[0], tile.in + 1, n_experts, rule.lambdas.data(),
         static_cast<int>(masks.size()) / n_experts, tile.out[0], masks.data(), tile.n});
    part.tally.overflow |= largest >= overflow_bits(type);
    for (std::size_t k = 0; k < masks.size(); ++k) part.n_set[k] += count_set(masks[k], tile.n);
  }

  void pack_chunk(const Tile& tile, const PackRule& rule, const std::vector<float*>& deltas,
                  std::size_t first, std::size_t n, Scratch& scratch, Part& part) const {
    scratch.rows.assign(deltas.begin(), deltas.end());
    if (options_.has_shared) merge_chunk(tile, rule.shared, first, n, scratch, part.tally);
    for (std::size_t e = 0; e < deltas.size(); ++e) {
      const float* const x = deltas[e];
      mask_chunk(tile, rule, e, x, first, n, scratch, part);
      if (options_.with_sums) part.sums[e].add(sum_magnitudes(x, n));
    }
  }

  void merge_chunk(const Tile& tile, const JobRule& rule, std::size_t first, std::size_t n,
                   Scratch& scratch, CombineTally& tally) const {
    const DType type = plan_.output_types[rule.job];
    scratch.shared.resize(kChunk);
    CombineArgs args{};
    args.experts = scratch.rows.data();
    args.weights = rule.weights.data();
    args.floors = rule.floors.data();
    args.n_experts = static_cast<int>(scratch.rows.size());
    args.scale = rule.scale;
    args.divisor = rule.divisor;
    args.zero_sign = rule.zero_sign;
    args.overflow = overflow_bits(type);
    args.out = scratch.shared.data();
    args.n = n;
    kernels().combine[static_cast<int>(DType::f32)][rule_](args, tally);
    char* const out = static_cast<char*>(tile.out[0]) + first * size_of(type);
    kernels().narrow[static_cast<int>(type)](scratch.shared.data(), out, n);
  }

  void mask_chunk(const Tile& tile, const PackRule& rule, std::size_t expert, const float* x,
                  std::size_t first, std::size_t n, Scratch& scratch, Part& part) const {
    const float* const shared = scratch.shared.data();
    const std::size_t n_masks = part.n_set.size() / part.sums.size();
    for (std::size_t k = expert * n_masks; k < (expert + 1) * n_masks; ++k) {
      std::uint8_t* const mask =
          static_cast<std::uint8_t*>(tile.out[k + options_.has_shared]) + first / 8;
      switch (options_.mask) {
        case MaskRule::tall:
          kernels().tall_mask(x, shared, rule.lambdas[k], mask, n);
          break;
        case MaskRule::magnitude:
          kernels().magnitude_mask(x, rule.shared.floors[expert], mask, n);
          break;
        case MaskRule::same_sign:
          kernels().same_sign_mask(x, shared, mask, n);
          break;
        case MaskRule::sign:
          kernels().sign_mask(x, mask, n);
          break;
      }
      part.n_set[k] += count_set(mask, n);
    }
    if (!options_.with_sums || !options_.has_shared) return;
    scratch.in_mask.resize(2 * kChunk);
    const float* const zeros = scratch.in_mask.data() + kChunk;
    const auto* const mask =
        static_cast<const std::uint8_t*>(tile.out[expert * n_masks + 1]) + first / 8;
    kernels().apply_mask[static_cast<int>(DType::f32)](zeros, shared, mask, 1.0f,
                                                       scratch.in_mask.data(), n);
    part.sums_in_mask[expert].add(sum_magnitudes(scratch.in_mask.data(), n));
  }

  const Plan& plan_;
  const std::vector<PackRule>& rules_;
  const PackOptions& options_;
  const int rule_;
  std::vector<Job> jobs_;
  std::vector<Scratch> scratch_;
  std::mutex mutex_;
  bool stop_ = false;
  std::vector<Part> totals_;
  std::vector<std::vector<Lanes>> inputs_, outputs_;
};

}  // namespace

std::vector<PackResult> pack(const Plan& plan, const std::vector<PackRule>& rules,
                             const PackOptions& options, const Limits& limits,
                             const Progress& progress) {
  Pack pass(plan, rules, options, limits);
  stream(
      plan.files, pass.jobs(), Tiling(pass.jobs(), limits), limits,
      [&](const Tile& tile) { pass.transform(tile); },
      [&](std::uint64_t n_bytes) { return progress(n_bytes) && !pass.stopped(); });
  return pass.results();
}

}  // namespace tallies
