// Element types that are converted one at a time: they are rare, and read once from a disk that is
// slower.
#pragma once

#include "core/small_float.h"
#include "kernels/lanes.h"

namespace tallies {
namespace {

struct Float64 {
  using Word = double;
  static constexpr float widen(double x) { return static_cast<float>(x); }
  static constexpr double narrow(float x) {
    return x != x ? __builtin_nan("") : static_cast<double>(x);
  }
};
struct Float8E4M3 : E4M3 {
  using Word = std::uint8_t;
};
struct Float8E5M2 : E5M2 {
  using Word = std::uint8_t;
};

}  // namespace
}  // namespace tallies
