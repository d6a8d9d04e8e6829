// Cases that coverage guides, of libFuzzer.
#include "choices.h"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t n) {
  auto& choices = tallies::fuzz::choices;
  choices.is_guided = true;
  choices.data = data;
  choices.n_left = n;
  tallies::fuzz::one_case();
  return 0;
}
