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
  // From element `first` on; what follows must not pass a multiple of 2^32.
  TALLIES_INLINE Chances(std::uint64_t key, std::uint64_t first) {
    key += (first >> 32) * 0x9e3779b97f4a7c15u;
    low_ = unsigned_of(all(static_cast<std::int32_t>(key)));
    high_ = unsigned_of(all(static_cast<std::int32_t>(key >> 32)));
    I32s elements = all(0);
    for (int lane = 0; lane < kLanes; ++lane)
      set_lane(elements, lane,
               static_cast<std::int32_t>(static_cast<std::uint32_t>(first) +
                                         static_cast<std::uint32_t>(lane)));
    elements_ = unsigned_of(elements);
  }
  // Whole numbers below kCertain, of the elements from `first` + i on.
  TALLIES_INLINE I32s at(std::size_t i) const {
    U32s x = (elements_ + static_cast<std::uint32_t>(i)) ^ low_;
    x = (x ^ (x >> 16)) * 0x21f0aaadu;
    x = (x ^ (x >> 15) ^ high_) * 0xd35a2d97u;
    return signed_of((x ^ (x >> 15)) >> 2);
  }

 private:
  U32s low_, high_, elements_;
};

}  // namespace
}  // namespace tallies
