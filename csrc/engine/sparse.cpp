#include "engine/sparse.h"

#include <atomic>
#include <bit>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>

#include "core/error.h"
#include "engine/set_bits.h"

namespace tallies {
namespace {

constexpr std::int32_t kInfinity = 0x7f800000;

// Writes the elements that the mask has set side by side.
template <class Word>
void gather(const void* in, const std::uint8_t* mask, std::size_t n, void* out) {
  const auto* from = static_cast<const Word*>(in);
  auto* to = static_cast<Word*>(out);
  for_each_set(mask, n, [&](std::size_t i) { *to++ = from[i]; });
}

constexpr Move kGather[] = {gather<std::uint8_t>, gather<std::uint16_t>, gather<std::uint32_t>,
                            gather<std::uint64_t>};

std::int32_t magnitude(float x) { return std::bit_cast<std::int32_t>(x) & 0x7fffffff; }

float scale_of(std::int32_t largest) {
  if (largest > kInfinity) return std::bit_cast<float>(0x7fc00000);
  return std::bit_cast<float>(largest) / 127.0f;
}

std::int8_t quantize(float x, float scale) {
  if (!(scale > 0) || std::isinf(scale)) return 0;
  // Every float32 of this size is rounded to an integer by adding it, ties to even.
  constexpr float kWhole = 12582912.0f;
  const float clipped = std::min(std::max(-127.0f, x / scale), 127.0f);
  return static_cast<std::int8_t>(clipped + kWhole - kWhole);
}

template <class T>
T* at_least(std::vector<T>& buffer, std::size_t n) {
  if (buffer.size() < n) buffer.resize(n);
  return buffer.data();
}

SparseCount empty_count(std::uint64_t n_elements) {
  SparseCount count;
  count.before.resize(static_cast<std::size_t>((n_elements + kStrip - 1) / kStrip) + 1);
  return count;
}

void count_strips(const std::uint8_t* mask, const Tile& tile, SparseCount& count) {
  for (std::size_t first = 0; first < tile.n; first += kStrip)
    count.before[(tile.first + first) / kStrip] =
        count_set(mask + first / 8, std::min(kStrip, tile.n - first));
}

// Counts of the strips become sums, by which values are found.
void sum_strips(SparseCounts& counts) {
  for (SparseCount& count : counts)
    std::exclusive_scan(count.before.begin(), count.before.end(), count.before.begin(),
                        std::uint64_t(0));
}

// The values of a tile: the first, and how many. Error if its mask has another number of bits.
Range values_of(const Tile& tile, const std::uint8_t* mask, const SparseCount& count) {
  const std::uint64_t first = count.before[tile.first / kStrip];
  const std::uint64_t n = count.before[(tile.first + tile.n + kStrip - 1) / kStrip] - first;
  if (count_set(mask, tile.n) != n)
    throw Error(Error::Kind::storage,
                "a tensor changed between two passes over it; try again when nothing writes to "
                "the files");
  return {first, n};
}

// Makes the masks of an expert's tiles.
class Masks {
 public:
  Masks(const Plan& plan, const std::vector<SparseRule>& rules, const Limits& limits)
      : plan_(plan), rules_(rules), deltas_(static_cast<std::size_t>(limits.n_threads)) {
    for (const SparseRule& rule : rules) {
      Job& job = jobs_.emplace_back(plan.jobs[rule.job]);
      job.outputs.clear();
      job.grain = kStrip;
    }
  }

  std::vector<Job>& jobs() { return jobs_; }

  // Masks a tile, and calls body(x, first, n) for its chunks: x are float32 task vectors or, when
  // replaced, the expert's elements.
  template <class Body>
  void mask_tile(const Tile& tile, std::uint8_t* mask, const Body& body) {
    const SparseRule& rule = rules_[tile.job];
    const std::vector<DType>& types = plan_.input_types[rule.job];
    if (rule.values == SparseValues::replaced) {
      kernels().differ[by_size(size_of(types[0]))](tile.in[0], tile.in[1], mask, tile.n);
      body(tile.in[1], 0, tile.n);
      return;
    }
    deltas_[static_cast<std::size_t>(tile.worker)].for_each_chunk(
        tile, types, [&](const std::vector<float*>& deltas, std::size_t first, std::size_t n) {
          kernels().magnitude_mask(deltas[0], rule.floor, mask + first / 8, n);
          body(deltas[0], first, n);
        });
  }

