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
  std::vector<Job> one = {plan.jobs[job]};
  one[0].outputs.clear();
  const std::array<Source, 2> pair = {{plan.sources[job][0], plan.sources[job][expert + 1]}};
  const std::vector<Source> sources = only(one[0], pair);
  std::vector<Reader> readers(static_cast<std::size_t>(limits.n_threads));
  std::mutex mutex;
  DeltaRead read;
  const auto body = [&](const Tile& tile) {
    bool nonfinite = false;
    readers[static_cast<std::size_t>(tile.worker)].for_each_rows(
        tile, sources, As::deltas, [&](const Rows& rows, std::size_t first, std::size_t n) {
          std::copy_n(rows.deltas[0], n, out + tile.first + first);
          nonfinite |= has_nonfinite(rows.deltas[0], n);
        });
    std::array<Lanes, 2> inputs;
    for (std::size_t i = 0; i < 2; ++i) inputs[i] = fingerprint(tile, one[0], sources[i]);
    const std::lock_guard lock(mutex);
    for (std::size_t i = 0; i < 2; ++i) add(read.inputs[i], inputs[i]);
    read.nonfinite |= nonfinite;
  };
  stream(plan.files, one, Tiling(one, limits), limits, body, progress);
  return read;
}

Restored write_merged(const Plan& plan, std::size_t job, const float* merged, float scale,
                      const Limits& limits, const Progress& progress) {
  std::vector<Job> one = {plan.jobs[job]};
  std::vector<Source> sources = only(one[0], std::span(plan.sources[job]).first(1));
  Source delta{.form = Source::Form::scaled};
  delta.array = static_cast<std::uint16_t>(one[0].inputs.size());
  one[0].inputs.push_back({-1, reinterpret_cast<std::uintptr_t>(merged), 32});
  one[0].inputs.push_back({-1, reinterpret_cast<std::uintptr_t>(&scale), 32, kWhole});
  sources.push_back(delta);
  return restore({plan.files, one, {sources}, {plan.output_types[job]}}, limits, progress)[0];
}

}  // namespace tallies
