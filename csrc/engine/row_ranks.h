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
  void rank_equal(const float* row, std::size_t n, std::int32_t largest);
  void rank_distinct(const float* row, std::size_t n, std::int32_t middle);
  bool is_before(std::uint32_t a, std::uint32_t b) const {
    return patterns_[a] < patterns_[b] || (patterns_[a] == patterns_[b] && a < b);
  }

  std::vector<std::uint32_t> patterns_, others_, slots_, starts_;
  std::vector<std::int32_t> ranks_;
};

}  // namespace tallies
