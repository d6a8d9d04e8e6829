#include "engine/matrices.h"

#include <algorithm>
#include <vector>

#include "engine/pass.h"
#include "engine/views.h"

namespace tallies {
DeltaRead read_delta(const Plan& plan, const Slice& slice, std::size_t expert, float* out,
                     const Limits& limits, const Progress& progress) {
  std::vector<Job> one = {job_of(plan, slice)};
  one[0].outputs.clear();
  const std::vector<Source>& all = plan.sources[slice.job];
  const std::array<Source, 2> pair = {{all[0], all[expert + 1]}};
  const std::vector<Source> sources = only(one[0], pair);
  return run<Reader>(
      plan.files, one, limits, progress, std::vector<DeltaRead>(1),
      [&](const Tile& tile, Reader& reader, DeltaRead& part) {
        reader.for_each_rows(
            tile, sources, As::deltas, [&](const Rows& rows, std::size_t first, std::size_t n) {
              std::copy_n(rows.deltas[0], n, out + (tile.first - slice.first) + first);
              part.nonfinite |= count_set(NonFiniteMask(rows.deltas[0], n), n) > 0;
            });
        for (std::size_t i = 0; i < sources.size(); ++i)
          part.inputs[i] = fingerprint(tile, one[0], sources[i]);
      })[0];
}

Restored write_merged(const Plan& plan, const Slice& slice, const float* merged, float scale,
                      const Limits& limits, const Progress& progress) {
  std::vector<Job> one = {job_of(plan, slice)};
  std::vector<Source> sources = only(one[0], std::span(plan.sources[slice.job]).first(1));
  Source delta{.form = Source::Form::scaled};
  delta.array = static_cast<std::uint16_t>(one[0].inputs.size());
  // The place that the first element of the job would have.
  const std::uintptr_t begin =
      reinterpret_cast<std::uintptr_t>(merged) - slice.first * sizeof(float);
  one[0].inputs.push_back({-1, begin, 32});
  one[0].inputs.push_back({-1, reinterpret_cast<std::uintptr_t>(&scale), 32, kWhole});
  sources.push_back(delta);
  return restore({plan.files, one, {sources}, {plan.output_types[slice.job]}}, limits, progress)[0];
}

}  // namespace tallies
