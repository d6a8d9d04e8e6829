#include "engine/matrices.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <vector>

#include "engine/views.h"

namespace tallies {
namespace {

bool has_nonfinite(const float* values, std::size_t n) {
  std::uint32_t largest = 0;
  for (std::size_t i = 0; i < n; ++i) {
    std::uint32_t bits;
    std::memcpy(&bits, values + i, sizeof bits);
    largest = std::max(largest, bits & 0x7fffffff);
  }
  return largest >= 0x7f800000;
}

}  // namespace

DeltaRead read_delta(const Plan& plan, std::size_t job, std::size_t expert, float* out,
                     const Limits& limits, const Progress& progress) {
  const Job& whole = plan.jobs[job];
  const std::vector<DType>& all = plan.input_types[job];
  const std::vector<Job> one = {
      {whole.n_elements, {whole.inputs[0], whole.inputs[expert + 1]}, {}, whole.grain}};
  const std::vector<DType> types = {all[0], all[expert + 1]};
  std::vector<Deltas> deltas(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  DeltaRead read;
  const auto body = [&](const Tile& tile) {
    bool nonfinite = false;
    deltas[static_cast<std::size_t>(tile.worker)].for_each_chunk(
        tile, types, [&](const std::vector<float*>& rows, std::size_t first, std::size_t n) {
          std::copy_n(rows[0], n, out + tile.first + first);
          nonfinite |= has_nonfinite(rows[0], n);
        });
    std::array<Lanes, 2> inputs;
    for (std::size_t i = 0; i < 2; ++i)
      inputs[i] = fingerprint(tile.in[i], one[0].inputs[i], tile.first, tile.n);
    const std::lock_guard lock(mutex);
    for (std::size_t i = 0; i < 2; ++i) add(read.inputs[i], inputs[i]);
    read.nonfinite |= nonfinite;
  };
  stream(plan.files, one, Tiling(one, limits), limits, body, progress);
  return read;
}

MergedWritten write_merged(const Plan& plan, std::size_t job, const float* merged, float scale,
                           const Limits& limits, const Progress& progress) {
  const Array in_memory{-1, reinterpret_cast<std::uintptr_t>(merged), 32};
  std::vector<Job> one = {plan.jobs[job]};
  one[0].inputs = {plan.jobs[job].inputs[0], in_memory};
  const DType base_type = plan.input_types[job][0], out_type = plan.output_types[job];
  std::vector<Adder> adders(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  MergedWritten written;
  const auto body = [&](const Tile& tile) {
    const std::int32_t largest = adders[static_cast<std::size_t>(tile.worker)].add(
        base_type, tile.in[0], static_cast<const float*>(tile.in[1]), nullptr, scale, out_type,
        tile.out[0], tile.n);
    const Lanes output = fingerprint(tile.out[0], one[0].outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex);
    add(written.output, output);
    written.overflow |= largest >= overflow_bits(out_type);
  };
  stream(plan.files, one, Tiling(one, limits), limits, body, progress);
  return written;
}

}  // namespace tallies
