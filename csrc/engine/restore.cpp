// The pass that makes tensors of a task from a base on disk or in memory and what a store keeps of
// the task in memory; without the latter, the pass that reads.

#include "engine/restore.h"

#include <mutex>

namespace tallies {
namespace {

// Where the kernels read values of the type of base and output: no detour through float32.
bool add_fused(const Delta& delta, DType type, const Tile& tile) {
  if (!is_fused(type)) return false;
  const int code = static_cast<int>(type);
  if (delta.form == Delta::Form::masked && delta.type == type)
    kernels().apply_mask[code](tile.in[0], delta.values_at(tile.first), delta.mask_at(tile.first),
                               delta.scale, tile.out[0], tile.n);
  else if (delta.form == Delta::Form::signs)
    kernels().apply_signs[code](tile.in[0], delta.mask_at(tile.first), delta.scale, tile.out[0],
                                tile.n);
  else
    return false;
  return true;
}

void add_chunks(const Delta& delta, DType type, const Tile& tile) {
  DecodeScratch scratch;
  float total[kChunk];
  const int code = static_cast<int>(type);
  for (std::size_t at = 0; at < tile.n; at += kChunk) {
    const std::size_t n = std::min(kChunk, tile.n - at);
    const std::size_t byte = at * size_of(type);
    kernels().widen[code](static_cast<const char*>(tile.in[0]) + byte, total, n);
    const float* const row = decode(delta, tile.first + at, n, scratch);
    constexpr float kOnce = 1.0f;
    kernels().add_scaled(total, &row, &kOnce, 1, n);
    kernels().narrow[code](total, static_cast<char*>(tile.out[0]) + byte, n);
  }
}

void replace(const Delta& delta, const Tile& tile) {
  const std::size_t size = size_of(delta.type);
  if (delta.mask == nullptr)
    std::memcpy(tile.out[0], delta.values_at(tile.first), tile.n * size);
  else
    kScatter[by_size(size)](delta.kept_at(tile.first), delta.mask_at(tile.first), tile.n,
                            tile.out[0]);
}

}  // namespace

std::vector<Lanes> restore(const Plan& plan, const std::vector<const Delta*>& deltas,
                           const Limits& limits, const Progress& progress) {
  std::vector<Lanes> sums(plan.jobs.size());
  std::mutex mutex;
  const auto body = [&](const Tile& tile) {
    const Delta* const delta = deltas[tile.job];
    const Job& job = plan.jobs[tile.job];
    const DType type = plan.output_types[tile.job];
    if (delta == nullptr || delta->form == Delta::Form::replaced) {
      std::memcpy(tile.out[0], tile.in[0], job.inputs[0].n_bytes(tile.n));
      if (delta != nullptr) replace(*delta, tile);
    } else if (!add_fused(*delta, type, tile)) {
      add_chunks(*delta, type, tile);
    }
    const Lanes part = fingerprint(tile.in[0], job.inputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex);
    add(sums[tile.job], part);
  };
  stream(plan.files, plan.jobs, Tiling(plan.jobs, limits), limits, body, progress);
  return sums;
}

}  // namespace tallies
