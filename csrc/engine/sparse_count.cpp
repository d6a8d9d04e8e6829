// The passes that count the entries of sparse task vectors, and find the largest of each row.

#include <atomic>
#include <mutex>
#include <numeric>

#include "core/error.h"
#include "engine/quantize.h"
#include "engine/sparse_masks.h"

namespace tallies {
namespace {

using Counts = std::vector<std::vector<std::uint64_t>>;  // of each job, of each group

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

}  // namespace

SparseCounts count_sparse(const Plan& plan, const std::vector<SparseRule>& rules,
                          const Limits& limits, const Progress& progress) {
  SparseMasks masks(plan, rules, limits);
  const std::vector<Job>& jobs = masks.jobs();
  Counts counts = zeros(jobs, kStrip);
  SparseCounts found(rules.size());
  for (std::size_t i = 0; i < rules.size(); ++i)
    if (const std::uint64_t length = rules[i].row_length;
        rules[i].values == SparseValues::quantized)
      found[i].largest.resize(static_cast<std::size_t>((jobs[i].n_elements + length - 1) / length));
  std::vector<std::vector<std::uint8_t>> scratch(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  const auto body = [&](const Tile& tile) {
    SparseCount& count = found[tile.job];
    const SparseRule& rule = rules[tile.job];
    std::vector<std::uint8_t>& mask = scratch[static_cast<std::size_t>(tile.worker)];
    mask.resize(std::max(mask.size(), tile.n / 8 + 1));
    std::uint64_t n_nonfinite = 0;
    masks.mask_tile(tile, mask.data(), [&](const void* in, std::size_t first, std::size_t n) {
      if (rule.values == SparseValues::replaced) return;
      const auto* const x = static_cast<const float*>(in);
      std::uint8_t odd[kChunk / 8];
      kernels().magnitude_mask(x, kInfinityBits - 1, odd, n);
      n_nonfinite += count_set(odd, n);
      if (rule.values == SparseValues::quantized)
        find_largest(x, mask.data() + first / 8, tile.first + first, n, RowOf(rule.row_length),
                     count.largest);
    });
    count_groups(mask.data(), tile, kStrip, counts);
    if (n_nonfinite == 0) return;
    const std::lock_guard lock(mutex);
    count.nonfinite = true;
  };
  stream(plan.files, jobs, Tiling(jobs, limits), limits, body, progress);
  const std::vector<Starts> starts = starts_of(std::move(counts));
  for (std::size_t i = 0; i < rules.size(); ++i) found[i].starts = starts[i];
  return found;
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
