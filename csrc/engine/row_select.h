// Magnitudes of one row by their ranks. NaN is the largest, whatever its payload.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace tallies {

// Writes the patterns of at most `most` magnitudes at even distances; returns how many.
std::size_t sample_magnitudes(const float* x, std::size_t n, std::size_t most,
                              std::int32_t* sample);

class RowSelect {
 public:
  // The bracket for a rank of the next row: around the magnitude that had the rank in the rows
  // before, or to one side of a magnitude that many entries share.
  struct Guess {
    std::int32_t bits = -1, reach = 1 << 20;
    bool looks_up = true, looks_down = true;
  };
  struct Found {
    std::int32_t bits;
    std::size_t n_above, n_equal;
  };

  // The rank-th largest magnitude, from 1 to n.
  Found find(const float* row, std::size_t n, std::size_t rank, Guess&);

 private:
  std::vector<std::uint32_t> inside_, others_;
};

}  // namespace tallies
