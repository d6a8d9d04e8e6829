// The pass that compares: what the two inputs of each job differ in.
#pragma once

#include <algorithm>
#include <array>
#include <string_view>
#include <tuple>

#include "engine/exact_sum.h"
#include "engine/plan.h"

namespace tallies {

// The kind of elements that both inputs have. Whole numbers are stored plainly, of the size of the
// sources' type.
enum class Elements : std::uint8_t { floats, signed_integers, unsigned_integers };

// Compares a slice, which begins at a chunk of its job.
struct CompareTask {
  Slice slice;
  Elements elements;
};

// Numbers of how the elements of two tensors differ. Values are those in float32, or whole numbers;
// sums and all below are over the elements of which both values are finite.
struct Differences {
  static constexpr std::string_view kMark = "tallies differences 1\n";
  // By the stored bits where both inputs are plain and of one type, else by the float32 values'.
  std::uint64_t n_different = 0;
  std::uint64_t n_nonfinite = 0;  // elements that are infinite or NaN in either input
  std::uint64_t n_flips = 0;      // of opposite signs; zeros have none
  double largest = 0;             // |b - a|
  std::array<ExactSum, 4> sums;   // of a * a, a * b, b * b and (b - a)^2

  static auto fields(auto& part) {
    return std::tie(part.n_different, part.n_nonfinite, part.n_flips, part.largest, part.sums);
  }
  Differences& operator+=(const Differences&);
  bool is_valid() const { return largest >= 0; }
};

std::vector<Differences> compare(const Plan&, const std::vector<CompareTask>&, const Limits&,
                                 const Progress&);

}  // namespace tallies
