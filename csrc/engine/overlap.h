// Surveys of all experts of an element together.
#pragma once

#include <string_view>

#include "engine/exact_sum.h"
#include "engine/tasks.h"

namespace tallies {

// Entries of each expert with bits(|delta|) > floor: those that no other expert has, and the rest.
// Those of two parts add up.
struct Overlap {
  static constexpr std::string_view kMark = "tallies overlap 1\n";
  std::vector<std::uint64_t> alone, shared;
  Overlap& operator+=(const Overlap&);
  bool is_valid() const { return alone.size() == shared.size(); }
};
template <class Archive>
void archive(Archive& bytes, Overlap& overlap) {
  bytes(overlap.alone, overlap.shared);
}

std::vector<Overlap> count_overlap(const Plan&, const std::vector<Slice>&, std::int32_t floor,
                                   const Limits&, const Progress&);

// Elements whose variance over the experts, as bits, exceeds the floor, and from the cutoff on, an
// element of the job, floor + 1; all elements with a floor below zero.
struct VarianceTask {
  Slice slice;
  std::int32_t floor;
  std::uint64_t cutoff;
};

// Sums of the squares of each expert's deltas over those elements; those of two parts add up.
struct SquareSums {
  static constexpr std::string_view kMark = "tallies squares 1\n";
  ExactSums sums;  // per expert
  SquareSums& operator+=(const SquareSums&);
  bool is_valid() const { return true; }
};
template <class Archive>
void archive(Archive& bytes, SquareSums& squares) {
  bytes(squares.sums);
}

// Stretches begin at chunks.
std::vector<SquareSums> sum_squares(const Plan&, const std::vector<VarianceTask>&, const Limits&,
                                    const Progress&);

}  // namespace tallies
