// The pass that reads a store: one expert of every tile from the base, the shared vector and a
// mask.

#include <mutex>

#include "engine/engine.h"
#include "engine/views.h"

namespace tallies {
namespace {

class Unpack {
 public:
  Unpack(const Plan& plan, const std::vector<UnpackRule>& rules, bool has_shared,
         const Limits& limits)
      : plan_(plan), rules_(rules), has_shared_(has_shared) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    for (const UnpackRule& rule : rules) {
      jobs_.push_back(plan.jobs[rule.job]);
      results_.emplace_back().inputs.resize(jobs_.back().inputs.size());
    }
  }

  const std::vector<Job>& jobs() const { return jobs_; }

  void transform(const Tile& tile) {
    const UnpackRule& rule = rules_[tile.job];
    const Job& job = jobs_[tile.job];
    const DType out_type = plan_.output_types[rule.job];
    std::vector<DType> types = plan_.input_types[rule.job];
    types.pop_back();
    const auto* const mask = static_cast<const std::uint8_t*>(tile.in[types.size()]);
    std::int32_t largest = 0;
    if (is_fused(out_type) && common_type(types) == out_type) {
      largest = add(out_type, tile.in, mask, rule.scale, tile.out[0], tile.n);
    } else {
      Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
      scratch.out.resize(kChunk);
      scratch.widened.for_each_chunk(
          tile, types, [&](const void* const* in, std::size_t first, std::size_t n) {
            largest = std::max(
                largest, add(DType::f32, in, mask + first / 8, rule.scale, scratch.out.data(), n));
            kernels().narrow[static_cast<int>(out_type)](
                scratch.out.data(), static_cast<char*>(tile.out[0]) + first * size_of(out_type), n);
          });
    }
    std::vector<Lanes> inputs;
    for (std::size_t i = 0; i < job.inputs.size(); ++i)
      inputs.push_back(fingerprint(tile.in[i], job.inputs[i], tile.first, tile.n));
    const Lanes output = fingerprint(tile.out[0], job.outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex_);
    UnpackResult& result = results_[tile.job];
    for (std::size_t i = 0; i < inputs.size(); ++i) tallies::add(result.inputs[i], inputs[i]);
    tallies::add(result.output, output);
    result.overflow |= largest >= overflow_bits(out_type);
  }

  std::vector<UnpackResult> take_results() { return std::move(results_); }

 private:
  struct Scratch {
    Widened widened;
    std::vector<float> out;
  };

  std::int32_t add(DType type, const void* const* in, const std::uint8_t* mask, float scale,
                   void* out, std::size_t n) const {
    const int code = static_cast<int>(type);
    return has_shared_ ? kernels().apply_mask[code](in[0], in[1], mask, scale, out, n)
                       : kernels().apply_signs[code](in[0], mask, scale, out, n);
  }

  const Plan& plan_;
  const std::vector<UnpackRule>& rules_;
  const bool has_shared_;
  std::vector<Job> jobs_;
  std::vector<Scratch> scratch_;
  std::mutex mutex_;
  std::vector<UnpackResult> results_;
};

}  // namespace

std::vector<UnpackResult> unpack(const Plan& plan, const std::vector<UnpackRule>& rules,
                                 bool has_shared, const Limits& limits, const Progress& progress) {
  Unpack pass(plan, rules, has_shared, limits);
  stream(
      plan.files, pass.jobs(), Tiling(pass.jobs(), limits), limits,
      [&](const Tile& tile) { pass.transform(tile); }, progress);
  return pass.take_results();
}

}  // namespace tallies
