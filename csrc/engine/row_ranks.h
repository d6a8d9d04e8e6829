// Ranks of the magnitudes of one row. NaN is the largest, whatever its payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tallies {

class RowRanks {
 public:
  // The magnitude of one rank in rows that are looked at one after the other.
  struct Guess {
    std::int32_t bits = -1, reach = 1 << 20;
    bool is_shared = false;  // by many entries of the row before
  };
  struct Found {
    std::int32_t bits;
    std::size_t n_above, n_equal;
  };

  // The rank-th largest magnitude, from 1 to n, looked for first where the row before had it.
  Found select(const float* row, std::size_t n, std::size_t rank, Guess&);

  // Ranks from 0 for the smallest magnitude, the lowest index first among equal ones.
  const std::int32_t* all(const float* row, std::size_t n);

 private:
  std::vector<std::uint32_t> patterns_, others_, bins_;
  std::vector<std::uint64_t> sorted_;
  std::vector<std::int32_t> bin_of_, ranks_;
};

}  // namespace tallies