 private:
  const Plan& plan_;
  const std::vector<SparseRule>& rules_;
  std::vector<Job> jobs_;
  std::vector<Deltas> deltas_;
};

// Raises the largest magnitudes of the rows, in memory that tiles share.
void find_largest(const float* x, const std::uint8_t* mask, std::uint64_t first, std::size_t n,
                  Rows rows, std::vector<std::int32_t>& largest) {
  std::uint64_t row = 0;
  std::int32_t most = 0;
  const auto settle = [&] {
    std::atomic_ref<std::int32_t> shared(largest[row]);
    std::int32_t before = shared.load(std::memory_order_relaxed);
    while (before < most && !shared.compare_exchange_weak(before, most)) {
    }
  };
  for_each_set(mask, n, [&](std::size_t i) {
    const std::uint64_t next = rows.of(first + i);
    if (next != row) {
      settle();
      row = next;
      most = 0;
    }
    most = std::max(most, magnitude(x[i]));
  });
  if (most > 0) settle();
}

class Pack {
 public:
  Pack(const Plan& plan, const std::vector<SparseRule>& rules, const SparseCounts& counts,
       const std::vector<SparseEntries>& entries, const Limits& limits)
      : plan_(plan),
        rules_(rules),
        counts_(counts),
        entries_(entries),
        masks_(plan, rules, limits) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    results_.resize(rules.size());
    for (std::size_t i = 0; i < rules.size(); ++i) {
      masks_.jobs()[i].outputs = {Output{entries[i].mask}};
      results_[i].inputs.resize(2);
      if (rules[i].values == SparseValues::quantized) write_scales(i);
    }
  }

  const std::vector<Job>& jobs() { return masks_.jobs(); }

  void transform(const Tile& tile) {
    const SparseRule& rule = rules_[tile.job];
    const Array& values = entries_[tile.job].values;
    const Job& job = masks_.jobs()[tile.job];
    Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
    auto* const mask = static_cast<std::uint8_t*>(tile.out[0]);
    std::size_t n_gathered = 0;
    std::int32_t largest = 0;
    masks_.mask_tile(tile, mask, [&](const void* x, std::size_t first, std::size_t n) {
      const std::uint8_t* const bits = mask + first / 8;
      const auto n_set = static_cast<std::size_t>(count_set(bits, n));
      at_least(scratch.values, values.n_bytes(n_gathered + n_set));
      char* const to = scratch.values.data() + values.n_bytes(n_gathered);
      n_gathered += n_set;
      if (rule.values == SparseValues::replaced) {
        kGather[by_size(values.element_bits / 8)](x, bits, n, to);
      } else if (rule.values == SparseValues::added) {
        float* const kept = at_least(scratch.kept, kChunk);
        gather<float>(x, bits, n, kept);
        for (std::size_t i = 0; i < n_set; ++i) largest = std::max(largest, magnitude(kept[i]));
        kernels().narrow[static_cast<int>(entries_[tile.job].type)](kept, to, n_set);
      } else {
        quantize_chunk(tile, static_cast<const float*>(x), bits, first, n, to);
      }
    });
    const Range range = values_of(tile, mask, counts_[tile.job]);
    plan_.files.write(values.file, scratch.values.data(), values.n_bytes(n_gathered),
                      values.at(range.first));

    const Lanes base = fingerprint(tile.in[0], job.inputs[0], tile.first, tile.n);
    const Lanes expert = fingerprint(tile.in[1], job.inputs[1], tile.first, tile.n);
    const Lanes lanes = fingerprint(mask, job.outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex_);
    SparseWritten& result = results_[tile.job];
    add(result.inputs[0], base);
    add(result.inputs[1], expert);
    add(result.mask, lanes);
    result.overflow |=
        rule.values == SparseValues::added && largest >= overflow_bits(entries_[tile.job].type);
  }

  std::vector<SparseWritten> take_results() { return std::move(results_); }

 private:
  struct Scratch {
    std::vector<char> values;
    std::vector<float> kept;
  };

  void quantize_chunk(const Tile& tile, const float* x, const std::uint8_t* mask, std::size_t first,
                      std::size_t n, char* to) const {
    const std::vector<std::int32_t>& largest = counts_[tile.job].largest;
    Rows rows(plan_.jobs[rules_[tile.job].job].n_elements, largest.size());
    std::uint64_t row = ~std::uint64_t(0);
    float scale = 0;
    for_each_set(mask, n, [&](std::size_t i) {
      const std::uint64_t next = rows.of(tile.first + first + i);
      if (next != row) scale = scale_of(largest[next]);
      row = next;
      *to++ = static_cast<char>(quantize(x[i], scale));
    });
  }

