#include "stream/tiling.h"

#include <algorithm>
#include <bit>
#include <numeric>

namespace tallies {
namespace {

// Shorter reads cost more in calls than they gain in cache: cached files took 0.081 s of the
// processor a GB by 64 KiB, 0.066 by 128 KiB, and the kernels as long as in the cache.
constexpr std::size_t kShortestRead = std::size_t(128) << 10;
// With packed masks, 1 MiB over all arrays would hold 7 KB each: packing 8 experts took 0.60 s,
// with these tiles 0.51, and unpacking 0.13 and 0.11.
constexpr std::size_t kPackedTileBytes = std::size_t(4) << 20;

std::vector<std::size_t> all_of(const std::vector<Job>& jobs) {
  std::vector<std::size_t> order(jobs.size());
  std::iota(order.begin(), order.end(), 0);
  return order;
}

// Returns the output in a file that has the largest records, or null.
const Output* written(const Job& job) {
  const Output* largest = nullptr;
  for (const Output& output : job.outputs)
    if (output.file >= 0 && output.per == 1 &&
        (largest == nullptr || output.record_bits > largest->record_bits))
      largest = &output;
  return largest;
}

std::size_t unit_of(const Job& job) { return std::lcm(job.grain, job.unit); }

// Returns the elements of a job's tiles: as many as there is room for, or, where they are written
// to a file, the power of two of bytes next to it.
std::size_t tile_elements(const Job& job, const Limits& limits) {
  const std::size_t n_arrays = job.inputs.size() + job.outputs.size(), unit = unit_of(job);
  bool packed = false;
  // Memory takes no buffer, but its tiles should fit the cache as well.
  std::size_t per_grain = 0;
  const auto count = [&](const Array& array) {
    if (array.is_kept) return;
    packed |= array.record_bits < 8;
    per_grain += array.bytes_about(job.grain, job.n_elements);
  };
  for (const Array& array : job.inputs) count(array);
  for (const Array& array : job.outputs) count(array);
  per_grain = std::max<std::size_t>(per_grain, 1);
  const std::size_t room =
      std::min(limits.buffer_bytes,
               std::max(packed ? kPackedTileBytes : limits.tile_bytes, n_arrays * kShortestRead));
  const std::size_t n = std::max<std::size_t>(room / per_grain, 1) * job.grain;
  if (const Output* const output = written(job)) {
    std::size_t even = std::bit_floor(n * output->record_bits / 8) * 8 / output->record_bits;
    const bool fits = 2 * even / job.grain * per_grain <= limits.buffer_bytes;
    if (2 * even <= n + n / 3 && fits) even *= 2;
    if (even > 0 && even % unit == 0) return even;
  }
  return n < unit ? n : n / unit * unit;
}

// Returns the elements of n that a job's first tile lacks, so that the others begin at multiples of
// a power of two of the file that they are written to.
//
// Such pieces of a new file stay whole in the page cache, where others fall into many: 0.6 GB took
// 0.20 s of the processor a GB in pieces of 208 KiB from byte 3032 on, and 0.12 s in pieces of
// 256 KiB from multiples of 256 KiB on.
std::size_t lacking(const Job& job, std::size_t n) {
  const Output* const output = written(job);
  if (output == nullptr) return 0;
  const std::size_t n_bytes = n * output->record_bits / 8;
  if (!std::has_single_bit(n_bytes)) return 0;
  const std::uint64_t begin = output->offset + output->bytes(job.first, 1).first;
  const auto n_lacking = static_cast<std::size_t>(begin % n_bytes * 8 / output->record_bits);
  return n_lacking % unit_of(job) == 0 ? n_lacking : 0;
}

}  // namespace

std::size_t Job::n_rows() const {
  std::size_t n = 0;
  for (const Output& output : outputs) n = std::max(n, output.row + 1);
  return n;
}

std::size_t Job::moved_bytes(std::uint64_t from, std::size_t n) const {
  std::size_t n_bytes = 0;
  for (const Array& array : inputs)
    if (!array.is_kept) n_bytes += array.bytes_to_read(from, n).n;
  for (const Array& array : outputs) n_bytes += array.bytes(from, n).n;
  return n_bytes;
}

std::size_t Job::file_bytes(std::uint64_t from, std::size_t n) const {
  std::size_t n_bytes = 0;
  for (const Array& array : inputs)
    if (array.file >= 0 && !array.is_kept) n_bytes += array.bytes_to_read(from, n).n;
  return n_bytes;
}

int Limits::threads_for(std::size_t n_bytes) const {
  if (worth_bytes == 0) return n_threads;
  return static_cast<int>(
      std::clamp<std::size_t>(n_bytes / worth_bytes, 1, static_cast<std::size_t>(n_threads)));
}

Tiling::Tiling(const std::vector<Job>& jobs, const std::vector<std::size_t>& order,
               const Limits& limits)
    : jobs_(jobs), order_(order), first_tile_{0} {
  for (const std::size_t index : order) {
    const Job& job = jobs[index];
    const std::size_t n = tile_elements(job, limits);
    tile_elements_.push_back(n);
    const std::uint64_t reach = job.n_elements > 0 ? job.n_elements + lacking(job, n) : 0;
    first_tile_.push_back(first_tile_.back() + static_cast<std::size_t>((reach + n - 1) / n));
    max_elements_ = std::max(max_elements_,
                             static_cast<std::size_t>(std::min<std::uint64_t>(n, job.n_elements)));
  }
}

Tiling::Tiling(const std::vector<Job>& jobs, const Limits& limits)
    : Tiling(jobs, all_of(jobs), limits) {}

Tiling::Range Tiling::range(std::size_t tile) const {
  const auto after = std::upper_bound(first_tile_.begin(), first_tile_.end(), tile);
  const auto i = static_cast<std::size_t>(after - first_tile_.begin()) - 1;
  const Job& job = jobs_[order_[i]];
  const std::size_t n = tile_elements_[i];
  const std::uint64_t number = tile - first_tile_[i], n_lacking = lacking(job, n);
  const std::uint64_t begin = number == 0 ? 0 : number * n - n_lacking;
  const std::uint64_t end = std::min<std::uint64_t>((number + 1) * n - n_lacking, job.n_elements);
  return {order_[i], job.first + begin, static_cast<std::size_t>(end - begin)};
}

}  // namespace tallies
