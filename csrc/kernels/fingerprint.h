// A content fingerprint that adds up over tiles in any order: eight 64-bit lanes, each the sum of
// products of the two halves of its words, keyed by position. Guards against accidents, not malice.
#pragma once

#include "kernels/lanes.h"

namespace tallies {
namespace {

typedef std::uint64_t U64s __attribute__((vector_size(64)));

TALLIES_INLINE U64s stripe_product(U64s words, std::uint64_t stripe) {
  // Odd constants of the splitmix64 generator; the lane number keeps equal words apart.
  const U64s lane = {1, 2, 3, 4, 5, 6, 7, 8};
  const U64s key = (stripe + lane * 0x9e3779b97f4a7c15u) * 0xbf58476d1ce4e5b9u;
  const U64s mixed = words ^ key;
  return (mixed & 0xffffffffu) * (mixed >> 32) + (words << 1 | words >> 63);
}

void fingerprint(const void* in, std::size_t n_bytes, std::uint64_t first, std::uint64_t lanes[8]) {
  const unsigned char* p = static_cast<const unsigned char*>(in);
  std::uint64_t stripe = first / 64;
  U64s sum{};
  for (; n_bytes >= 64; n_bytes -= 64, p += 64, ++stripe)
    sum = sum + stripe_product(load<U64s>(p), stripe);
  if (n_bytes > 0) {
    unsigned char last[64] = {};
    __builtin_memcpy(last, p, n_bytes);
    sum = sum + stripe_product(load<U64s>(last), stripe);
  }
  for (int lane = 0; lane < 8; ++lane) lanes[lane] += sum[lane];
}

}  // namespace
}  // namespace tallies
