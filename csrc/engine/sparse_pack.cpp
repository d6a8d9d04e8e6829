// The pass that writes sparse task vectors: masks, values and scales are outputs of one job.

#include <mutex>

#include "engine/quantize.h"
#include "engine/sparse_masks.h"

namespace tallies {
namespace {

// Writes the elements that the mask has set side by side.
template <class Word>
void gather(const void* in, const std::uint8_t* mask, std::size_t n, void* out) {
  const auto* from = static_cast<const Word*>(in);
  auto* to = static_cast<Word*>(out);
  for_each_set(mask, n, [&](std::size_t i) { *to++ = from[i]; });
}

constexpr Move kGather[] = {gather<std::uint8_t>, gather<std::uint16_t>, gather<std::uint32_t>,
                            gather<std::uint64_t>};

class Pack {
 public:
  Pack(const Plan& plan, const std::vector<SparseRule>& rules, const SparseCounts& counts,
       const std::vector<SparseEntries>& entries, const Limits& limits)
      : plan_(plan),
        rules_(rules),
        counts_(counts),
        entries_(entries),
        masks_(plan, rules, limits) {
    results_.resize(rules.size());
    for (std::size_t i = 0; i < rules.size(); ++i) {
      Array values = entries[i].values, scales = entries[i].scales;
      values.per = kStrip;
      values.starts = *counts[i].starts;
      scales.per = rules[i].row_length;
      std::vector<Output>& outputs = masks_.jobs()[i].outputs;
      outputs = {{entries[i].mask, 0}, {values, 1}};
      if (rules[i].values == SparseValues::quantized) outputs.push_back({scales, 2});
      results_[i].inputs.resize(2);
    }
  }

  const std::vector<Job>& jobs() { return masks_.jobs(); }

  void transform(const Tile& tile) {
    const SparseRule& rule = rules_[tile.job];
    const Job& job = masks_.jobs()[tile.job];
    auto* const mask = static_cast<std::uint8_t*>(tile.out[0]);
    const std::uint64_t n_counted = n_records(job.outputs[1], tile);
    std::uint64_t n_written = 0;
    std::int32_t largest = 0;
    masks_.mask_tile(tile, mask, [&](const void* x, std::size_t first, std::size_t n) {
      const std::uint8_t* const bits = mask + first / 8;
      const std::uint64_t n_set = count_set(bits, n);
      if (n_written + n_set > n_counted) refuse_other_count(n_written + n_set, n_counted);
      largest = std::max(largest, write_values(tile, x, bits, first, n, n_written));
      n_written += n_set;
    });
    refuse_other_count(n_written, n_counted);
    if (rule.values == SparseValues::quantized) write_scales(tile, rule, job);

    std::vector<Lanes> inputs;
    for (const Source& source : plan_.sources[rule.job])
      inputs.push_back(fingerprint(tile, job, source));
    const Lanes lanes = fingerprint(mask, job.outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex_);
    SparseWritten& result = results_[tile.job];
    for (std::size_t i = 0; i < inputs.size(); ++i) add(result.inputs[i], inputs[i]);
    add(result.mask, lanes);
    result.overflow |=
        rule.values == SparseValues::added && largest >= overflow_bits(entries_[tile.job].type);
  }

  std::vector<SparseWritten> take_results() { return std::move(results_); }

 private:
  // Writes the values of a chunk after n_written others of the tile. Returns the bits of the
  // largest magnitude that is rounded to a type.
  std::int32_t write_values(const Tile& tile, const void* x, const std::uint8_t* mask,
                            std::size_t first, std::size_t n, std::uint64_t n_written) const {
    const SparseEntries& entries = entries_[tile.job];
    char* const to = static_cast<char*>(tile.out[1]) + n_written * entries.values.record_bits / 8;
    switch (rules_[tile.job].values) {
      case SparseValues::replaced:
        kGather[by_size(entries.values.record_bits / 8)](x, mask, n, to);
        return 0;
      case SparseValues::quantized:
        quantize_chunk(tile, static_cast<const float*>(x), mask, first, n, to);
        return 0;
      case SparseValues::added:
        break;
    }
    float stored[kChunk];
    gather<float>(x, mask, n, stored);
    const auto n_set = static_cast<std::size_t>(count_set(mask, n));
    std::int32_t largest = 0;
    for (std::size_t i = 0; i < n_set; ++i) largest = std::max(largest, magnitude_of(stored[i]));
    kernels().narrow[static_cast<int>(entries.type)](stored, to, n_set);
    return largest;
  }

  void quantize_chunk(const Tile& tile, const float* x, const std::uint8_t* mask, std::size_t first,
                      std::size_t n, char* to) const {
    RowOf row_of(rules_[tile.job].row_length);
    std::uint64_t row = ~std::uint64_t(0);
    float scale = 0;
    for_each_set(mask, n, [&](std::size_t i) {
      const std::uint64_t next = row_of(tile.first + first + i);
      if (next != row) scale = scale_of(counts_[tile.job].largest[next]);
      row = next;
      *to++ = static_cast<char>(quantize(x[i], scale));
    });
  }

  // A row that two tiles share is written by both.
  void write_scales(const Tile& tile, const SparseRule& rule, const Job& job) const {
    const std::size_t n = job.outputs[2].bytes(tile.first, tile.n).n / sizeof(float);
    auto* const scales = static_cast<float*>(tile.out[2]);
    for (std::size_t i = 0; i < n; ++i)
      scales[i] = scale_of(counts_[tile.job].largest[tile.first / rule.row_length + i]);
  }

  const Plan& plan_;
  const std::vector<SparseRule>& rules_;
  const SparseCounts& counts_;
  const std::vector<SparseEntries>& entries_;
  SparseMasks masks_;
  std::mutex mutex_;
  std::vector<SparseWritten> results_;
};

}  // namespace

std::vector<SparseWritten> pack_sparse(const Plan& plan, const std::vector<SparseRule>& rules,
                                       const SparseCounts& counts,
                                       const std::vector<SparseEntries>& entries,
                                       const Limits& limits, const Progress& progress) {
  Pack pass(plan, rules, counts, entries, limits);
  stream(
      plan.files, pass.jobs(), Tiling(pass.jobs(), limits), limits,
      [&](const Tile& tile) { pass.transform(tile); }, progress);
  return pass.take_results();
}

}  // namespace tallies
