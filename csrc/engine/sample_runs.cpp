#include "engine/sample_runs.h"

#include <algorithm>

namespace tallies {
namespace {

constexpr std::uint64_t kSampleShare = 128;  // one element in so many
constexpr std::uint64_t kMaxSample = 1 << 19;

}  // namespace

std::uint64_t sample_size(std::uint64_t n_all) {
  return std::clamp(n_all / kSampleShare, kSmallUnit / 4, kMaxSample);
}

std::size_t append_runs(const RankedUnits& ranked, std::size_t unit, std::size_t job,
                        std::uint64_t n_all, std::uint64_t wanted, std::vector<SampleRun>& runs) {
  const bool is_small = n_all <= kSmallUnit;
  const std::uint64_t every = n_all / (wanted / kRun);
  std::uint64_t next = every / 2, before = 0;
  std::size_t at = 0;
  const auto append = [&](std::uint64_t first, std::uint64_t n) {
    runs.push_back({job, first, static_cast<std::size_t>(n), at});
    at += static_cast<std::size_t>(n);
  };
  for (; job < ranked.jobs().size() && ranked.unit_of(job) == unit; ++job) {
    const Job& all = ranked.jobs()[job];
    if (is_small) append(all.first, all.n_elements);
    for (; !is_small && next < before + all.n_elements; next += every) {
      const std::uint64_t first = (next - before) / all.grain * all.grain;
      append(all.first + first, std::min<std::uint64_t>(kRun, all.n_elements - first));
    }
    before += all.n_elements;
  }
  return at;
}

}  // namespace tallies
