// One tensor in memory, as callers with pointers describe it to the engine of a device.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <vector>

#include "core/dtype.h"
#include "core/rule.h"

namespace tallies {

struct View {
  const void* data;
  DType dtype;
};

// The entries of a task vector that a trim keeps: all, none, or those from the rank-th largest
// magnitude up, counted from 1.
struct Trim {
  std::uint64_t rank = 0;
  bool keep_all = false;
};

// Returns the trim of n elements to this density; Python has the same in `tallies.ranks`.
// `exactly` so many, the first among equal ones, and not all that reach the threshold; at least one
// of them with `at_least_one`.
inline Trim trim_to(std::uint64_t n, double density, bool exactly, bool at_least_one) {
  if (n == 0 || density >= 1) return {0, true};
  if (density <= 0) return {};
  auto k = static_cast<std::uint64_t>(static_cast<double>(n) * density);
  if (at_least_one && k == 0) k = 1;
  if (k >= n) return {0, true};
  return {exactly ? k : k + 1, false};
}

struct ArrayMerge {
  Rule rule;
  std::size_t n;
  const void* base;  // of base_type; null: the result is the scaled blend of deltas alone
  std::vector<View> experts;
  std::vector<float> weights;  // per expert
  std::vector<Trim> trims;     // per expert
  bool exactly;  // keeps only `rank` entries, the first of those that equal the threshold
  float scale;
  int zero_sign;  // of an exactly zero vote
  bool majority;  // that takes the majority of the elected signs, zero_sign when it is zero as well
  void* out;
  DType out_type;
  DType base_type;
  // Experts hold deltas, also where there is a base to add the blend to.
  bool are_deltas = false;
  // One byte an element and expert, 0 for entries that fail; empty if none do. With these, and with
  // deltas beside a base, nothing is ranked.
  std::vector<const std::uint8_t*> masks{};
  std::optional<float> divisor{};  // of Blend::mean; by default the sum of the weights
};

}  // namespace tallies
