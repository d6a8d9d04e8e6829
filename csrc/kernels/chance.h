// Random numbers that are a function of a key and of the number of the element, so that no tile,
// thread or device changes one. Reference: tests/reference/random.py.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// Two rounds of multiplication and shift, one half of the key before each: with one half alone two
// keys would give the same numbers in another order.
class Chances {
 public:
  // For elements from `first` up to the next multiple of 2^32.
  TALLIES_INLINE Chances(std::uint64_t key, std::uint64_t first) {
    key += (first >> 32) * 0x9e3779b97f4a7c15u;
    low_ = unsigned_of(all(static_cast<std::int32_t>(key)));
    high_ = unsigned_of(all(static_cast<std::int32_t>(key >> 32)));
  }
  // Whole numbers below kCertain, by the lower halves of the numbers of the elements.
  TALLIES_INLINE I32s of(U32s elements) const {
    U32s x = elements ^ low_;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = (x ^ (x >> 15) ^ high_) * 0xd35a2d97u;
    return signed_of((x ^ (x >> 15)) >> 2);
  }

 private:
  U32s low_, high_;
};

// The lower halves of the numbers of kLanes elements from `first` on.
TALLIES_INLINE U32s elements_from(std::uint64_t first) {
  return unsigned_of(lane_numbers()) + static_cast<std::uint32_t>(first);
}

}  // namespace
}  // namespace tallies