  void write_scales(std::size_t i) const {
    const std::vector<std::int32_t>& largest = counts_[i].largest;
    std::vector<float> scales;
    for (std::size_t row = 0; row < largest.size(); row += kChunk) {
      const std::size_t end = std::min(row + kChunk, largest.size());
      scales.clear();
      for (std::size_t r = row; r < end; ++r) scales.push_back(scale_of(largest[r]));
      const Array& to = entries_[i].scales;
      plan_.files.write(to.file, scales.data(), to.n_bytes(scales.size()), to.at(row));
    }
  }

  const Plan& plan_;
  const std::vector<SparseRule>& rules_;
  const SparseCounts& counts_;
  const std::vector<SparseEntries>& entries_;
  Masks masks_;
  std::vector<Scratch> scratch_;
  std::mutex mutex_;
  std::vector<SparseWritten> results_;
};

class Unpack {
 public:
  Unpack(const Files& files, const std::vector<SparseTensor>& tensors, const SparseCounts& counts,
         const Limits& limits)
      : files_(files), tensors_(tensors), counts_(counts) {
    scratch_.resize(static_cast<std::size_t>(limits.n_threads));
    results_.resize(tensors.size());
    for (const SparseTensor& tensor : tensors)
      jobs_.push_back(
          {tensor.n_elements, {tensor.base, tensor.entries.mask}, tensor.outputs, kStrip});
  }

  const std::vector<Job>& jobs() const { return jobs_; }

  void transform(const Tile& tile) {
    const SparseTensor& tensor = tensors_[tile.job];
    Scratch& scratch = scratch_[static_cast<std::size_t>(tile.worker)];
    const auto* const mask = static_cast<const std::uint8_t*>(tile.in[1]);
    const Range range = values_of(tile, mask, counts_[tile.job]);
    Lanes values_lanes{};
    const char* const values = read_values(tile, range, scratch, values_lanes);
    std::int32_t largest = 0;
    if (tensor.values == SparseValues::replaced) {
      std::memcpy(tile.out[0], tile.in[0], tensor.base.n_bytes(tile.n));
      kScatter[by_size(tensor.base.element_bits / 8)](values, mask, tile.n, tile.out[0]);
    } else {
      largest = add_values(tile, mask, values, scratch);
    }
    const Lanes base = fingerprint(tile.in[0], tensor.base, tile.first, tile.n);
    const Lanes mask_lanes = fingerprint(mask, tensor.entries.mask, tile.first, tile.n);
    const Lanes output = fingerprint(tile.out[0], tensor.outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex_);
    SparseRead& result = results_[tile.job];
    add(result.base, base);
    add(result.mask, mask_lanes);
    add(result.values, values_lanes);
    add(result.output, output);
    result.overflow |=
        tensor.values != SparseValues::replaced && largest >= overflow_bits(tensor.type);
  }

  std::vector<SparseRead> take_results() { return std::move(results_); }

 private:
  struct Scratch {
    Adder adder;
    std::vector<char> values;
    std::vector<float> wide, x, scales;
  };

  // The fingerprint counts stripes of 64 bytes, each with the tile in whose values it begins: a
  // tile reads up to where its last one ends.
  const char* read_values(const Tile& tile, const Range& range, Scratch& scratch,
                          Lanes& lanes) const {
    const Array& values = tensors_[tile.job].entries.values;
    const std::uint64_t n_all = values.n_bytes(counts_[tile.job].n_set());
    const std::uint64_t begin = values.n_bytes(range.first);
    const std::uint64_t end =
        std::min(next_stripe(values.n_bytes(range.first + range.second)), n_all);
    const auto n = static_cast<std::size_t>(end - begin);
    const Array bytes{values.file, values.offset, 8};
    const auto* const data = static_cast<const char*>(
        fetch(files_, bytes, begin, n, at_least(scratch.values, std::max<std::size_t>(n, 1))));
    const std::uint64_t first = next_stripe(begin);
    if (first < end) lanes = fingerprint(data + (first - begin), bytes, first, end - first);
    return data;
  }

  static std::uint64_t next_stripe(std::uint64_t byte) { return (byte + 63) / 64 * 64; }

