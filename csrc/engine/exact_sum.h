// A sum of float64 values without rounding until it is read, so that the order in which tiles
// finish changes no bit of it.
#pragma once

#include <array>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <tuple>
#include <vector>

namespace tallies {

// Fixed point over the whole range of float64, in two's complement: 2^-1074 is bit 0. The highest
// limbs leave room for 2^64 terms.
class ExactSum {
 public:
  ExactSum& operator+=(double x) {
    if (!std::isfinite(x)) {
      special_ += x;
      return *this;
    }
    const auto bits = std::bit_cast<std::uint64_t>(x);
    const std::uint64_t exponent = bits >> 52 & 0x7ff, fraction = bits & ((1ull << 52) - 1);
    const std::uint64_t mantissa = exponent == 0 ? fraction : fraction | 1ull << 52;
    const std::uint64_t place = exponent == 0 ? 0 : exponent - 1;
    const auto wide = static_cast<unsigned __int128>(mantissa) << (place % 64);
    add_limbs(static_cast<std::size_t>(place / 64), static_cast<std::uint64_t>(wide),
              static_cast<std::uint64_t>(wide >> 64), x < 0);
    return *this;
  }

  ExactSum& operator+=(const ExactSum& other) {
    unsigned carry = 0;
    for (std::size_t i = 0; i < kLimbs; ++i) carry = add_one(i, other.limbs_[i], carry);
    special_ += other.special_;
    return *this;
  }

  static auto fields(auto& sum) { return std::tie(sum.limbs_, sum.special_); }

  // Returns the exact sum, rounded once to nearest even; one NaN whatever the terms' were.
  double value() const {
    if (std::isnan(special_)) return std::numeric_limits<double>::quiet_NaN();
    if (special_ != 0) return special_;
    const bool negative = limbs_[kLimbs - 1] >> 63;
    std::array<std::uint64_t, kLimbs> size = limbs_;
    if (negative) {
      std::uint64_t carry = 1;
      for (std::uint64_t& limb : size) {
        limb = ~limb + carry;
        carry = carry && limb == 0;
      }
    }
    std::size_t top = kLimbs;
    while (top > 0 && size[top - 1] == 0) --top;
    if (top < 2) return std::ldexp(static_cast<double>(size[0]), -1074) * (negative ? -1 : 1);
    // At least 65 bits, the last of which stands for all below them.
    auto wide = static_cast<unsigned __int128>(size[top - 1]) << 64 | size[top - 2];
    for (std::size_t i = 0; i + 2 < top; ++i) wide |= size[i] != 0;
    const double sum = std::ldexp(static_cast<double>(wide), static_cast<int>(top - 2) * 64 - 1074);
    return negative ? -sum : sum;
  }

 private:
  static constexpr std::size_t kLimbs = 35;

  unsigned add_one(std::size_t i, std::uint64_t term, unsigned carry) {
    const unsigned __int128 sum = static_cast<unsigned __int128>(limbs_[i]) + term + carry;
    limbs_[i] = static_cast<std::uint64_t>(sum);
    return static_cast<unsigned>(sum >> 64);
  }

  void add_limbs(std::size_t at, std::uint64_t low, std::uint64_t high, bool negative) {
    if (!negative) {
      unsigned carry = add_one(at, low, 0);
      carry = add_one(at + 1, high, carry);
      for (std::size_t i = at + 2; carry != 0 && i < kLimbs; ++i) carry = add_one(i, 0, carry);
      return;
    }
    // Adds the complement, whose limbs above the two are all ones: with a carry they change
    // nothing.
    unsigned carry = add_one(at, ~low, 1);
    carry = add_one(at + 1, ~high, carry);
    for (std::size_t i = at + 2; carry == 0 && i < kLimbs; ++i)
      carry = add_one(i, ~std::uint64_t(0), carry);
  }

  std::array<std::uint64_t, kLimbs> limbs_{};
  double special_ = 0;
};

using ExactSums = std::vector<ExactSum>;

inline std::vector<double> values(const ExactSums& sums) {
  std::vector<double> values;
  for (const ExactSum& sum : sums) values.push_back(sum.value());
  return values;
}

}  // namespace tallies
