// decoders SECONDS SEED: cases at random.
#include <chrono>

#include "choices.h"

int main(int, char** arguments) {
  const double seconds = std::atof(arguments[1]);
  tallies::fuzz::choices.rng.seed(std::strtoull(arguments[2], nullptr, 10));
  std::uint64_t n = 0;
  const auto begin = std::chrono::steady_clock::now();
  do {
    for (int k = 0; k < 1000; ++k, ++n) tallies::fuzz::one_case();
  } while (std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count() <
           seconds);
  std::printf("native: %llu executions, 0 findings\n", static_cast<unsigned long long>(n));
}
