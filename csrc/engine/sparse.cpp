// The passes that count and write sparse task vectors. Masks, values and scales are outputs of one
// job.

#include "engine/sparse.h"

#include <atomic>
#include <numeric>

#include "core/error.h"
#include "engine/pass.h"
#include "engine/quantize.h"
#include "engine/views.h"

namespace tallies {
namespace {

struct Scratch {
  Reader reader;
  std::vector<std::uint8_t> mask;
};

std::vector<Job> jobs_of(const Plan& plan, const std::vector<SparseRule>& rules) {
  std::vector<Job> jobs;
  for (const SparseRule& rule : rules) {
    Job& job = jobs.emplace_back(plan.jobs[rule.job]);
    job.outputs.clear();
    job.grain = kStrip;
  }
  return jobs;
}

// Masks the elements of a tile to store, and calls body(x, first, n) for its chunks: x are float32
// task vectors or, when replaced, the expert's elements.
template <class Body>
void mask_tile(const Tile& tile, const SparseRule& rule, const std::vector<Source>& sources,
               Reader& reader, std::uint8_t* mask, const Body& body) {
  if (rule.values == SparseValues::replaced) {
    const void* const expert = tile.in[sources[1].array];
    kernels().differ[by_size(size_of(sources[0].type))](tile.in[sources[0].array], expert, mask,
                                                        tile.n);
    body(expert, 0, tile.n);
    return;
  }
  reader.for_each_rows(tile, sources, As::deltas,
                       [&](const Rows& rows, std::size_t first, std::size_t n) {
                         kernels().magnitude_mask(rows.deltas[0], rule.floor, mask + first / 8, n);
                         body(rows.deltas[0], first, n);
                       });
}

using Counts = std::vector<std::vector<std::uint64_t>>;  // per job and group

Counts zeros(const std::vector<Job>& jobs, std::uint64_t per) {
  Counts counts;
  for (const Job& job : jobs)
    counts.emplace_back(static_cast<std::size_t>((job.n_elements + per - 1) / per) + 1);
  return counts;
}

void count_groups(const std::uint8_t* mask, const Tile& tile, std::uint64_t per, Counts& counts) {
  for (std::uint64_t first = 0; first < tile.n; first += per)
    counts[tile.job][(tile.first + first) / per] = count_set(
        mask + first / 8, static_cast<std::size_t>(std::min<std::uint64_t>(per, tile.n - first)));
}

// Turns counts of groups into the entries before each.
std::vector<Starts> starts_of(Counts counts) {
  std::vector<Starts> all;
  for (std::vector<std::uint64_t>& one : counts) {
    std::exclusive_scan(one.begin(), one.end(), one.begin(), std::uint64_t(0));
    all.push_back(std::make_shared<const std::vector<std::uint64_t>>(std::move(one)));
  }
  return all;
}

// Raises the largest magnitudes of the rows, in memory that tiles share.
void find_largest(const float* x, const std::uint8_t* mask, std::uint64_t first, std::size_t n,
                  RowOf row_of, std::vector<std::int32_t>& largest) {
  std::uint64_t row = 0;
  std::int32_t most = 0;
  const auto settle = [&] {
    std::atomic_ref<std::int32_t> shared(largest[row]);
    std::int32_t before = shared.load(std::memory_order_relaxed);
    while (before < most && !shared.compare_exchange_weak(before, most)) {
    }
  };
  for_each_set(mask, n, [&](std::size_t i) {
    const std::uint64_t next = row_of(first + i);
    if (next != row) {
      settle();
      row = next;
      most = 0;
    }
    most = std::max(most, magnitude_of(x[i]));
  });
  if (most > 0) settle();
}

// Writes the elements that the mask has set side by side.
template <class Word>
void gather(const void* in, const std::uint8_t* mask, std::size_t n, void* out) {
  const auto* from = static_cast<const Word*>(in);
  auto* to = static_cast<Word*>(out);
  for_each_set(mask, n, [&](std::size_t i) { *to++ = from[i]; });
}

constexpr Move kGather[] = {gather<std::uint8_t>, gather<std::uint16_t>, gather<std::uint32_t>,
                            gather<std::uint64_t>};

// A tensor as the pass that writes knows it.
struct Tensor {
  const SparseRule& rule;
  const SparseCount& count;
  const SparseEntries& entries;
};

void quantize_chunk(const Tensor& tensor, const float* x, const std::uint8_t* mask,
                    std::uint64_t first, std::size_t n, char* to) {
  RowOf row_of(tensor.rule.row_length);
  std::uint64_t row = ~std::uint64_t(0);
  float scale = 0;
  for_each_set(mask, n, [&](std::size_t i) {
    const std::uint64_t next = row_of(first + i);
    if (next != row) scale = scale_of(tensor.count.largest[next]);
    row = next;
    *to++ = static_cast<char>(quantize(x[i], scale));
  });
}

// Rounds the entries of a chunk to a type. Returns the bits of their largest magnitude.
std::int32_t narrow_chunk(DType type, const float* x, const std::uint8_t* mask, std::size_t n,
                          char* to) {
  float stored[kChunk];
  gather<float>(x, mask, n, stored);
  const auto n_set = static_cast<std::size_t>(count_set(mask, n));
  std::int32_t largest = 0;
  for (std::size_t i = 0; i < n_set; ++i) largest = std::max(largest, magnitude_of(stored[i]));
  kernels().narrow[static_cast<int>(type)](stored, to, n_set);
  return largest;
}

// Writes the values of a tile. Returns whether one of them is not finite in its type.
bool write_values(const Tensor& tensor, const Tile& tile, const std::vector<Source>& sources,
                  Reader& reader, std::uint64_t n_counted) {
  const auto& [rule, count, entries] = tensor;
  auto* const mask = static_cast<std::uint8_t*>(tile.out[0]);
  const std::size_t n_bytes = entries.values.record_bits / 8;
  std::uint64_t n_written = 0;
  std::int32_t largest = 0;
  mask_tile(tile, rule, sources, reader, mask,
            [&](const void* x, std::size_t first, std::size_t n) {
              const std::uint8_t* const bits = mask + first / 8;
              const auto* const deltas = static_cast<const float*>(x);
              char* const to = static_cast<char*>(tile.out[1]) + n_written * n_bytes;
              n_written += count_set(bits, n);
              if (n_written > n_counted) refuse_other_count(n_written, n_counted);
              if (rule.values == SparseValues::replaced)
                kGather[by_size(n_bytes)](x, bits, n, to);
              else if (rule.values == SparseValues::quantized)
                quantize_chunk(tensor, deltas, bits, tile.first + first, n, to);
              else
                largest = std::max(largest, narrow_chunk(entries.type, deltas, bits, n, to));
            });
  refuse_other_count(n_written, n_counted);
  return rule.values == SparseValues::added && largest >= overflow_bits(entries.type);
}

// Writes the scales of the rows of a tile; a row that two tiles share is written by both.
void write_scales(const Tensor& tensor, const Tile& tile, const Array& output) {
  const std::size_t n = output.bytes(tile.first, tile.n).n / sizeof(float);
  const std::uint64_t row = tile.first / tensor.rule.row_length;
  auto* const scales = static_cast<float*>(tile.out[2]);
  for (std::size_t i = 0; i < n; ++i) scales[i] = scale_of(tensor.count.largest[row + i]);
}

}  // namespace

SparseCounts count_sparse(const Plan& plan, const std::vector<SparseRule>& rules,
                          const Limits& limits, const Progress& progress) {
  const std::vector<Job> jobs = jobs_of(plan, rules);
  Counts counts = zeros(jobs, kStrip);
  SparseCounts found(rules.size());
  for (std::size_t i = 0; i < rules.size(); ++i)
    if (const std::uint64_t length = rules[i].row_length;
        rules[i].values == SparseValues::quantized)
      found[i].largest.resize(static_cast<std::size_t>((jobs[i].n_elements + length - 1) / length));
  const std::vector<std::uint64_t> n_nonfinite =
      run<Scratch>(plan.files, jobs, limits, progress, std::vector<std::uint64_t>(jobs.size()),
                   [&](const Tile& tile, Scratch& scratch, std::uint64_t& part) {
                     const SparseRule& rule = rules[tile.job];
                     std::vector<std::uint8_t>& mask = scratch.mask;
                     mask.resize(std::max(mask.size(), tile.n / 8 + 1));
                     mask_tile(tile, rule, plan.sources[rule.job], scratch.reader, mask.data(),
                               [&](const void* in, std::size_t first, std::size_t n) {
                                 if (rule.values == SparseValues::replaced) return;
                                 const auto* const x = static_cast<const float*>(in);
                                 part += count_set(NonFiniteMask(x, n), n);
                                 if (rule.values == SparseValues::quantized)
                                   find_largest(x, mask.data() + first / 8, tile.first + first, n,
                                                RowOf(rule.row_length), found[tile.job].largest);
                               });
                     count_groups(mask.data(), tile, kStrip, counts);
                   });
  const std::vector<Starts> starts = starts_of(std::move(counts));
  for (std::size_t i = 0; i < rules.size(); ++i) {
    found[i].starts = starts[i];
    found[i].nonfinite = n_nonfinite[i] > 0;
  }
  return found;
}

std::vector<SparseWritten> pack_sparse(const Plan& plan, const std::vector<SparseRule>& rules,
                                       const SparseCounts& counts,
                                       const std::vector<SparseEntries>& entries,
                                       const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs = jobs_of(plan, rules);
  for (std::size_t i = 0; i < rules.size(); ++i) {
    Array values = entries[i].values, scales = entries[i].scales;
    values.per = kStrip;
    values.starts = *counts[i].starts;
    scales.per = rules[i].row_length;
    jobs[i].outputs = {{entries[i].mask, 0}, {values, 1}};
    if (rules[i].values == SparseValues::quantized) jobs[i].outputs.push_back({scales, 2});
  }
  const std::vector<SparseWritten> empty(rules.size(), {std::vector<Lanes>(2)});
  return run<Reader>(plan.files, jobs, limits, progress, empty,
                     [&](const Tile& tile, Reader& reader, SparseWritten& part) {
                       const Tensor tensor{rules[tile.job], counts[tile.job], entries[tile.job]};
                       const std::vector<Source>& sources = plan.sources[tensor.rule.job];
                       const std::vector<Output>& outputs = jobs[tile.job].outputs;
                       part.overflow =
                           write_values(tensor, tile, sources, reader, n_records(outputs[1], tile));
                       if (outputs.size() > 2) write_scales(tensor, tile, outputs[2]);
                       part.inputs = fingerprint(tile, jobs[tile.job], sources);
                       part.mask = fingerprint(tile.out[0], outputs[0], tile.first, tile.n);
                     });
}

std::vector<Starts> count_masks(const Files& files, const std::vector<Array>& masks,
                                const std::vector<std::uint64_t>& n_elements, std::uint64_t per,
                                const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  for (std::size_t i = 0; i < masks.size(); ++i)
    jobs.push_back({n_elements[i], {masks[i]}, {}, static_cast<std::size_t>(per)});
  Counts counts = zeros(jobs, per);
  const auto body = [&](const Tile& tile) {
    count_groups(static_cast<const std::uint8_t*>(tile.in[0]), tile, per, counts);
  };
  stream(files, jobs, Tiling(jobs, limits), limits, body, progress);
  return starts_of(std::move(counts));
}

std::uint64_t n_records(const Array& array, const Tile& tile) {
  return array.bytes(tile.first, tile.n).n * 8 / array.record_bits;
}

void refuse_other_count(std::uint64_t n_found, std::uint64_t n_counted) {
  if (n_found != n_counted)
    throw Error(Error::Kind::storage,
                "a tensor changed between two passes over it; try again when nothing writes to "
                "the files");
}

}  // namespace tallies
