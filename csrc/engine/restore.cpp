#include "engine/restore.h"

#include <mutex>

#include "engine/base_adder.h"
#include "engine/sparse.h"
#include "engine/views.h"

namespace tallies {
namespace {

using Form = Source::Form;

struct Scratch {
  Reader reader;
  BaseAdder adder;
};

class Restore {
 public:
  Restore(const Restoring& all, const Limits& limits) : all_(all) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    for (const Job& job : all.jobs) results_.emplace_back().inputs.resize(job.inputs.size());
  }

  void transform(const Tile& tile) {
    const Job& job = all_.jobs[tile.job];
    const std::vector<Source>& sources = all_.sources[tile.job];
    for (const Source& source : sources)
      if (source.form == Form::sparse || source.form == Form::quantized)
        refuse_other_count(
            count_set(static_cast<const std::uint8_t*>(tile.in[source.array + 1]), tile.n),
            n_records(job.inputs[source.array], tile));
    std::int32_t largest = 0;
    if (sources.size() == 1 || sources[1].replaces)
      replace(tile, job, sources);
    else
      largest = add(tile, sources, all_.output_types[tile.job]);

    std::vector<Lanes> inputs;
    for (std::size_t i = 0; i < job.inputs.size(); ++i)
      inputs.push_back(fingerprint(tile.in[i], job.inputs[i], tile.first, tile.n));
    const Lanes output = fingerprint(tile.out[0], job.outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex_);
    Restored& result = results_[tile.job];
    for (std::size_t i = 0; i < inputs.size(); ++i) tallies::add(result.inputs[i], inputs[i]);
    tallies::add(result.output, output);
    result.overflow |= largest >= overflow_bits(all_.output_types[tile.job]);
  }

  std::vector<Restored> take_results() { return std::move(results_); }

 private:
  static void replace(const Tile& tile, const Job& job, const std::vector<Source>& sources) {
    const Source& last = sources.back();
    const bool is_sparse = last.form == Form::sparse;
    const std::size_t n_bytes = job.outputs[0].bytes(tile.first, tile.n).n;
    std::memcpy(tile.out[0], tile.in[is_sparse ? sources[0].array : last.array], n_bytes);
    if (is_sparse)
      kScatter[by_size(size_of(last.type))](
          tile.in[last.array], static_cast<const std::uint8_t*>(tile.in[last.array + 1]), tile.n,
          tile.out[0]);
  }

  // Returns the bits of the largest magnitude before it is rounded.
  std::int32_t add(const Tile& tile, const std::vector<Source>& sources, DType out_type) {
    const Source &base = sources[0], &delta = sources[1];
    const auto array = [&](std::size_t i) { return tile.in[delta.array + i]; };
    if (is_fused(out_type) && stored_type({&base, 1}) == out_type) {
      const auto code = static_cast<int>(out_type);
      if (delta.form == Form::masked && delta.type == out_type)
        return kernels().apply_mask[code](tile.in[base.array], array(0),
                                          static_cast<const std::uint8_t*>(array(1)), delta.scale,
                                          tile.out[0], tile.n);
      if (delta.form == Form::signs)
        return kernels().apply_signs[code](tile.in[base.array],
                                           static_cast<const std::uint8_t*>(array(0)), delta.scale,
                                           tile.out[0], tile.n);
    }
    Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
    std::int32_t largest = 0;
    scratch.reader.for_each_rows(
        tile, {&delta, 1}, As::float32, [&](const Rows& rows, std::size_t first, std::size_t n) {
          void* const out = static_cast<char*>(tile.out[0]) + first * size_of(out_type);
          largest = std::max(largest, scratch.adder.add(tile, first, n, base,
                                                        static_cast<const float*>(rows.values[0]),
                                                        nullptr, 1.0f, out_type, out));
        });
    return largest;
  }

  const Restoring& all_;
  std::vector<Scratch> scratch_;
  std::mutex mutex_;
  std::vector<Restored> results_;
};

}  // namespace

std::vector<Restored> restore(const Restoring& all, const Limits& limits,
                              const Progress& progress) {
  Restore pass(all, limits);
  stream(
      all.files, all.jobs, Tiling(all.jobs, limits), limits,
      [&](const Tile& tile) { pass.transform(tile); }, progress);
  return pass.take_results();
}

}  // namespace tallies
