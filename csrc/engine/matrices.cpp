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
  std::vector<Widened> widened(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  DeltaRead read;
  const auto body = [&](const Tile& tile) {
    bool nonfinite = false;
    widened[static_cast<std::size_t>(tile.worker)].for_each_chunk(
        tile, types, [&](const void* const* rows, std::size_t first, std::size_t n) {
          float* const delta = out + tile.first + first;
          kernels().subtract(static_cast<const float*>(rows[1]), static_cast<const float*>(rows[0]),
                             delta, n);
          nonfinite |= has_nonfinite(delta, n);
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
  const std::vector<DType> types = {plan.input_types[job][0], DType::f32};
  const DType out_type = plan.output_types[job];
  std::array<std::uint8_t, kChunk / 8> all;
  all.fill(0xff);
  struct Scratch {
    Widened widened;
    std::array<float, kChunk> values;
  };
  std::vector<Scratch> scratch(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  MergedWritten written;
  const auto body = [&](const Tile& tile) {
    auto& [widened, values] = scratch[static_cast<std::size_t>(tile.worker)];
    bool overflow = false;
    widened.for_each_chunk(
        tile, types, [&](const void* const* rows, std::size_t first, std::size_t n) {
          const std::int32_t largest = kernels().apply_mask[static_cast<int>(DType::f32)](
              rows[0], rows[1], all.data(), scale, values.data(), n);
          overflow |= largest >= overflow_bits(out_type);
          kernels().narrow[static_cast<int>(out_type)](
              values.data(), static_cast<char*>(tile.out[0]) + first * size_of(out_type), n);
        });
    const Lanes output = fingerprint(tile.out[0], one[0].outputs[0], tile.first, tile.n);
    const std::lock_guard lock(mutex);
    add(written.output, output);
    written.overflow |= overflow;
  };
  stream(plan.files, one, Tiling(one, limits), limits, body, progress);
  return written;
}

}  // namespace tallies
