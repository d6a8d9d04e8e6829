#include "engine/rewrite.h"

#include <algorithm>
#include <cstring>

namespace tallies {
namespace {

// Stripes with fewer bytes between them are read and written at once.
constexpr std::uint64_t kJoined = 2048;

void rewrite(const Plan& plan, const Output& output, std::size_t element_bytes, const Range& tile,
             std::span<const std::uint32_t> at, const ChangeElement& change, Lanes& fingerprint) {
  const std::uint64_t tile_end = (tile.first + tile.second) * element_bytes;
  const auto byte_of = [&](std::size_t i) { return (tile.first + at[i]) * element_bytes; };
  std::vector<char> bytes;
  for (std::size_t begin = 0, end; begin < at.size(); begin = end) {
    const std::uint64_t from = byte_of(begin) / kStripe * kStripe;
    std::uint64_t to = from;
    for (end = begin; end < at.size(); ++end) {
      const std::uint64_t stripe = byte_of(end) / kStripe * kStripe;
      if (stripe > to + kJoined) break;
      to = stripe + kStripe;
    }
    const auto n = static_cast<std::size_t>(std::min(to, tile_end) - from);
    bytes.resize(n);
    char* const in_memory = reinterpret_cast<char*>(output.offset + from);
    if (output.file < 0)
      std::memcpy(bytes.data(), in_memory, n);
    else
      plan.files.read(output.file, bytes.data(), n, output.offset + from);
    Lanes before{}, after{};
    kernels().fingerprint(bytes.data(), n, from, before.data());
    for (std::size_t i = begin; i < end; ++i) change(bytes.data() + (byte_of(i) - from), i);
    kernels().fingerprint(bytes.data(), n, from, after.data());
    for (std::size_t lane = 0; lane < fingerprint.size(); ++lane)
      fingerprint[lane] += after[lane] - before[lane];
    if (output.file < 0)
      std::memcpy(in_memory, bytes.data(), n);
    else
      plan.files.write(output.file, bytes.data(), n, output.offset + from);
  }
}

}  // namespace

void rewrite(const Plan& plan, std::size_t job, std::size_t row, const Range& tile,
             std::span<const std::uint32_t> at, const ChangeElement& change, Lanes& fingerprint) {
  bool is_first = true;
  for (const Output& output : plan.jobs[job].outputs) {
    if (output.row != row) continue;
    Lanes of_copy = fingerprint;
    rewrite(plan, output, size_of(plan.output_types[job]), tile, at, change,
            is_first ? fingerprint : of_copy);
    is_first = false;
  }
}

}  // namespace tallies
