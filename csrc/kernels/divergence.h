// The divergence of two rows as distributions: the arithmetic of exp and log is fixed, so that
// every target gives the same bits. Reference: tests/reference/arcee_fusion.py.
#pragma once

#include "core/table.h"
#include "kernels/lanes.h"

namespace tallies {
namespace {

// For y <= 0, within 2 units in the last place; below -700, that of -700. NaN is NaN.
TALLIES_INLINE double exp_of(double y) {
  y = y < -700.0 ? -700.0 : y;
  // The sum's last bit is worth 1, so that it rounds to a whole number, which its pattern holds.
  constexpr double kShifter = 0x1.8p52;
  const double shifted = y * 0x1.71547652b82fep+0 + kShifter, k = shifted - kShifter;
  const double r = (y - k * 0x1.62e42fefa0000p-1) - k * 0x1.cf79abc9e3b3ap-40;
  double p = 1.0 / 6227020800;
  p = p * r + 1.0 / 479001600;
  p = p * r + 1.0 / 39916800;
  p = p * r + 1.0 / 3628800;
  p = p * r + 1.0 / 362880;
  p = p * r + 1.0 / 40320;
  p = p * r + 1.0 / 5040;
  p = p * r + 1.0 / 720;
  p = p * r + 1.0 / 120;
  p = p * r + 1.0 / 24;
  p = p * r + 1.0 / 6;
  p = p * r + 0.5;
  p = p * r + 1.0;
  p = p * r + 1.0;
  const std::int64_t exponent =
      __builtin_bit_cast(std::int64_t, shifted) - __builtin_bit_cast(std::int64_t, kShifter) + 1023;
  return p * __builtin_bit_cast(double, exponent << 52);
}

// For positive normal numbers, within 2 units in the last place; NaN is NaN.
TALLIES_INLINE double log_of(double z) {
  const std::int64_t bits = __builtin_bit_cast(std::int64_t, z);
  const std::int64_t e = (bits - __builtin_bit_cast(std::int64_t, 0x1.6a09e667f3bcdp-1)) >> 52;
  const double f = __builtin_bit_cast(double, bits - (e << 52)) - 1.0;
  const double s = f / (2.0 + f), square = s * s;
  double p = 2.0 / 23;
  p = p * square + 2.0 / 21;
  p = p * square + 2.0 / 19;
  p = p * square + 2.0 / 17;
  p = p * square + 2.0 / 15;
  p = p * square + 2.0 / 13;
  p = p * square + 2.0 / 11;
  p = p * square + 2.0 / 9;
  p = p * square + 2.0 / 7;
  p = p * square + 2.0 / 5;
  p = p * square + 2.0 / 3;
  const double near = p * square * s + 2.0 * s;
  const double wide = static_cast<double>(e);
  const double sum = wide * 0x1.62e42fefa0000p-1 + (near + wide * 0x1.cf79abc9e3b3ap-40);
  return z == z ? sum : z;
}

// The sum in eight lanes, element i in lane i % 8.
TALLIES_INLINE double lane_sum(const double* x, std::size_t n) {
  double lanes[8] = {};
  std::size_t i = 0;
  for (; i + 8 <= n; i += 8)
    for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] = lanes[lane] + x[i + lane];
  for (; i < n; ++i) lanes[i % 8] = lanes[i % 8] + x[i];
  return sum_of_lanes(lanes);
}

// out = exp(x - max x), and the sum.
inline double exponentials(const float* x, std::size_t n, double* out) {
  float most = x[0];
  for (std::size_t i = 1; i < n; ++i) most = most < x[i] ? x[i] : most;
  for (std::size_t i = 0; i < n; ++i)
    out[i] = exp_of(static_cast<double>(x[i]) - static_cast<double>(most));
  return lane_sum(out, n);
}

double divergence(const float* x, const float* y, std::size_t n, double* room) {
  constexpr double kLeast = 1e-8;
  double* const p = room;
  double* const q = room + n;
  const double sum_p = exponentials(x, n, p), sum_q = exponentials(y, n, q);
  for (std::size_t i = 0; i < n; ++i) {
    const double a = p[i] / sum_p + kLeast, b = q[i] / sum_q + kLeast;
    p[i] = a * log_of(a / b);
  }
  const double sum = lane_sum(p, n);
  return sum < 0 ? 0 : sum;
}

}  // namespace
}  // namespace tallies
