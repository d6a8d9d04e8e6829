// The places of the values of a job: runs of records, in open files or in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

namespace tallies {

// As Array::per: one record for all elements of the job.
inline constexpr std::uint64_t kWhole = ~std::uint64_t(0);
// Bytes that a fingerprint counts together.
inline constexpr std::uint64_t kStripe = 64;

// A range of the bytes of an array, counted from its first record.
struct Bytes {
  std::uint64_t first;
  std::size_t n;
};

// A run of records.
struct Array {
  int file;                   // an open file; -1: memory that outlives the run
  std::uint64_t offset;       // of the first record: in the file, or its address
  std::uint32_t record_bits;  // 1 in packed masks
  std::uint64_t per = 1;      // elements of the job that share a record
  // Records of a sparse array, empty for others: group g, of `per` elements, has the records
  // from starts[g] to starts[g + 1].
  std::span<const std::uint64_t> starts = {};

  bool is_sparse() const { return !starts.empty(); }

  // Return the bytes of the records that n elements from `first` on need. In a packed mask `first`
  // is a multiple of 8, in a sparse array one of `per`.
  Bytes bytes(std::uint64_t first, std::uint64_t n) const {
    if (n == 0) return {0, 0};
    if (per == 1) return bytes_of(first, first + n);
    const std::uint64_t begin = first / per, end = (first + n - 1) / per + 1;
    return is_sparse() ? bytes_of(starts[begin], starts[end]) : bytes_of(begin, end);
  }

  // Return the bytes to read for n elements. A sparse array is read to the end of the stripe in
  // which the records end, so that a fingerprint can count each stripe where it begins.
  Bytes bytes_to_read(std::uint64_t first, std::uint64_t n) const {
    const Bytes needed = bytes(first, n);
    if (!is_sparse()) return needed;
    const std::uint64_t end = (needed.first + needed.n + kStripe - 1) / kStripe * kStripe;
    const std::uint64_t all = bytes_of(0, starts.back()).n;
    return {needed.first, static_cast<std::size_t>(std::min(end, all) - needed.first)};
  }

  // Estimate the bytes that n of the job's n_job elements need.
  std::size_t bytes_about(std::uint64_t n, std::uint64_t n_job) const {
    if (per == 1) return bytes(0, n).n;
    const double n_records = is_sparse()
                                 ? static_cast<double>(starts.back()) /
                                       static_cast<double>(std::max<std::uint64_t>(n_job, 1))
                                 : 1.0 / static_cast<double>(per);
    return static_cast<std::size_t>(static_cast<double>(n) * n_records * record_bits / 8);
  }

 private:
  Bytes bytes_of(std::uint64_t begin, std::uint64_t end) const {
    return {begin * record_bits / 8,
            static_cast<std::size_t>(((end - begin) * record_bits + 7) / 8)};
  }
};

}  // namespace tallies
