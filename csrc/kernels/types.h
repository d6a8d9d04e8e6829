// All element types, for tables that have a kernel for each.
#pragma once

#include "core/small_float.h"
#include "kernels/half.h"

namespace tallies {
namespace {

// A type whose numbers are converted one at a time: it is rare, and read once from a disk that is
// slower.
template <DType kType, Format kFormat = format_of(kType)>
struct ScalarType
    : SmallFloat<kFormat.n_exponent_bits, kFormat.n_mantissa_bits, kFormat.has_infinity> {
  static_assert(kFormat.n_bytes == 1);
  using Word = std::uint8_t;
  static constexpr DType kDType = kType;
};
template <>
struct ScalarType<DType::f64> {
  using Word = double;
  static constexpr DType kDType = DType::f64;
  static constexpr float widen(double x) { return static_cast<float>(x); }
  static constexpr double narrow(float x) {
    return x != x ? __builtin_nan("") : static_cast<double>(x);
  }
};

// The index of a type in a table of kernels.
template <class T>
constexpr int kIndex = static_cast<int>(T::kDType);

// Calls body.operator()<T>() for each type that the fused kernels read and write.
template <class Body>
constexpr void for_each_fused_type(const Body& body) {
  body.template operator()<Float32>();
  body.template operator()<BFloat16>();
  body.template operator()<Float16>();
}

// Calls body.operator()<T>() for each of the other types.
template <int kFirst = kFusedDTypes, class Body>
constexpr void for_each_scalar_type(const Body& body) {
  if constexpr (kFirst < kDTypes) {
    body.template operator()<ScalarType<static_cast<DType>(kFirst)>>();
    for_each_scalar_type<kFirst + 1>(body);
  }
}

}  // namespace
}  // namespace tallies
