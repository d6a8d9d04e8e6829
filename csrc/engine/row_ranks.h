// Ranks of the magnitudes of one row. NaN is the largest, whatever its payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tallies {

class RowRanks {
 public:
  // Ranks from 0 for the smallest magnitude, the lowest index first among equal ones; of zeros only
  // if one is -0.
  const std::int32_t* of(const float* row, std::size_t n);

 private:
  void rank_equal(const float* row, std::size_t n, std::int32_t large);
  void rank_distinct(const float* row, std::size_t n, std::int32_t middle);
  void sort(std::uint32_t* entries, std::size_t n) const;

  std::vector<std::uint32_t> patterns_, slots_, starts_, order_;
  std::vector<std::uint16_t> short_slots_;
  std::vector<std::int32_t> ranks_;
};

}  // namespace tallies
