// The value of a change, and the element that the value makes; of single elements and of vectors.
#pragma once

#include "core/changes.h"
#include "kernels/lanes.h"

namespace tallies {
namespace {

template <Coding kCoding, class T>
TALLIES_INLINE T value_of(T before, T now) {
  if constexpr (kCoding == Coding::flip) return static_cast<T>(before ^ now);
  if constexpr (kCoding == Coding::difference) return static_cast<T>(now - before);
  return now;
}
template <Coding kCoding, class T>
TALLIES_INLINE T changed(T before, T value) {
  if constexpr (kCoding == Coding::flip) return static_cast<T>(before ^ value);
  if constexpr (kCoding == Coding::difference) return static_cast<T>(before + value);
  if constexpr (kCoding == Coding::undone) return static_cast<T>(before - value);
  return value;
}

}  // namespace
}  // namespace tallies
