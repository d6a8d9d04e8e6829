#include "engine/pack.h"

#include <algorithm>
#include <atomic>

#include "engine/exact_sum.h"
#include "engine/pass.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  std::vector<float> shared, in_mask;
  std::vector<const void*> rows;
};

struct Part {
  CombineTally tally;
  std::vector<Lanes> inputs, outputs;
  std::vector<std::uint64_t> n_set;
  ExactSums sums, sums_in_mask;

  static auto fields(auto& part) {
    return std::tie(part.tally, part.inputs, part.outputs, part.n_set, part.sums,
                    part.sums_in_mask);
  }
};

class Pack {
 public:
  Pack(const Plan& plan, const std::vector<PackTask>& tasks, const PackOptions& options)
      : plan_(plan), tasks_(tasks), options_(options), rule_(index_of(options.rule)) {
    for (const PackTask& task : tasks) {
      const Job& job = jobs_.emplace_back(plan.jobs[task.job]);
      Part& part = empty_.emplace_back();
      part.inputs.resize(plan.sources[task.job].size());
      part.outputs.resize(job.outputs.size());
      part.n_set.resize(job.outputs.size() - options.has_shared);
      part.sums.resize(plan.n_experts(task.job));
      part.sums_in_mask.resize(part.sums.size());
    }
  }

  std::vector<Part> run(const Limits& limits, const Progress& progress) {
    std::atomic<bool> stop = false;
    return tallies::run<Scratch>(
        plan_.files, jobs_, limits, [&](std::uint64_t n) { return progress(n) && !stop; }, empty_,
        [&](const Tile& tile, Scratch& scratch, Part& part) {
          transform(tile, scratch, part);
          if (options_.stop_at_overflow && part.tally.overflow) stop = true;
        });
  }

 private:
  void transform(const Tile& tile, Scratch& scratch, Part& part) const {
    const PackTask& task = tasks_[tile.job];
    const Job& job = jobs_[tile.job];
    if (is_fused_tall(task)) {
      pack_tall(tile, task, part);
    } else {
      scratch.reader.for_each_rows(tile, plan_.sources[task.job], As::deltas,
                                   [&](const Rows& rows, std::size_t first, std::size_t n) {
                                     pack_chunk(tile, task, rows.deltas, first, n, scratch, part);
                                   });
    }
    part.inputs = fingerprint(tile, job, plan_.sources[task.job]);
    for (std::size_t i = 0; i < job.outputs.size(); ++i)
      part.outputs[i] = fingerprint(tile.out[i], job.outputs[i], tile.first, tile.n);
  }

  // Returns whether one kernel makes the sum and the masks of a tile as stored.
  bool is_fused_tall(const PackTask& task) const {
    const DType type = plan_.output_types[task.job];
    return options_.mask == MaskRule::tall && options_.has_shared && !options_.with_sums &&
           options_.rule == Rule{Gate::all, Vote::none, Blend::sum} && task.shared.scale == 1.0f &&
           std::ranges::all_of(task.shared.weights, [](float w) { return w == 1.0f; }) &&
           is_fused(type) && stored_type(plan_.sources[task.job]) == type;
  }

  void pack_tall(const Tile& tile, const PackTask& task, Part& part) const {
    const DType type = plan_.output_types[task.job];
    std::vector<std::uint8_t*> masks;
    for (std::size_t k = 0; k < part.n_set.size(); ++k)
      masks.push_back(static_cast<std::uint8_t*>(tile.out[k + 1]));
    const auto n_experts = static_cast<int>(part.sums.size());
    const std::int32_t largest = kernels().tall[static_cast<int>(type)](
        {tile.in[0], tile.in + 1, n_experts, task.lambdas.data(),
         static_cast<int>(masks.size()) / n_experts, tile.out[0], masks.data(), tile.n});
    part.tally.overflow |= largest >= overflow_bits(type);
    for (std::size_t k = 0; k < masks.size(); ++k) part.n_set[k] += count_set(masks[k], tile.n);
  }

  void pack_chunk(const Tile& tile, const PackTask& task, std::span<float* const> deltas,
                  std::size_t first, std::size_t n, Scratch& scratch, Part& part) const {
    scratch.rows.assign(deltas.begin(), deltas.end());
    if (options_.has_shared) merge_chunk(tile, task, first, n, scratch, part.tally);
    for (std::size_t e = 0; e < deltas.size(); ++e) {
      const float* const x = deltas[e];
      mask_chunk(tile, task, e, x, first, n, scratch, part);
      if (options_.with_sums) part.sums[e] += sum_magnitudes(x, n);
    }
  }

  void merge_chunk(const Tile& tile, const PackTask& task, std::size_t first, std::size_t n,
                   Scratch& scratch, CombineTally& tally) const {
    const Candidate& rule = task.shared;
    const DType type = plan_.output_types[task.job];
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

  void mask_chunk(const Tile& tile, const PackTask& task, std::size_t expert, const float* x,
                  std::size_t first, std::size_t n, Scratch& scratch, Part& part) const {
    const float* const shared = scratch.shared.data();
    const std::size_t n_masks = part.n_set.size() / part.sums.size();
    for (std::size_t k = expert * n_masks; k < (expert + 1) * n_masks; ++k) {
      std::uint8_t* const mask =
          static_cast<std::uint8_t*>(tile.out[k + options_.has_shared]) + first / 8;
      switch (options_.mask) {
        case MaskRule::tall:
          kernels().tall_mask(x, shared, task.lambdas[k], mask, n);
          break;
        case MaskRule::magnitude:
          kernels().magnitude_mask(x, task.shared.floors[expert], mask, n);
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
    part.sums_in_mask[expert] += sum_magnitudes(scratch.in_mask.data(), n);
  }

  const Plan& plan_;
  const std::vector<PackTask>& tasks_;
  const PackOptions& options_;
  const int rule_;
  std::vector<Job> jobs_;  // one per task
  std::vector<Part> empty_;
};

}  // namespace

std::vector<PackResult> pack(const Plan& plan, const std::vector<PackTask>& tasks,
                             const PackOptions& options, const Limits& limits,
                             const Progress& progress) {
  std::vector<PackResult> results;
  for (Part& part : Pack(plan, tasks, options).run(limits, progress))
    results.push_back({part.tally, std::move(part.inputs), std::move(part.outputs),
                       std::move(part.n_set), values(part.sums), values(part.sums_in_mask)});
  return results;
}

}  // namespace tallies
