// What a harness does next: drawn from the bytes of a case, so that coverage can guide it, or at
// random.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

namespace tallies::fuzz {

using Bytes = std::vector<std::uint8_t>;

struct Choices {
  std::mt19937_64 rng;
  bool is_guided = false;
  const std::uint8_t* data = nullptr;  // of a case; zeros follow its bytes
  std::size_t n_left = 0;
};
inline Choices choices;

// Draws a number of so many bytes.
inline std::uint64_t draw(int n_bytes = 8) {
  if (!choices.is_guided) return choices.rng();
  std::uint64_t found = 0;
  for (; n_bytes > 0; --n_bytes, ++choices.data, --choices.n_left) {
    if (choices.n_left == 0) break;
    found = found << 8 | *choices.data;
  }
  return found;
}

inline std::uint64_t below(std::uint64_t n) {
  return n == 0 ? 0 : draw(n <= 256 ? 1 : n <= 65536 ? 2 : 8) % n;
}

// Makes values, on whose bits no branch depends: a case says only with which they begin.
inline Bytes random_bytes(std::size_t n) {
  Bytes found(n);
  std::uint64_t state = draw(2) | 1;
  for (auto& byte : found) {
    state = state * 6364136223846793005u + 1442695040888963407u;
    byte = static_cast<std::uint8_t>(state >> 56);
  }
  found.shrink_to_fit();
  return found;
}

inline void require(bool is_right, const char* what) {
  if (is_right) return;
  std::fprintf(stderr, "FINDING: %s\n", what);
  std::abort();
}

void try_changes();
void try_fields();
void try_source();

inline void one_case() {
  switch (below(8)) {
    case 0:
      return try_fields();
    case 1:
    case 2:
      return try_source();
    default:
      return try_changes();
  }
}

}  // namespace tallies::fuzz
