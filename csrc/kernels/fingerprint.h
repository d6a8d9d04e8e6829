// A content fingerprint that adds up over tiles in any order: eight 64-bit lanes, each the sum over
// stripes of 64 bytes of a product of the word's halves, keyed by position. Guards against
// accidents, not malice.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

// Odd constants of the splitmix64 generator: one tells stripes apart, the other lanes.
constexpr std::uint64_t kStripeKey = 0xbf58476d1ce4e5b9u;
constexpr std::uint64_t kLaneKey = 0x9e3779b97f4a7c15u;

void fingerprint(const void* in, std::size_t n_bytes, std::uint64_t first, std::uint64_t lanes[8]) {
  constexpr std::size_t kWords = sizeof(U64s) / 8, kVectors = 8 / kWords;
  const unsigned char* p = static_cast<const unsigned char*>(in);
  U64s key[kVectors], sum[kVectors] = {};
  for (std::size_t lane = 0; lane < 8; ++lane)
    key[lane / kWords][lane % kWords] = first / 64 * kStripeKey + (lane + 1) * kLaneKey;
  const auto add_stripe = TALLIES_LAMBDA(const unsigned char* stripe) {
    for (std::size_t v = 0; v < kVectors; ++v) {
      const U64s words = load<U64s>(stripe + v * sizeof(U64s));
      sum[v] = sum[v] + product_of_halves(words ^ key[v]) + (words << 1 | words >> 63);
      key[v] = key[v] + kStripeKey;
    }
  };
  for (; n_bytes >= 64; n_bytes -= 64, p += 64) add_stripe(p);
  if (n_bytes > 0) {
    unsigned char last[64] = {};
    __builtin_memcpy(last, p, n_bytes);
    add_stripe(last);
  }
  for (std::size_t lane = 0; lane < 8; ++lane) lanes[lane] += sum[lane / kWords][lane % kWords];
}

}  // namespace
}  // namespace tallies
