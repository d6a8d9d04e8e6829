// The places of the values of a job: runs of records, in open files or in memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

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

// The rows of stored records that an array is made of; a negative number is a row of zeros.
using RowNumbers = std::shared_ptr<const std::vector<std::int64_t>>;

// A run of records.
struct Array {
  int file;                   // an open file; -1: memory that outlives the run
  std::uint64_t offset;       // of the first record: in the file, or its address
  std::uint64_t record_bits;  // 1 in packed masks
  std::uint64_t per = 1;      // elements of the job that share a record
  // Records of a sparse array, empty for others: group g, of `per` elements, has the records
  // from starts[g] to starts[g + 1].
  std::span<const std::uint64_t> starts = {};
  // Elements before the job's first, where the job is the rest of a larger array; `begin` and
  // `end`, between which elements have records, count them.
  std::uint64_t before = 0, begin = 0, end = kWhole;
  // Records of many elements, which a worker keeps from one tile to the next.
  bool is_kept = false;
  // Null where all records lie in order: else row r of the array, of `row_records` records, is the
  // stored row (*rows)[r].
  RowNumbers rows = {};
  std::uint64_t row_records = 1;

  bool is_sparse() const { return !starts.empty(); }
  // Records in order in memory are used where they lie.
  bool is_copied() const { return file >= 0 || rows; }

  // Calls body(at, n, from) for the stretches of a range of bytes whose records lie in order: n
  // bytes, `at` bytes into the range, that are stored `from` bytes behind the offset; kWhole for
  // zeros.
  template <class Body>
  void for_each_stretch(Bytes bytes, const Body& body) const {
    if (!rows || bytes.n == 0) return body(std::size_t(0), bytes.n, bytes.first);
    const std::uint64_t row_bytes = row_records * record_bits / 8;
    const std::uint64_t end = bytes.first + bytes.n;
    for (std::uint64_t first = bytes.first, next; first < end; first = next) {
      const std::uint64_t row = first / row_bytes;
      const std::int64_t stored = (*rows)[row];
      std::uint64_t behind = row + 1;
      const auto goes_on = [&] {
        if (stored < 0) return (*rows)[behind] < 0;
        return (*rows)[behind] == stored + static_cast<std::int64_t>(behind - row);
      };
      while (behind * row_bytes < end && goes_on()) ++behind;
      next = std::min(behind * row_bytes, end);
      const std::uint64_t from =
          stored < 0 ? kWhole : static_cast<std::uint64_t>(stored) * row_bytes + first % row_bytes;
      body(static_cast<std::size_t>(first - bytes.first), static_cast<std::size_t>(next - first),
           from);
    }
  }

  // Return the bytes of the records that n elements from `first` on need. In a packed mask `first`
  // is a multiple of 8, in a sparse array one of `per` unless a group has one record at most.
  Bytes bytes(std::uint64_t first, std::uint64_t n) const {
    const std::uint64_t from = std::max(first + before, begin);
    const std::uint64_t to = std::min(first + before + n, end);
    if (n == 0 || from >= to) return {0, 0};
    first = from - begin;
    n = to - from;
    const std::uint64_t low = first / per, high = (first + n - 1) / per + 1;
    return is_sparse() ? bytes_of(starts[low], starts[high]) : bytes_of(low, high);
  }

  // Return the bytes to read for n elements. A sparse array is read to the end of the stripe in
  // which the records end, so that a fingerprint can count each stripe where it begins.
  Bytes bytes_to_read(std::uint64_t first, std::uint64_t n) const {
    const Bytes needed = bytes(first, n);
    if (!is_sparse()) return needed;
    const std::uint64_t stripes = (needed.first + needed.n + kStripe - 1) / kStripe * kStripe;
    const std::uint64_t all = bytes_of(0, starts.back()).n;
    return {needed.first, static_cast<std::size_t>(std::min(stripes, all) - needed.first)};
  }

  // Estimate the bytes that n of the job's n_job elements need.
  std::size_t bytes_about(std::uint64_t n, std::uint64_t n_job) const {
    if (per == 1 && !is_sparse()) return bytes_of(0, n).n;
    const double n_records = is_sparse()
                                 ? static_cast<double>(starts.back()) /
                                       static_cast<double>(std::max<std::uint64_t>(n_job, 1))
                                 : 1.0 / static_cast<double>(per);
    return static_cast<std::size_t>(static_cast<double>(n) * n_records *
                                    static_cast<double>(record_bits) / 8);
  }

 private:
  Bytes bytes_of(std::uint64_t low, std::uint64_t high) const {
    return {low * record_bits / 8, static_cast<std::size_t>(((high - low) * record_bits + 7) / 8)};
  }
};

}  // namespace tallies