  std::int32_t add_values(const Tile& tile, const std::uint8_t* mask, const char* values,
                          Scratch& scratch) const {
    const SparseTensor& tensor = tensors_[tile.job];
    const std::size_t size = tensor.entries.values.element_bits / 8;
    Rows rows(tensor.n_elements, tensor.n_rows);
    const std::uint64_t first_row = rows.of(tile.first);
    const float* scales = nullptr;
    if (tensor.values == SparseValues::quantized) {
      const auto n = static_cast<std::size_t>(rows.of(tile.first + tile.n - 1) - first_row + 1);
      scales = static_cast<const float*>(
          fetch(files_, tensor.entries.scales, first_row, n, at_least(scratch.scales, n)));
    }
    float* const wide = at_least(scratch.wide, kChunk);
    float* const x = at_least(scratch.x, kChunk);
    std::int32_t largest = 0;
    for (std::size_t first = 0, n; first < tile.n; first += n) {
      n = std::min(kChunk, tile.n - first);
      const std::uint8_t* const bits = mask + first / 8;
      const auto n_set = static_cast<std::size_t>(count_set(bits, n));
      if (scales == nullptr) {
        kernels().widen[static_cast<int>(tensor.entries.type)](values, wide, n_set);
        scatter<float>(wide, bits, n, x);
      } else {
        const auto* q = reinterpret_cast<const std::int8_t*>(values);
        Rows of_chunk(tensor.n_elements, tensor.n_rows);
        for_each_set(bits, n, [&](std::size_t i) {
          x[i] = static_cast<float>(*q++) * scales[of_chunk.of(tile.first + first + i) - first_row];
        });
      }
      values += n_set * size;
      const std::size_t at = first * size_of(tensor.type);
      largest = std::max(
          largest,
          scratch.adder.add(tensor.type, static_cast<const char*>(tile.in[0]) + at, x, bits, 1.0f,
                            tensor.type, static_cast<char*>(tile.out[0]) + at, n));
    }
    return largest;
  }

  const Files& files_;
  const std::vector<SparseTensor>& tensors_;
  const SparseCounts& counts_;
  std::vector<Job> jobs_;
  std::vector<Scratch> scratch_;
  std::mutex mutex_;
  std::vector<SparseRead> results_;
};

}  // namespace

SparseCounts count_sparse(const Plan& plan, const std::vector<SparseRule>& rules,
                          const Limits& limits, const Progress& progress) {
  Masks masks(plan, rules, limits);
  const std::vector<Job>& jobs = masks.jobs();
  SparseCounts counts;
  for (std::size_t i = 0; i < rules.size(); ++i) {
    SparseCount& count = counts.emplace_back(empty_count(jobs[i].n_elements));
    if (rules[i].values == SparseValues::quantized) count.largest.resize(rules[i].n_rows);
  }
  std::vector<std::vector<std::uint8_t>> scratch(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  const auto body = [&](const Tile& tile) {
    SparseCount& count = counts[tile.job];
    const SparseValues values = rules[tile.job].values;
    std::uint8_t* const mask =
        at_least(scratch[static_cast<std::size_t>(tile.worker)], tile.n / 8 + 1);
    std::uint64_t n_nonfinite = 0;
    masks.mask_tile(tile, mask, [&](const void* in, std::size_t first, std::size_t n) {
      if (values == SparseValues::replaced) return;
      const auto* const x = static_cast<const float*>(in);
      std::uint8_t odd[kChunk / 8];
      kernels().magnitude_mask(x, kInfinity - 1, odd, n);
      n_nonfinite += count_set(odd, n);
      if (values == SparseValues::quantized)
        find_largest(x, mask + first / 8, tile.first + first, n,
                     Rows(jobs[tile.job].n_elements, count.largest.size()), count.largest);
    });
    count_strips(mask, tile, count);
    if (n_nonfinite == 0) return;
    const std::lock_guard lock(mutex);
    count.nonfinite = true;
  };
  stream(plan.files, jobs, Tiling(jobs, limits), limits, body, progress);
  sum_strips(counts);
  return counts;
}

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

SparseCounts count_masks(const Files& files, const std::vector<SparseTensor>& tensors,
                         const Limits& limits, const Progress& progress) {
  std::vector<Job> jobs;
  SparseCounts counts;
  for (const SparseTensor& tensor : tensors) {
    jobs.push_back({tensor.n_elements, {tensor.entries.mask}, {}, kStrip});
    counts.push_back(empty_count(tensor.n_elements));
  }
  const auto body = [&](const Tile& tile) {
    count_strips(static_cast<const std::uint8_t*>(tile.in[0]), tile, counts[tile.job]);
  };
  stream(files, jobs, Tiling(jobs, limits), limits, body, progress);
  sum_strips(counts);
  return counts;
}

std::vector<SparseRead> unpack_sparse(const Files& files, const std::vector<SparseTensor>& tensors,
                                      const SparseCounts& counts, const Limits& limits,
                                      const Progress& progress) {
  Unpack pass(files, tensors, counts, limits);
  stream(
      files, pass.jobs(), Tiling(pass.jobs(), limits), limits,
      [&](const Tile& tile) { pass.transform(tile); }, progress);
  return pass.take_results();
}

}  // namespace tallies
